CREATE TABLE tool_call_logs (
    id           uuid        PRIMARY KEY DEFAULT uuid_v7(),
    execution_id uuid        NOT NULL REFERENCES llm_executions (id) ON DELETE CASCADE,
    tool_call_id text        NOT NULL,
    tool_name    text        NOT NULL CHECK (tool_name <> ''),
    arguments    jsonb       NOT NULL DEFAULT '{}',
    result       jsonb,
    error        text,
    duration_ms  integer     CHECK (duration_ms >= 0),
    created_at   timestamptz NOT NULL DEFAULT now(),
    updated_at   timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX tool_call_logs_execution_id_idx ON tool_call_logs (execution_id, id);
CREATE TRIGGER set_timestamp BEFORE UPDATE ON tool_call_logs FOR EACH ROW EXECUTE FUNCTION trigger_set_timestamp();
