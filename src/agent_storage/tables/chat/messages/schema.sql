CREATE TABLE messages (
    id              uuid        PRIMARY KEY DEFAULT uuid_v7(),
    conversation_id uuid        NOT NULL REFERENCES conversations (id) ON DELETE CASCADE,
    position        integer     NOT NULL CHECK (position > 0),
    role            text        NOT NULL CHECK (role IN ('system', 'user', 'assistant', 'tool')),
    content         jsonb       NOT NULL,
    model_id        uuid        REFERENCES models (id) ON DELETE SET NULL,
    parent_id       uuid        REFERENCES messages (id) ON DELETE SET NULL,
    tool_call_id    text,
    input_tokens    integer     CHECK (input_tokens >= 0),
    output_tokens   integer     CHECK (output_tokens >= 0),
    metadata        jsonb       NOT NULL DEFAULT '{}',
    created_at      timestamptz NOT NULL DEFAULT now(),
    updated_at      timestamptz NOT NULL DEFAULT now(),
    UNIQUE (conversation_id, position)
);
CREATE INDEX messages_model_id_idx ON messages (model_id);
CREATE INDEX messages_parent_id_idx ON messages (parent_id);

-- The words of a message's content: a string, or the text of its parts.
CREATE FUNCTION message_text(content jsonb) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE jsonb_typeof(content)
           WHEN 'string' THEN content #>> '{}'
           WHEN 'array' THEN (SELECT string_agg(part ->> 'text', ' ') FROM jsonb_array_elements(content) AS part)
           END
$$;
CREATE INDEX messages_search_idx ON messages USING gin (to_tsvector('simple', message_text(content)));
CREATE TRIGGER set_timestamp BEFORE UPDATE ON messages FOR EACH ROW EXECUTE FUNCTION trigger_set_timestamp();

-- A message's content may be redacted; its place may not change.
CREATE TRIGGER keep_conversation BEFORE UPDATE OF conversation_id ON messages
    FOR EACH ROW WHEN (NEW.conversation_id <> OLD.conversation_id)
    EXECUTE FUNCTION trigger_refuse_change('conversation_id', 'append a copy to the other conversation');
CREATE TRIGGER keep_position BEFORE UPDATE OF position ON messages
    FOR EACH ROW WHEN (NEW.position <> OLD.position)
    EXECUTE FUNCTION trigger_refuse_change('position', 'append a copy, or fork the conversation');

-- An INSERT with explicit positions (COPY of a history) takes the conversation's counter along, so that the next append
-- finds a free position. It locks the counter first, as an append does, so the two queue; and it raises the counter after
-- the statement, once for all of its rows. The setting, local to the transaction, spares appends the second trigger.
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

-- A thread stays in its conversation. It looks after the statement, when a parent that came with its child is there.
-- (A composite foreign key would need another unique index, and PostgreSQL 15.)
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

COMMENT ON TABLE messages IS 'Messages of conversations, in order';
COMMENT ON COLUMN messages.id IS 'Primary key: a UUIDv7 by default, or the id that the caller gave';
COMMENT ON COLUMN messages.conversation_id IS 'Conversation that the message belongs to; never changes';
COMMENT ON COLUMN messages.position IS 'Position within the conversation, counted from 1 without gaps; never changes';
COMMENT ON COLUMN messages.role IS 'Author of the message';
COMMENT ON COLUMN messages.content IS 'JSON string, or JSON array of typed parts (text, image, tool_call, tool_result)';
COMMENT ON COLUMN messages.model_id IS 'Model that wrote the message';
COMMENT ON COLUMN messages.parent_id IS 'Message of the same conversation that this one answers, for branches';
COMMENT ON COLUMN messages.tool_call_id IS 'Id of the tool call that a tool message answers, as the model gave it';
COMMENT ON COLUMN messages.input_tokens IS 'Number of tokens that the model read';
COMMENT ON COLUMN messages.output_tokens IS 'Number of tokens that the model wrote';
COMMENT ON COLUMN messages.metadata IS 'JSON object of the platform''s own fields';
COMMENT ON COLUMN messages.created_at IS 'Time of the INSERT; never changes';
COMMENT ON COLUMN messages.updated_at IS 'Time of the last UPDATE';
