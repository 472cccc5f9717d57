-- Names and keys have 1 to 500 characters, in SQL as in the records. The constraints that trigger functions report are
-- prefixed with their table.

ALTER TABLE providers
    DROP CONSTRAINT providers_name_check,
    ADD CONSTRAINT providers_name_check CHECK (char_length(name) BETWEEN 1 AND 500),
    ADD CONSTRAINT providers_kind_check CHECK (char_length(kind) BETWEEN 1 AND 500);
ALTER TABLE models
    DROP CONSTRAINT models_name_check,
    ADD CONSTRAINT models_name_check CHECK (char_length(name) BETWEEN 1 AND 500);
ALTER TABLE tool_configs
    DROP CONSTRAINT tool_configs_name_check,
    ADD CONSTRAINT tool_configs_name_check CHECK (char_length(name) BETWEEN 1 AND 500);
ALTER TABLE tool_results
    ADD CONSTRAINT tool_results_call_id_check CHECK (char_length(call_id) BETWEEN 1 AND 500),
    ADD CONSTRAINT tool_results_tool_name_check CHECK (char_length(tool_name) BETWEEN 1 AND 500);
ALTER TABLE checkpoints
    DROP CONSTRAINT checkpoints_agent_id_check,
    ADD CONSTRAINT checkpoints_agent_id_check CHECK (char_length(agent_id) BETWEEN 1 AND 500);
ALTER TABLE boards
    DROP CONSTRAINT boards_name_check,
    DROP CONSTRAINT boards_slug_check,
    ADD CONSTRAINT boards_name_check CHECK (char_length(name) BETWEEN 1 AND 500),
    ADD CONSTRAINT boards_slug_check CHECK (char_length(slug) BETWEEN 1 AND 500);
ALTER TABLE repos
    DROP CONSTRAINT repos_slug_check,
    ADD CONSTRAINT repos_slug_check CHECK (char_length(slug) BETWEEN 1 AND 500);
ALTER TABLE sessions
    DROP CONSTRAINT sessions_agent_check,
    ADD CONSTRAINT sessions_agent_check CHECK (char_length(agent) BETWEEN 1 AND 500);
ALTER TABLE projects
    DROP CONSTRAINT projects_name_check,
    DROP CONSTRAINT projects_path_check,
    ADD CONSTRAINT projects_name_check CHECK (char_length(name) BETWEEN 1 AND 500),
    ADD CONSTRAINT projects_path_check CHECK (char_length(path) BETWEEN 1 AND 500);
ALTER TABLE project_files
    DROP CONSTRAINT project_files_path_check,
    ADD CONSTRAINT project_files_path_check CHECK (char_length(path) BETWEEN 1 AND 500);
ALTER TABLE tickets
    DROP CONSTRAINT tickets_title_check,
    ADD CONSTRAINT tickets_title_check CHECK (char_length(title) BETWEEN 1 AND 500);
ALTER TABLE ticket_comments
    DROP CONSTRAINT ticket_comments_author_check,
    ADD CONSTRAINT ticket_comments_author_check CHECK (char_length(author) BETWEEN 1 AND 500);
ALTER TABLE workflows
    DROP CONSTRAINT workflows_name_check,
    ADD CONSTRAINT workflows_name_check CHECK (char_length(name) BETWEEN 1 AND 500);
ALTER TABLE node_execution_states
    DROP CONSTRAINT node_execution_states_node_id_check,
    ADD CONSTRAINT node_execution_states_node_id_check CHECK (char_length(node_id) BETWEEN 1 AND 500);
ALTER TABLE llm_executions
    DROP CONSTRAINT llm_executions_node_id_check,
    ADD CONSTRAINT llm_executions_node_id_check CHECK (char_length(node_id) BETWEEN 1 AND 500);
ALTER TABLE tool_call_logs
    DROP CONSTRAINT tool_call_logs_tool_name_check,
    ADD CONSTRAINT tool_call_logs_tool_name_check CHECK (char_length(tool_name) BETWEEN 1 AND 500);
ALTER TABLE approval_requests
    DROP CONSTRAINT approval_requests_node_id_check,
    ADD CONSTRAINT approval_requests_node_id_check CHECK (char_length(node_id) BETWEEN 1 AND 500);
ALTER TABLE event_streams
    DROP CONSTRAINT event_streams_stream_id_check,
    ADD CONSTRAINT event_streams_stream_id_check CHECK (char_length(stream_id) BETWEEN 1 AND 500);
ALTER TABLE stream_events
    ADD CONSTRAINT stream_events_stream_id_check CHECK (char_length(stream_id) BETWEEN 1 AND 500);

CREATE OR REPLACE FUNCTION trigger_keep_workflow_snapshot() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the workflow snapshot of session % cannot be changed', OLD.id
        USING ERRCODE = 'AS001', TABLE = 'workflow_sessions', COLUMN = 'workflow_snapshot',
              CONSTRAINT = 'workflow_sessions_workflow_snapshot_immutable',
              HINT = 'start another session for another definition';
END
$$;

CREATE OR REPLACE FUNCTION trigger_keep_parent_pool() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'budget pool % cannot move to another parent', OLD.id
        USING ERRCODE = 'AS001', TABLE = 'budget_pools', COLUMN = 'parent_pool_id',
              CONSTRAINT = 'budget_pools_parent_pool_immutable', HINT = 'allocate a new pool under the other parent';
END
$$;
