CREATE TABLE llm_executions (
    id                uuid        PRIMARY KEY DEFAULT uuid_v7(),
    session_id        uuid        NOT NULL REFERENCES workflow_sessions (id) ON DELETE CASCADE,
    node_id           text        NOT NULL CHECK (node_id <> ''),
    success           boolean     NOT NULL DEFAULT true,
    text              text,
    tool_calls        jsonb       NOT NULL DEFAULT '[]',
    input_tokens      integer     CHECK (input_tokens >= 0),
    output_tokens     integer     CHECK (output_tokens >= 0),
    total_tokens      integer     CHECK (total_tokens >= 0),
    cost              numeric     CHECK (cost >= 0),
    error             text,
    metadata          jsonb       NOT NULL DEFAULT '{}',
    created_at        timestamptz NOT NULL DEFAULT now(),
    updated_at        timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX llm_executions_session_id_idx ON llm_executions (session_id, id);
CREATE INDEX llm_executions_node_id_idx ON llm_executions (session_id, node_id, id);
CREATE TRIGGER set_timestamp BEFORE UPDATE ON llm_executions FOR EACH ROW EXECUTE FUNCTION trigger_set_timestamp();
