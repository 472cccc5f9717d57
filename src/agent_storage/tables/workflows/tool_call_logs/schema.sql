CREATE TABLE tool_call_logs (
    id           uuid        PRIMARY KEY DEFAULT uuid_v7(),
    execution_id uuid        NOT NULL REFERENCES llm_executions (id) ON DELETE CASCADE,
    tool_call_id text        NOT NULL,
    tool_name    text        NOT NULL CHECK (char_length(tool_name) BETWEEN 1 AND 500),
    arguments    jsonb       NOT NULL DEFAULT '{}',
    result       jsonb,
    error        text,
    duration_ms  integer     CHECK (duration_ms >= 0),
    created_at   timestamptz NOT NULL DEFAULT now(),
    updated_at   timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX tool_call_logs_execution_id_idx ON tool_call_logs (execution_id, id);
CREATE TRIGGER set_timestamp BEFORE UPDATE ON tool_call_logs FOR EACH ROW EXECUTE FUNCTION trigger_set_timestamp();

COMMENT ON TABLE tool_call_logs IS 'Tool calls that language models asked for in workflow runs';
COMMENT ON COLUMN tool_call_logs.id IS 'Primary key: a UUIDv7 by default, or the id that the caller gave';
COMMENT ON COLUMN tool_call_logs.execution_id IS 'Call of the language model that asked for the tool';
COMMENT ON COLUMN tool_call_logs.tool_call_id IS 'Id of the call, as the model gave it';
COMMENT ON COLUMN tool_call_logs.tool_name IS 'Name of the tool';
COMMENT ON COLUMN tool_call_logs.arguments IS 'JSON object of the call''s arguments';
COMMENT ON COLUMN tool_call_logs.result IS 'JSON value that the tool returned';
COMMENT ON COLUMN tool_call_logs.error IS 'Error message of a call that failed';
COMMENT ON COLUMN tool_call_logs.duration_ms IS 'Duration of the call in milliseconds';
COMMENT ON COLUMN tool_call_logs.created_at IS 'Time of the INSERT; never changes';
COMMENT ON COLUMN tool_call_logs.updated_at IS 'Time of the last UPDATE';
