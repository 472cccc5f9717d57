-- One name for one thing: archived_at, tool_call_id, arguments, input_tokens and output_tokens. Times come from the server.

ALTER TABLE tickets RENAME COLUMN deleted_at TO archived_at;
ALTER TABLE tool_results RENAME COLUMN call_id TO tool_call_id;
ALTER TABLE tool_call_logs RENAME COLUMN args TO arguments;
ALTER TABLE llm_executions RENAME COLUMN prompt_tokens TO input_tokens;
ALTER TABLE llm_executions RENAME COLUMN completion_tokens TO output_tokens;
ALTER TABLE tool_results RENAME CONSTRAINT tool_results_call_id_check TO tool_results_tool_call_id_check;
ALTER TABLE llm_executions RENAME CONSTRAINT llm_executions_prompt_tokens_check TO llm_executions_input_tokens_check;
ALTER TABLE llm_executions RENAME CONSTRAINT llm_executions_completion_tokens_check TO llm_executions_output_tokens_check;

-- From PostgreSQL 18 on, NOT NULL is a constraint with a name.
DO $$
BEGIN
    IF current_setting('server_version_num')::integer >= 180000 THEN
        ALTER TABLE tool_results RENAME CONSTRAINT tool_results_call_id_not_null TO tool_results_tool_call_id_not_null;
        ALTER TABLE tool_call_logs RENAME CONSTRAINT tool_call_logs_args_not_null TO tool_call_logs_arguments_not_null;
    END IF;
END
$$;

-- A call that is created running without a start has started now.
CREATE FUNCTION trigger_set_started_at() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    NEW.started_at := clock_timestamp();
    RETURN NEW;
END
$$;
CREATE TRIGGER set_started_at BEFORE INSERT ON tool_results
    FOR EACH ROW WHEN (NEW.status = 'running' AND NEW.started_at IS NULL) EXECUTE FUNCTION trigger_set_started_at();

-- A checkpoint without a time was captured now.
ALTER TABLE checkpoints ALTER COLUMN captured_at DROP DEFAULT;
CREATE FUNCTION trigger_set_captured_at() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    NEW.captured_at := clock_timestamp();
    RETURN NEW;
END
$$;
CREATE TRIGGER set_captured_at BEFORE INSERT ON checkpoints
    FOR EACH ROW WHEN (NEW.captured_at IS NULL) EXECUTE FUNCTION trigger_set_captured_at();
