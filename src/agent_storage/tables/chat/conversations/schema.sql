-- message_count is also the position of the last message: both move together, under the row's lock.
-- No fillfactor: each message moves last_message_at, which `recent` needs indexed, so no such update is HOT whatever room
-- there is (measured, see benchmarks/growth.py).
CREATE TABLE conversations (
    id              uuid        PRIMARY KEY DEFAULT uuid_v7(),
    title           text,
    project_id      uuid        REFERENCES projects (id) ON DELETE SET NULL,
    model_id        uuid        REFERENCES models (id) ON DELETE SET NULL,
    owner           text        CHECK (char_length(owner) BETWEEN 1 AND 500),
    message_count   integer     NOT NULL DEFAULT 0 CHECK (message_count >= 0),
    last_message_at timestamptz NOT NULL DEFAULT now(),     -- never null, so that one index serves `recent`
    archived_at     timestamptz,
    metadata        jsonb       NOT NULL DEFAULT '{}',
    created_at      timestamptz NOT NULL DEFAULT now(),
    updated_at      timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX conversations_recent_idx ON conversations (last_message_at, id) WHERE archived_at IS NULL;
CREATE INDEX conversations_archived_idx ON conversations (last_message_at, id) WHERE archived_at IS NOT NULL;
CREATE INDEX conversations_project_id_idx ON conversations (project_id, last_message_at, id);
CREATE INDEX conversations_owner_idx ON conversations (owner, last_message_at, id) WHERE owner IS NOT NULL;
CREATE INDEX conversations_model_id_idx ON conversations (model_id);
CREATE TRIGGER set_timestamp BEFORE UPDATE ON conversations FOR EACH ROW EXECUTE FUNCTION trigger_set_timestamp();

COMMENT ON TABLE conversations IS 'Conversations between people and models';
COMMENT ON COLUMN conversations.id IS 'Primary key: a UUIDv7 by default, or the id that the caller gave';
COMMENT ON COLUMN conversations.title IS 'Title to show in lists';
COMMENT ON COLUMN conversations.project_id IS 'Project that the conversation belongs to';
COMMENT ON COLUMN conversations.model_id IS 'Model that answers by default';
COMMENT ON COLUMN conversations.owner IS 'User or tenant to which the conversation belongs; null if not said';
COMMENT ON COLUMN conversations.message_count IS 'Position of the last message; deleting messages does not lower it';
COMMENT ON COLUMN conversations.last_message_at IS 'Time of the last message, or of the creation while there is none';
COMMENT ON COLUMN conversations.archived_at IS 'Time of archiving; null while the conversation is active';
COMMENT ON COLUMN conversations.metadata IS 'JSON object of the platform''s own fields';
COMMENT ON COLUMN conversations.created_at IS 'Time of the INSERT; never changes';
COMMENT ON COLUMN conversations.updated_at IS 'Time of the last UPDATE';
