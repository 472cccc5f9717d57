CREATE TABLE llm_executions (
    id                uuid        PRIMARY KEY DEFAULT uuid_v7(),
    session_id        uuid        NOT NULL REFERENCES workflow_sessions (id) ON DELETE CASCADE,
    node_id           text        NOT NULL CHECK (char_length(node_id) BETWEEN 1 AND 500),
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
CREATE INDEX llm_executions_created_at_idx ON llm_executions USING brin (created_at);       -- for `usage_by`
CREATE TRIGGER set_timestamp BEFORE UPDATE ON llm_executions FOR EACH ROW EXECUTE FUNCTION trigger_set_timestamp();

COMMENT ON TABLE llm_executions IS 'Calls of language models in workflow runs: texts, tokens and costs';
COMMENT ON COLUMN llm_executions.id IS 'Primary key: a UUIDv7 by default, or the id that the caller gave';
COMMENT ON COLUMN llm_executions.session_id IS 'Run in which the model was called';
COMMENT ON COLUMN llm_executions.node_id IS 'Node that called the model, by its id in the workflow''s definition';
COMMENT ON COLUMN llm_executions.success IS 'Whether the call succeeded';
COMMENT ON COLUMN llm_executions.text IS 'Text that the model wrote';
COMMENT ON COLUMN llm_executions.tool_calls IS 'JSON array of the tool calls that the model asked for';
COMMENT ON COLUMN llm_executions.input_tokens IS 'Number of tokens that the model read';
COMMENT ON COLUMN llm_executions.output_tokens IS 'Number of tokens that the model wrote';
COMMENT ON COLUMN llm_executions.total_tokens IS 'Number of tokens in all';
COMMENT ON COLUMN llm_executions.cost IS 'Cost of the call';
COMMENT ON COLUMN llm_executions.error IS 'Error message of a call that failed';
COMMENT ON COLUMN llm_executions.metadata IS 'JSON object of the model, its parameters and the platform''s own fields';
COMMENT ON COLUMN llm_executions.created_at IS 'Time of the INSERT; never changes';
COMMENT ON COLUMN llm_executions.updated_at IS 'Time of the last UPDATE';
