-- Append only: vacuum when a fiftieth is new, so that index-only reads stay so.
CREATE TABLE stream_events (
    id         uuid        PRIMARY KEY DEFAULT uuid_v7(),
    stream_id  text        NOT NULL REFERENCES event_streams (stream_id) ON DELETE CASCADE,
    node_id    text,
    sequence   bigint      NOT NULL CHECK (sequence > 0),
    data       jsonb       NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (stream_id, sequence)
) WITH (autovacuum_vacuum_insert_scale_factor = 0.02);
CREATE TRIGGER set_timestamp BEFORE UPDATE ON stream_events FOR EACH ROW EXECUTE FUNCTION trigger_set_timestamp();
