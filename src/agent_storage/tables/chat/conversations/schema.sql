-- message_count is also the position of the last message: both move together, under the row's lock. An INSERT may bring
-- the count of a history that is imported with its positions.
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
    updated_at      timestamptz NOT NULL DEFAULT now(),
    forked_from_id  uuid        REFERENCES conversations (id) ON DELETE SET NULL,
    forked_at_position integer  CHECK (forked_at_position >= 0),
    CONSTRAINT conversations_fork_of_another CHECK (forked_from_id <> id),
    CONSTRAINT conversations_fork_at_position CHECK (forked_from_id IS NULL OR forked_at_position IS NOT NULL)
);
CREATE INDEX conversations_recent_idx ON conversations (last_message_at, id) WHERE archived_at IS NULL;
CREATE INDEX conversations_archived_idx ON conversations (last_message_at, id) WHERE archived_at IS NOT NULL;
CREATE INDEX conversations_project_id_idx ON conversations (project_id, last_message_at, id);
CREATE INDEX conversations_owner_idx ON conversations (owner, last_message_at, id) WHERE owner IS NOT NULL;
CREATE INDEX conversations_model_id_idx ON conversations (model_id);
CREATE INDEX conversations_forked_from_id_idx ON conversations (forked_from_id, id);
CREATE TRIGGER set_timestamp BEFORE UPDATE ON conversations FOR EACH ROW EXECUTE FUNCTION trigger_set_timestamp();

-- The origin of a fork is set when it is made. Deleting the origin clears it.
CREATE TRIGGER keep_forked_from BEFORE UPDATE OF forked_from_id ON conversations
    FOR EACH ROW WHEN (NEW.forked_from_id IS DISTINCT FROM OLD.forked_from_id AND NEW.forked_from_id IS NOT NULL)
    EXECUTE FUNCTION trigger_refuse_change('forked_from_id', 'fork the other conversation instead');
CREATE TRIGGER keep_forked_at_position BEFORE UPDATE OF forked_at_position ON conversations
    FOR EACH ROW WHEN (NEW.forked_at_position IS DISTINCT FROM OLD.forked_at_position)
    EXECUTE FUNCTION trigger_refuse_change('forked_at_position', 'fork the origin again at the other position');

-- The next position is message_count + 1, so an UPDATE that lowers the count, or raises it without a message, would make
-- appends fail or leave a gap. It looks after the statement, when the message is there.
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

-- While there is no message, the time of the last one is that of the creation, of an imported conversation too.
CREATE FUNCTION trigger_set_last_message_at() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    NEW.last_message_at := NEW.created_at;
    RETURN NEW;
END
$$;
CREATE TRIGGER set_last_message_at BEFORE INSERT ON conversations
    FOR EACH ROW WHEN (NEW.message_count = 0 AND NEW.last_message_at <> NEW.created_at)
    EXECUTE FUNCTION trigger_set_last_message_at();
SELECT pin_search_path('trigger_check_message_count()');

COMMENT ON TABLE conversations IS 'Conversations between people and models';
COMMENT ON COLUMN conversations.id IS 'Primary key: a UUIDv7 by default, or the id that the caller gave';
COMMENT ON COLUMN conversations.title IS 'Title to show in lists';
COMMENT ON COLUMN conversations.project_id IS 'Project that the conversation belongs to';
COMMENT ON COLUMN conversations.model_id IS 'Model that answers by default';
COMMENT ON COLUMN conversations.owner IS 'User or tenant to which the conversation belongs; null if not said';
COMMENT ON COLUMN conversations.message_count IS 'Position of the last message; deleting messages does not lower it';
COMMENT ON COLUMN conversations.last_message_at IS 'Time of the newest message, or of the creation while there is none';
COMMENT ON COLUMN conversations.archived_at IS 'Time of archiving; null while the conversation is active';
COMMENT ON COLUMN conversations.metadata IS 'JSON object of the platform''s own fields';
COMMENT ON COLUMN conversations.created_at IS 'Time of the INSERT; never changes';
COMMENT ON COLUMN conversations.updated_at IS 'Time of the last UPDATE';
COMMENT ON COLUMN conversations.forked_from_id IS 'Conversation that this one is a fork of; null after it was deleted';
COMMENT ON COLUMN conversations.forked_at_position IS 'Last position of the origin that the fork copied; null if it is no fork';
