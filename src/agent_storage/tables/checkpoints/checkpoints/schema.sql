-- An agent's state at a moment. state is stored uncompressed out of line (EXTERNAL): compressing it cost more than the
-- rest of the write, and a checkpoint is read whole or not at all.
CREATE TABLE checkpoints (
    id          uuid        PRIMARY KEY DEFAULT uuid_v7(),
    agent_id    text        NOT NULL CHECK (agent_id <> ''),
    session_id  text,
    agent_type  text,
    name        text,
    state       jsonb       NOT NULL,
    captured_at timestamptz NOT NULL,
    parent_id   uuid        REFERENCES checkpoints (id) ON DELETE SET NULL,
    size_bytes  integer     NOT NULL GENERATED ALWAYS AS (octet_length(state::text)) STORED,
    created_at  timestamptz NOT NULL DEFAULT now(),
    updated_at  timestamptz NOT NULL DEFAULT now()
);
ALTER TABLE checkpoints ALTER COLUMN state SET STORAGE EXTERNAL;
CREATE INDEX checkpoints_agent_id_idx ON checkpoints (agent_id, captured_at DESC, id DESC);
CREATE INDEX checkpoints_session_id_idx ON checkpoints (session_id, captured_at DESC, id DESC);
CREATE INDEX checkpoints_agent_type_idx ON checkpoints (agent_type, captured_at DESC, id DESC);
CREATE INDEX checkpoints_captured_at_idx ON checkpoints (captured_at DESC, id DESC);
CREATE INDEX checkpoints_parent_id_idx ON checkpoints (parent_id);
CREATE TRIGGER set_timestamp BEFORE UPDATE ON checkpoints FOR EACH ROW EXECUTE FUNCTION trigger_set_timestamp();

-- A checkpoint without a time was captured now.
CREATE FUNCTION trigger_set_captured_at() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    NEW.captured_at := clock_timestamp();
    RETURN NEW;
END
$$;
CREATE TRIGGER set_captured_at BEFORE INSERT ON checkpoints
    FOR EACH ROW WHEN (NEW.captured_at IS NULL) EXECUTE FUNCTION trigger_set_captured_at();
