COMMENT ON COLUMN approval_requests.resolved_by IS 'Name of the person who decided';
COMMENT ON COLUMN node_execution_states.pending_approval_id IS 'Approval request that the node waits for';
DROP TRIGGER notify_deleted ON approval_requests;
CREATE OR REPLACE FUNCTION trigger_notify_approval() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('approval_requests', NEW.id::text);
    RETURN NULL;
END
$$;
DROP TRIGGER release_run_of_deleted ON approval_requests;
DROP TRIGGER release_run ON approval_requests;
DROP FUNCTION trigger_release_run();
DROP FUNCTION awaited_by_run(uuid);
DROP TRIGGER keep_type ON approval_requests;
DROP TRIGGER keep_node_id ON approval_requests;
DROP TRIGGER keep_session_id ON approval_requests;
DROP TRIGGER guard_decision ON approval_requests;
DROP FUNCTION trigger_guard_decision();
ALTER TABLE approval_requests DROP CONSTRAINT approval_requests_decision_check;
DROP TRIGGER move_execution_state ON workflow_sessions;
DROP FUNCTION trigger_move_execution_state();
DROP TRIGGER check_transition ON node_execution_states;
DROP TRIGGER check_transition ON execution_states;
DROP TRIGGER check_transition ON workflow_sessions;
DROP TRIGGER check_transition ON tasks;
DROP TRIGGER check_transition ON sessions;
DROP TRIGGER check_transition ON tool_results;
DROP FUNCTION trigger_check_transition();
