-- Counters that no statement can leave behind their rows, places and events that never change, threads that stay in their
-- conversation, forks that know their origin, and tasks that move to another ticket.

-- ---- Repairs of what was possible until now ----

-- A counter below its rows, left by a row that was moved or by a changed counter: every append after it failed.
UPDATE conversations c
   SET message_count = counted.last
  FROM (SELECT conversation_id, max(position) AS last FROM messages GROUP BY conversation_id) AS counted
 WHERE c.id = counted.conversation_id AND c.message_count < counted.last;
UPDATE event_streams s
   SET last_sequence = counted.last
  FROM (SELECT stream_id, max(sequence) AS last FROM stream_events GROUP BY stream_id) AS counted
 WHERE s.stream_id = counted.stream_id AND s.last_sequence < counted.last;
-- A parent in another conversation.
UPDATE messages m
   SET parent_id = NULL
  FROM messages parent
 WHERE parent.id = m.parent_id AND parent.conversation_id <> m.conversation_id;

-- ---- Forks know their origin ----

ALTER TABLE conversations
    ADD COLUMN forked_from_id uuid,
    ADD COLUMN forked_at_position integer,
    ADD CONSTRAINT conversations_forked_from_id_fkey
        FOREIGN KEY (forked_from_id) REFERENCES conversations (id) ON DELETE SET NULL,
    ADD CONSTRAINT conversations_forked_at_position_check CHECK (forked_at_position >= 0),
    ADD CONSTRAINT conversations_fork_of_another CHECK (forked_from_id <> id),
    ADD CONSTRAINT conversations_fork_at_position CHECK (forked_from_id IS NULL OR forked_at_position IS NOT NULL);
COMMENT ON COLUMN conversations.forked_from_id IS 'Conversation that this one is a fork of; null after it was deleted';
COMMENT ON COLUMN conversations.forked_at_position IS 'Last position of the origin that the fork copied; null if it is no fork';
CREATE INDEX conversations_forked_from_id_idx ON conversations (forked_from_id, id);
CREATE TRIGGER keep_forked_from BEFORE UPDATE OF forked_from_id ON conversations
    FOR EACH ROW WHEN (NEW.forked_from_id IS DISTINCT FROM OLD.forked_from_id AND NEW.forked_from_id IS NOT NULL)
    EXECUTE FUNCTION trigger_refuse_change('forked_from_id', 'fork the other conversation instead');
CREATE TRIGGER keep_forked_at_position BEFORE UPDATE OF forked_at_position ON conversations
    FOR EACH ROW WHEN (NEW.forked_at_position IS DISTINCT FROM OLD.forked_at_position)
    EXECUTE FUNCTION trigger_refuse_change('forked_at_position', 'fork the origin again at the other position');

-- ---- Counters follow their rows ----

CREATE FUNCTION trigger_check_message_count() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.message_count < OLD.message_count
       OR NOT EXISTS (SELECT FROM messages WHERE conversation_id = NEW.id AND position = NEW.message_count) THEN
        RAISE EXCEPTION 'message_count of row % cannot change from % to %', NEW.id, OLD.message_count, NEW.message_count
            USING ERRCODE = 'AS001', TABLE = 'conversations', COLUMN = 'message_count',
                  CONSTRAINT = 'conversations_message_count_follows_messages',
                  HINT = 'insert the message, and the count follows';
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER check_message_count AFTER UPDATE OF message_count ON conversations
    FOR EACH ROW WHEN (NEW.message_count <> OLD.message_count) EXECUTE FUNCTION trigger_check_message_count();

CREATE FUNCTION trigger_lock_message_count() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.position > (SELECT message_count FROM conversations WHERE id = NEW.conversation_id) THEN
        PERFORM FROM conversations WHERE id = NEW.conversation_id FOR NO KEY UPDATE;
        PERFORM set_config('agent_storage.raise_counters', 'on', true);
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER lock_message_count BEFORE INSERT ON messages FOR EACH ROW EXECUTE FUNCTION trigger_lock_message_count();
CREATE FUNCTION trigger_raise_message_count() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.position > (SELECT message_count FROM conversations WHERE id = NEW.conversation_id) THEN
        UPDATE conversations c
           SET message_count = last.position, last_message_at = greatest(c.last_message_at, last.created_at)
          FROM (SELECT position, created_at FROM messages
                 WHERE conversation_id = NEW.conversation_id ORDER BY position DESC LIMIT 1) AS last
         WHERE c.id = NEW.conversation_id AND c.message_count < last.position;
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER raise_message_count AFTER INSERT ON messages
    FOR EACH ROW WHEN (current_setting('agent_storage.raise_counters', true) = 'on')
    EXECUTE FUNCTION trigger_raise_message_count();

