-- Restore the tables without the rules. Repairs stay; the origins of forks are lost.
-- data-loss: ok

COMMENT ON COLUMN messages.conversation_id IS 'Conversation that the message belongs to';
COMMENT ON COLUMN messages.position IS 'Position within the conversation, counted from 1 without gaps';
COMMENT ON COLUMN messages.parent_id IS 'Message that this one answers, for branches of a conversation';
COMMENT ON COLUMN event_streams.id IS 'Primary key: a UUIDv7 by default, or the id that the caller gave';
COMMENT ON COLUMN event_streams.stream_id IS 'Unique name of the stream, as the publisher gives it';
COMMENT ON COLUMN stream_events.sequence IS 'Position within the stream, counted from 1';
COMMENT ON COLUMN stream_events.updated_at IS 'Time of the last UPDATE';
COMMENT ON COLUMN ticket_tasks.position IS 'Position within the ticket, counted from 1; by default after the last step';

DROP TRIGGER move_ticket_task ON ticket_tasks;
DROP TRIGGER check_message_parent ON messages;
DROP TRIGGER raise_message_count ON messages;
DROP TRIGGER lock_message_count ON messages;
DROP TRIGGER keep_position ON messages;
DROP TRIGGER keep_conversation ON messages;
DROP FUNCTION trigger_check_message_parent();
DROP FUNCTION trigger_raise_message_count();
DROP FUNCTION trigger_lock_message_count();
DROP TRIGGER raise_last_sequence ON stream_events;
DROP TRIGGER lock_last_sequence ON stream_events;
DROP TRIGGER keep_event ON stream_events;
DROP FUNCTION trigger_raise_last_sequence();
DROP FUNCTION trigger_lock_last_sequence();
CREATE TRIGGER set_timestamp BEFORE UPDATE ON stream_events FOR EACH ROW EXECUTE FUNCTION trigger_set_timestamp();
DROP TRIGGER check_last_sequence ON event_streams;
DROP TRIGGER keep_stream_id ON event_streams;
DROP TRIGGER keep_id ON event_streams;
DROP FUNCTION trigger_check_last_sequence();
DROP TRIGGER check_message_count ON conversations;
DROP TRIGGER keep_forked_at_position ON conversations;
DROP TRIGGER keep_forked_from ON conversations;
DROP FUNCTION trigger_check_message_count();
ALTER TABLE conversations DROP COLUMN forked_from_id, DROP COLUMN forked_at_position;
