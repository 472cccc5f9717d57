CREATE TABLE tool_configs (
    id           uuid        PRIMARY KEY DEFAULT uuid_v7(),
    name         text        NOT NULL UNIQUE CHECK (name <> ''),
    transport    text        NOT NULL DEFAULT 'stdio' CHECK (transport IN ('stdio', 'http', 'sse')),
    command      text,
    args         jsonb       NOT NULL DEFAULT '[]',
    url          text,
    env          text,                              -- ciphertext, see the docs on secrets
    input_schema jsonb       NOT NULL DEFAULT '{}', -- the JSON Schema of an MCP tool
    enabled      boolean     NOT NULL DEFAULT true,
    metadata     jsonb       NOT NULL DEFAULT '{}',
    created_at   timestamptz NOT NULL DEFAULT now(),
    updated_at   timestamptz NOT NULL DEFAULT now()
);
CREATE TRIGGER set_timestamp BEFORE UPDATE ON tool_configs FOR EACH ROW EXECUTE FUNCTION trigger_set_timestamp();
