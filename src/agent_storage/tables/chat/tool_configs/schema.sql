CREATE TABLE tool_configs (
    id           uuid        PRIMARY KEY DEFAULT uuid_v7(),
    name         text        NOT NULL UNIQUE CHECK (char_length(name) BETWEEN 1 AND 500),
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

COMMENT ON TABLE tool_configs IS 'Tools that models may call, such as MCP servers, and how to connect to them';
COMMENT ON COLUMN tool_configs.id IS 'Primary key: a UUIDv7 by default, or the id that the caller gave';
COMMENT ON COLUMN tool_configs.name IS 'Unique name of the tool';
COMMENT ON COLUMN tool_configs.transport IS 'Transport of the connection';
COMMENT ON COLUMN tool_configs.command IS 'Command that starts the tool, for stdio';
COMMENT ON COLUMN tool_configs.args IS 'JSON array of the command''s arguments';
COMMENT ON COLUMN tool_configs.url IS 'URL of the tool, for http and sse';
COMMENT ON COLUMN tool_configs.env IS 'JSON object of environment variables, as AES-256-GCM ciphertext';
COMMENT ON COLUMN tool_configs.input_schema IS 'JSON Schema of the tool''s arguments';
COMMENT ON COLUMN tool_configs.enabled IS 'Whether the tool is offered to models';
COMMENT ON COLUMN tool_configs.metadata IS 'JSON object of the platform''s own fields';
COMMENT ON COLUMN tool_configs.created_at IS 'Time of the INSERT; never changes';
COMMENT ON COLUMN tool_configs.updated_at IS 'Time of the last UPDATE';
