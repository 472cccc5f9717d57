-- A stream and how far it has come. The row lock, held to commit, hands out sequences in the order of commits, so that a
-- reader behind "the last one I saw" misses none; they go on where they were when old events have been deleted.
CREATE TABLE event_streams (
    id            uuid        PRIMARY KEY DEFAULT uuid_v7(),
    stream_id     text        NOT NULL UNIQUE CHECK (char_length(stream_id) BETWEEN 1 AND 500),
    last_sequence bigint      NOT NULL DEFAULT 0 CHECK (last_sequence >= 0),
    created_at    timestamptz NOT NULL DEFAULT now(),
    updated_at    timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 50);
CREATE TRIGGER set_timestamp BEFORE UPDATE ON event_streams FOR EACH ROW EXECUTE FUNCTION trigger_set_timestamp();

-- Followers hear at commit that there is more to read, once for each stream and transaction.
CREATE FUNCTION trigger_notify_event_stream() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('event_streams', NEW.stream_id);
    RETURN NULL;
END
$$;
CREATE TRIGGER notify_event_stream AFTER INSERT OR UPDATE OF last_sequence ON event_streams
    FOR EACH ROW EXECUTE FUNCTION trigger_notify_event_stream();

COMMENT ON TABLE event_streams IS 'Event streams and their last sequences; deleting a stream deletes its events';
COMMENT ON COLUMN event_streams.id IS 'Primary key: a UUIDv7 by default, or the id that the caller gave';
COMMENT ON COLUMN event_streams.stream_id IS 'Unique name of the stream, as the publisher gives it';
COMMENT ON COLUMN event_streams.last_sequence IS 'Sequence of the last event that was published';
COMMENT ON COLUMN event_streams.created_at IS 'Time of the INSERT; never changes';
COMMENT ON COLUMN event_streams.updated_at IS 'Time of the last UPDATE';