CREATE FUNCTION trigger_check_last_sequence() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.last_sequence < OLD.last_sequence
       OR NOT EXISTS (SELECT FROM stream_events WHERE stream_id = NEW.stream_id AND sequence = NEW.last_sequence) THEN
        RAISE EXCEPTION 'last_sequence of row % cannot change from % to %', NEW.id, OLD.last_sequence, NEW.last_sequence
            USING ERRCODE = 'AS001', TABLE = 'event_streams', COLUMN = 'last_sequence',
                  CONSTRAINT = 'event_streams_last_sequence_follows_events',
                  HINT = 'insert the event, and the sequence follows; delete the stream to begin again';
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER check_last_sequence AFTER UPDATE OF last_sequence ON event_streams
    FOR EACH ROW WHEN (NEW.last_sequence <> OLD.last_sequence) EXECUTE FUNCTION trigger_check_last_sequence();

CREATE FUNCTION trigger_lock_last_sequence() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.sequence > (SELECT last_sequence FROM event_streams WHERE stream_id = NEW.stream_id) THEN
        PERFORM FROM event_streams WHERE stream_id = NEW.stream_id FOR NO KEY UPDATE;
        PERFORM set_config('agent_storage.raise_counters', 'on', true);
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER lock_last_sequence BEFORE INSERT ON stream_events
    FOR EACH ROW EXECUTE FUNCTION trigger_lock_last_sequence();
CREATE FUNCTION trigger_raise_last_sequence() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.sequence > (SELECT last_sequence FROM event_streams WHERE stream_id = NEW.stream_id) THEN
        UPDATE event_streams s
           SET last_sequence = last.sequence
          FROM (SELECT sequence FROM stream_events
                 WHERE stream_id = NEW.stream_id ORDER BY sequence DESC LIMIT 1) AS last
         WHERE s.stream_id = NEW.stream_id AND s.last_sequence < last.sequence;
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER raise_last_sequence AFTER INSERT ON stream_events
    FOR EACH ROW WHEN (current_setting('agent_storage.raise_counters', true) = 'on')
    EXECUTE FUNCTION trigger_raise_last_sequence();

-- ---- Places and events never change ----

CREATE TRIGGER keep_conversation BEFORE UPDATE OF conversation_id ON messages
    FOR EACH ROW WHEN (NEW.conversation_id <> OLD.conversation_id)
    EXECUTE FUNCTION trigger_refuse_change('conversation_id', 'append a copy to the other conversation');
CREATE TRIGGER keep_position BEFORE UPDATE OF position ON messages
    FOR EACH ROW WHEN (NEW.position <> OLD.position)
    EXECUTE FUNCTION trigger_refuse_change('position', 'append a copy, or fork the conversation');
CREATE TRIGGER keep_id BEFORE UPDATE OF id ON event_streams
    FOR EACH ROW WHEN (NEW.id <> OLD.id)
    EXECUTE FUNCTION trigger_refuse_change('id', 'delete the stream and publish it again');
CREATE TRIGGER keep_stream_id BEFORE UPDATE OF stream_id ON event_streams
    FOR EACH ROW WHEN (NEW.stream_id <> OLD.stream_id)
    EXECUTE FUNCTION trigger_refuse_change('stream_id', 'publish to a stream of the other name');
DROP TRIGGER set_timestamp ON stream_events;
CREATE TRIGGER keep_event BEFORE UPDATE ON stream_events
    FOR EACH ROW EXECUTE FUNCTION trigger_refuse_change('data', 'publish another event, or delete this one');

CREATE FUNCTION trigger_check_message_parent() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.conversation_id <> (SELECT conversation_id FROM messages WHERE id = NEW.parent_id) THEN
        RAISE EXCEPTION 'parent % of row % belongs to another conversation', NEW.parent_id, NEW.id
            USING ERRCODE = 'AS001', TABLE = 'messages', COLUMN = 'parent_id',
                  CONSTRAINT = 'messages_parent_in_conversation', HINT = 'choose a message of the same conversation';
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER check_message_parent AFTER INSERT OR UPDATE OF parent_id ON messages
    FOR EACH ROW WHEN (NEW.parent_id IS NOT NULL) EXECUTE FUNCTION trigger_check_message_parent();

-- ---- A task moves to the end of another ticket ----

CREATE TRIGGER move_ticket_task BEFORE UPDATE OF ticket_id ON ticket_tasks
    FOR EACH ROW WHEN (NEW.ticket_id <> OLD.ticket_id AND NEW.position = OLD.position)
    EXECUTE FUNCTION trigger_place_ticket_task();

COMMENT ON COLUMN messages.conversation_id IS 'Conversation that the message belongs to; never changes';
COMMENT ON COLUMN messages.position IS 'Position within the conversation, counted from 1 without gaps; never changes';
COMMENT ON COLUMN messages.parent_id IS 'Message of the same conversation that this one answers, for branches';
COMMENT ON COLUMN event_streams.id IS 'Primary key: a UUIDv7 by default; another one when the stream was deleted and published again';
COMMENT ON COLUMN event_streams.stream_id IS 'Unique name of the stream, as the publisher gives it; never changes';
COMMENT ON COLUMN stream_events.sequence IS 'Position within the stream, counted from 1 without gaps';
COMMENT ON COLUMN stream_events.updated_at IS 'Time of the INSERT: an event never changes';
COMMENT ON COLUMN ticket_tasks.position IS 'Position within the ticket, counted from 1; by default after the last step, also when moved to another ticket';
