-- Restores the rules of names and keys, and the former constraint names of trigger functions.

ALTER TABLE providers
    DROP CONSTRAINT providers_name_check,
    ADD CONSTRAINT providers_name_check CHECK (name <> ''),
    DROP CONSTRAINT providers_kind_check;
ALTER TABLE models
    DROP CONSTRAINT models_name_check,
    ADD CONSTRAINT models_name_check CHECK (name <> '');
ALTER TABLE tool_configs
    DROP CONSTRAINT tool_configs_name_check,
    ADD CONSTRAINT tool_configs_name_check CHECK (name <> '');
ALTER TABLE tool_results
    DROP CONSTRAINT tool_results_call_id_check,
    DROP CONSTRAINT tool_results_tool_name_check;
ALTER TABLE checkpoints
    DROP CONSTRAINT checkpoints_agent_id_check,
    ADD CONSTRAINT checkpoints_agent_id_check CHECK (agent_id <> '');
ALTER TABLE boards
    DROP CONSTRAINT boards_name_check,
    ADD CONSTRAINT boards_name_check CHECK (name <> ''),
    DROP CONSTRAINT boards_slug_check,
    ADD CONSTRAINT boards_slug_check CHECK (slug <> '');
ALTER TABLE repos
    DROP CONSTRAINT repos_slug_check,
    ADD CONSTRAINT repos_slug_check CHECK (slug <> '');
ALTER TABLE sessions
    DROP CONSTRAINT sessions_agent_check,
    ADD CONSTRAINT sessions_agent_check CHECK (agent <> '');
ALTER TABLE projects
    DROP CONSTRAINT projects_name_check,
    ADD CONSTRAINT projects_name_check CHECK (name <> ''),
    DROP CONSTRAINT projects_path_check,
    ADD CONSTRAINT projects_path_check CHECK (path <> '');
ALTER TABLE project_files
    DROP CONSTRAINT project_files_path_check,
    ADD CONSTRAINT project_files_path_check CHECK (path <> '');
ALTER TABLE tickets
    DROP CONSTRAINT tickets_title_check,
    ADD CONSTRAINT tickets_title_check CHECK (title <> '');
ALTER TABLE ticket_comments
    DROP CONSTRAINT ticket_comments_author_check,
    ADD CONSTRAINT ticket_comments_author_check CHECK (author <> '');
ALTER TABLE workflows
    DROP CONSTRAINT workflows_name_check,
    ADD CONSTRAINT workflows_name_check CHECK (name <> '');
ALTER TABLE node_execution_states
    DROP CONSTRAINT node_execution_states_node_id_check,
    ADD CONSTRAINT node_execution_states_node_id_check CHECK (node_id <> '');
ALTER TABLE llm_executions
    DROP CONSTRAINT llm_executions_node_id_check,
    ADD CONSTRAINT llm_executions_node_id_check CHECK (node_id <> '');
ALTER TABLE tool_call_logs
    DROP CONSTRAINT tool_call_logs_tool_name_check,
    ADD CONSTRAINT tool_call_logs_tool_name_check CHECK (tool_name <> '');
ALTER TABLE approval_requests
    DROP CONSTRAINT approval_requests_node_id_check,
    ADD CONSTRAINT approval_requests_node_id_check CHECK (node_id <> '');
ALTER TABLE event_streams
    DROP CONSTRAINT event_streams_stream_id_check,
    ADD CONSTRAINT event_streams_stream_id_check CHECK (stream_id <> '');
ALTER TABLE stream_events
    DROP CONSTRAINT stream_events_stream_id_check;

CREATE OR REPLACE FUNCTION trigger_keep_workflow_snapshot() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the workflow snapshot of session % cannot be changed', OLD.id
        USING ERRCODE = 'AS001', TABLE = 'workflow_sessions', COLUMN = 'workflow_snapshot',
              CONSTRAINT = 'workflow_snapshot_is_immutable', HINT = 'start another session for another definition';
END
$$;

CREATE OR REPLACE FUNCTION trigger_keep_parent_pool() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'budget pool % cannot move to another parent', OLD.id
        USING ERRCODE = 'AS001', TABLE = 'budget_pools', COLUMN = 'parent_pool_id',
              CONSTRAINT = 'parent_pool_is_immutable', HINT = 'allocate a new pool under the other parent';
END
$$;
