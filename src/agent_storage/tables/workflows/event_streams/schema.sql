-- A stream and how far it has come. The row lock, held to commit, hands out sequences in the order of commits, so that a
-- reader behind "the last one I saw" misses none; they go on where they were when old events have been deleted.
CREATE TABLE event_streams (
    id            uuid        PRIMARY KEY DEFAULT uuid_v7(),
    stream_id     text        NOT NULL UNIQUE CHECK (stream_id <> ''),
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
