-- A run keeps the definition that it started with: neither a change nor the end of its workflow touches the snapshot.
CREATE TABLE workflow_sessions (
    id                uuid        PRIMARY KEY DEFAULT uuid_v7(),
    workflow_id       uuid        REFERENCES workflows (id) ON DELETE SET NULL,
    workflow_snapshot jsonb       NOT NULL,
    status            text        NOT NULL DEFAULT 'running'
                                  CHECK (status IN ('running', 'paused', 'completed', 'failed',
                                                    'waiting_for_human_review', 'waiting_for_budget_approval',
                                                    'waiting_for_workflow_approval')),
    owner             text        CHECK (char_length(owner) BETWEEN 1 AND 500),
    metadata          jsonb       NOT NULL DEFAULT '{}',
    created_at        timestamptz NOT NULL DEFAULT now(),
    updated_at        timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX workflow_sessions_workflow_id_idx ON workflow_sessions (workflow_id, id);
CREATE INDEX workflow_sessions_status_idx ON workflow_sessions (status, id);
CREATE INDEX workflow_sessions_owner_idx ON workflow_sessions (owner, id) WHERE owner IS NOT NULL;
CREATE TRIGGER set_timestamp BEFORE UPDATE ON workflow_sessions FOR EACH ROW EXECUTE FUNCTION trigger_set_timestamp();
CREATE TRIGGER check_transition BEFORE UPDATE ON workflow_sessions
    FOR EACH ROW WHEN (NEW.status IS DISTINCT FROM OLD.status) EXECUTE FUNCTION trigger_check_transition(
        'running -> paused completed failed waiting_for_human_review waiting_for_budget_approval '
        'waiting_for_workflow_approval',
        'paused -> running failed waiting_for_human_review waiting_for_budget_approval waiting_for_workflow_approval',
        'waiting_for_human_review -> running paused failed waiting_for_budget_approval waiting_for_workflow_approval',
        'waiting_for_budget_approval -> running paused failed waiting_for_human_review waiting_for_workflow_approval',
        'waiting_for_workflow_approval -> running paused failed waiting_for_human_review waiting_for_budget_approval',
        'failed -> running');

CREATE FUNCTION trigger_keep_workflow_snapshot() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the workflow snapshot of session % cannot be changed', OLD.id
        USING ERRCODE = 'AS001', TABLE = 'workflow_sessions', COLUMN = 'workflow_snapshot',
              CONSTRAINT = 'workflow_sessions_workflow_snapshot_immutable',
              HINT = 'start another session for another definition';
END
$$;
CREATE TRIGGER keep_workflow_snapshot BEFORE UPDATE OF workflow_snapshot ON workflow_sessions
    FOR EACH ROW WHEN (NEW.workflow_snapshot IS DISTINCT FROM OLD.workflow_snapshot)
    EXECUTE FUNCTION trigger_keep_workflow_snapshot();

-- The execution state of a run follows the run, unless it has ended already. Before the UPDATE, so that locks are taken
-- in one order everywhere: run, state, nodes.
CREATE FUNCTION trigger_move_execution_state() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    UPDATE execution_states
       SET status = NEW.status,
           completed_at = CASE WHEN NEW.status IN ('completed', 'failed') THEN clock_timestamp() END
     WHERE session_id = NEW.id
       AND status NOT IN ('completed', 'cancelled', NEW.status)
       AND (status <> 'failed' OR NEW.status = 'running');
    RETURN NEW;
END
$$;
CREATE TRIGGER move_execution_state BEFORE UPDATE ON workflow_sessions
    FOR EACH ROW WHEN (NEW.status IS DISTINCT FROM OLD.status) EXECUTE FUNCTION trigger_move_execution_state();
SELECT pin_search_path('trigger_move_execution_state()');

COMMENT ON TABLE workflow_sessions IS 'Runs of workflows, with the definitions that they started with';
COMMENT ON COLUMN workflow_sessions.id IS 'Primary key: a UUIDv7 by default, or the id that the caller gave';
COMMENT ON COLUMN workflow_sessions.workflow_id IS 'Workflow that the run executes; null after it was deleted';
COMMENT ON COLUMN workflow_sessions.workflow_snapshot IS 'Definition at the start of the run; never changes';
COMMENT ON COLUMN workflow_sessions.status IS 'State of the run';
COMMENT ON COLUMN workflow_sessions.owner IS 'User or tenant to which the run belongs; null if not said';
COMMENT ON COLUMN workflow_sessions.metadata IS 'JSON object of the platform''s own fields';
COMMENT ON COLUMN workflow_sessions.created_at IS 'Time of the INSERT; never changes';
COMMENT ON COLUMN workflow_sessions.updated_at IS 'Time of the last UPDATE';
