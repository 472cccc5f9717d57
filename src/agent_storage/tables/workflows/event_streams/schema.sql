-- A stream and how far it has come. The row lock, held to commit, hands out sequences in the order of commits, so that a
-- reader behind "the last one I saw" misses none; they go on where they were when old events have been deleted.
CREATE TABLE event_streams (
    id            uuid        PRIMARY KEY DEFAULT uuid_v7(),
    stream_id     text        NOT NULL UNIQUE CHECK (char_length(stream_id) BETWEEN 1 AND 500),
    last_sequence bigint      NOT NULL DEFAULT 0 CHECK (last_sequence >= 0),
    created_at    timestamptz NOT NULL DEFAULT now(),
    updated_at    timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 50);
-- A stream that is deleted and published again has another id, by which followers tell it from the old one.
CREATE TRIGGER keep_id BEFORE UPDATE OF id ON event_streams
    FOR EACH ROW WHEN (NEW.id <> OLD.id)
    EXECUTE FUNCTION trigger_refuse_change('id', 'delete the stream and publish it again');
CREATE TRIGGER keep_stream_id BEFORE UPDATE OF stream_id ON event_streams
    FOR EACH ROW WHEN (NEW.stream_id <> OLD.stream_id)
    EXECUTE FUNCTION trigger_refuse_change('stream_id', 'publish to a stream of the other name');
CREATE TRIGGER set_timestamp BEFORE UPDATE ON event_streams FOR EACH ROW EXECUTE FUNCTION trigger_set_timestamp();

-- Followers hear at commit that there is more to read, once for each stream and transaction.
CREATE FUNCTION trigger_notify_event_stream() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify(notification_channel(TG_TABLE_NAME, TG_TABLE_SCHEMA), NEW.stream_id);
    RETURN NULL;
END
$$;
CREATE TRIGGER notify_event_stream AFTER INSERT OR UPDATE OF last_sequence ON event_streams
    FOR EACH ROW EXECUTE FUNCTION trigger_notify_event_stream();

-- The next sequence is last_sequence + 1, so an UPDATE that lowers it, or raises it without an event, would make the next
-- events fail or leave a gap. It looks after the statement, when the event is there.
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
SELECT pin_search_path(
    'trigger_notify_event_stream()',
    'trigger_check_last_sequence()');

COMMENT ON TABLE event_streams IS 'Event streams and their last sequences; deleting a stream deletes its events';
COMMENT ON COLUMN event_streams.id IS 'Primary key: a UUIDv7 by default; another one when the stream was deleted and published again';
COMMENT ON COLUMN event_streams.stream_id IS 'Unique name of the stream, as the publisher gives it; never changes';
COMMENT ON COLUMN event_streams.last_sequence IS 'Sequence of the last event that was published';
COMMENT ON COLUMN event_streams.created_at IS 'Time of the INSERT; never changes';
COMMENT ON COLUMN event_streams.updated_at IS 'Time of the last UPDATE';
