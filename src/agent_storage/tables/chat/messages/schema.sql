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
CREATE INDEX messages_created_at_idx ON messages USING brin (created_at);        -- for `usage_by`; costs an INSERT nothing

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

COMMENT ON TABLE messages IS 'Messages of conversations, in order';
COMMENT ON COLUMN messages.id IS 'Primary key: a UUIDv7 by default, or the id that the caller gave';
COMMENT ON COLUMN messages.conversation_id IS 'Conversation that the message belongs to';
COMMENT ON COLUMN messages.position IS 'Position within the conversation, counted from 1 without gaps';
COMMENT ON COLUMN messages.role IS 'Author of the message';
COMMENT ON COLUMN messages.content IS 'JSON string, or JSON array of typed parts (text, image, tool_call, tool_result)';
COMMENT ON COLUMN messages.model_id IS 'Model that wrote the message';
COMMENT ON COLUMN messages.parent_id IS 'Message that this one answers, for branches of a conversation';
COMMENT ON COLUMN messages.tool_call_id IS 'Id of the tool call that a tool message answers, as the model gave it';
COMMENT ON COLUMN messages.input_tokens IS 'Number of tokens that the model read';
COMMENT ON COLUMN messages.output_tokens IS 'Number of tokens that the model wrote';
COMMENT ON COLUMN messages.metadata IS 'JSON object of the platform''s own fields';
COMMENT ON COLUMN messages.created_at IS 'Time of the INSERT; never changes';
COMMENT ON COLUMN messages.updated_at IS 'Time of the last UPDATE';
