-- Append only, which keep_event enforces: vacuum when a fiftieth is new, so that index-only reads stay so.
CREATE TABLE stream_events (
    id         uuid        PRIMARY KEY DEFAULT uuid_v7(),
    stream_id  text        NOT NULL REFERENCES event_streams (stream_id) ON DELETE CASCADE
                           CHECK (char_length(stream_id) BETWEEN 1 AND 500),
    node_id    text,
    sequence   bigint      NOT NULL CHECK (sequence > 0),
    data       jsonb       NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (stream_id, sequence)
) WITH (autovacuum_vacuum_insert_scale_factor = 0.02);
CREATE TRIGGER keep_event BEFORE UPDATE ON stream_events
    FOR EACH ROW EXECUTE FUNCTION trigger_refuse_change('data', 'publish another event, or delete this one');

-- An INSERT with explicit sequences (COPY of a stream) takes the stream's counter along, as in messages.
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
SELECT pin_search_path(
    'trigger_lock_last_sequence()',
    'trigger_raise_last_sequence()');

COMMENT ON TABLE stream_events IS 'Events of streams, in the order of commits, without gaps';
COMMENT ON COLUMN stream_events.id IS 'Primary key: a UUIDv7 by default, or the id that the caller gave';
COMMENT ON COLUMN stream_events.stream_id IS 'Stream that the event belongs to';
COMMENT ON COLUMN stream_events.node_id IS 'Node that published the event, by its id in the workflow''s definition';
COMMENT ON COLUMN stream_events.sequence IS 'Position within the stream, counted from 1 without gaps';
COMMENT ON COLUMN stream_events.data IS 'JSON value of the event';
COMMENT ON COLUMN stream_events.created_at IS 'Time of the INSERT; never changes';
COMMENT ON COLUMN stream_events.updated_at IS 'Time of the INSERT: an event never changes';
