-- An agent's state at a moment. state is stored uncompressed out of line (EXTERNAL): compressing it cost more than the
-- rest of the write, and a checkpoint is read whole or not at all.
CREATE TABLE checkpoints (
    id          uuid        PRIMARY KEY DEFAULT uuid_v7(),
    agent_id    text        NOT NULL CHECK (char_length(agent_id) BETWEEN 1 AND 500),
    session_id  text        CHECK (char_length(session_id) <= 500),
    agent_type  text        CHECK (char_length(agent_type) <= 500),
    name        text,
    owner       text        CHECK (char_length(owner) BETWEEN 1 AND 500),
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
CREATE INDEX checkpoints_owner_idx ON checkpoints (owner, captured_at DESC, id DESC) WHERE owner IS NOT NULL;
CREATE INDEX checkpoints_captured_at_idx ON checkpoints (captured_at DESC, id DESC);
CREATE INDEX checkpoints_parent_id_idx ON checkpoints (parent_id);
CREATE TRIGGER set_timestamp BEFORE UPDATE ON checkpoints FOR EACH ROW EXECUTE FUNCTION trigger_set_timestamp();

-- A checkpoint without a time was captured now, an imported one when it was created.
CREATE FUNCTION trigger_set_captured_at() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    NEW.captured_at := CASE WHEN NEW.created_at = now() THEN clock_timestamp() ELSE NEW.created_at END;
    RETURN NEW;
END
$$;
CREATE TRIGGER set_captured_at BEFORE INSERT ON checkpoints
    FOR EACH ROW WHEN (NEW.captured_at IS NULL) EXECUTE FUNCTION trigger_set_captured_at();

COMMENT ON TABLE checkpoints IS 'Saved states of agents, from which they can continue';
COMMENT ON COLUMN checkpoints.id IS 'Primary key: a UUIDv7 by default, or the id that the caller gave';
COMMENT ON COLUMN checkpoints.agent_id IS 'Id of the agent, as its framework gives it';
COMMENT ON COLUMN checkpoints.session_id IS 'Id of the agent''s session, as its framework gives it';
COMMENT ON COLUMN checkpoints.agent_type IS 'Kind of the agent';
COMMENT ON COLUMN checkpoints.name IS 'Name of the checkpoint';
COMMENT ON COLUMN checkpoints.owner IS 'User or tenant to which the checkpoint belongs; null if not said';
COMMENT ON COLUMN checkpoints.state IS 'Complete state of the agent as JSON; stored uncompressed';
COMMENT ON COLUMN checkpoints.captured_at IS 'Time at which the state was captured, by the caller''s clock';
COMMENT ON COLUMN checkpoints.parent_id IS 'Checkpoint that this one follows';
COMMENT ON COLUMN checkpoints.size_bytes IS 'Length of the state as JSON text; generated';
COMMENT ON COLUMN checkpoints.created_at IS 'Time of the INSERT; never changes';
COMMENT ON COLUMN checkpoints.updated_at IS 'Time of the last UPDATE';
