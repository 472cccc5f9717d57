-- Restore the former names and the default of checkpoints.captured_at.

DROP TRIGGER set_captured_at ON checkpoints;
DROP FUNCTION trigger_set_captured_at();
ALTER TABLE checkpoints ALTER COLUMN captured_at SET DEFAULT now();
DROP TRIGGER set_started_at ON tool_results;
DROP FUNCTION trigger_set_started_at();

DO $$
BEGIN
    IF current_setting('server_version_num')::integer >= 180000 THEN
        ALTER TABLE tool_call_logs RENAME CONSTRAINT tool_call_logs_arguments_not_null TO tool_call_logs_args_not_null;
        ALTER TABLE tool_results RENAME CONSTRAINT tool_results_tool_call_id_not_null TO tool_results_call_id_not_null;
    END IF;
END
$$;

ALTER TABLE llm_executions RENAME CONSTRAINT llm_executions_output_tokens_check TO llm_executions_completion_tokens_check;
ALTER TABLE llm_executions RENAME CONSTRAINT llm_executions_input_tokens_check TO llm_executions_prompt_tokens_check;
ALTER TABLE tool_results RENAME CONSTRAINT tool_results_tool_call_id_check TO tool_results_call_id_check;
ALTER TABLE llm_executions RENAME COLUMN output_tokens TO completion_tokens;
ALTER TABLE llm_executions RENAME COLUMN input_tokens TO prompt_tokens;
ALTER TABLE tool_call_logs RENAME COLUMN arguments TO args;
ALTER TABLE tool_results RENAME COLUMN tool_call_id TO call_id;
ALTER TABLE tickets RENAME COLUMN archived_at TO deleted_at;
