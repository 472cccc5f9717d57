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
