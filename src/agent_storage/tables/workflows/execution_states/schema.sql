CREATE TABLE execution_states (
    id              uuid        PRIMARY KEY DEFAULT uuid_v7(),
    session_id      uuid        NOT NULL UNIQUE REFERENCES workflow_sessions (id) ON DELETE CASCADE,
    budget_pool_id  uuid        REFERENCES budget_pools (id) ON DELETE SET NULL,
    current_node_id text,
    status          text        NOT NULL DEFAULT 'running'
                                CHECK (status IN ('pending', 'running', 'paused', 'completed', 'failed', 'cancelled',
                                                  'waiting_for_human_review', 'waiting_for_budget_approval',
                                                  'waiting_for_workflow_approval')),
    started_at      timestamptz,
    completed_at    timestamptz,
    context         jsonb       NOT NULL DEFAULT '{}',
    created_at      timestamptz NOT NULL DEFAULT now(),
    updated_at      timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 90);
CREATE INDEX execution_states_budget_pool_id_idx ON execution_states (budget_pool_id);
CREATE TRIGGER set_timestamp BEFORE UPDATE ON execution_states FOR EACH ROW EXECUTE FUNCTION trigger_set_timestamp();
CREATE TRIGGER check_transition BEFORE UPDATE ON execution_states
    FOR EACH ROW WHEN (NEW.status IS DISTINCT FROM OLD.status) EXECUTE FUNCTION trigger_check_transition(
        'pending -> running paused completed failed cancelled waiting_for_human_review waiting_for_budget_approval '
        'waiting_for_workflow_approval',
        'running -> paused completed failed cancelled waiting_for_human_review waiting_for_budget_approval '
        'waiting_for_workflow_approval',
        'paused -> running completed failed cancelled waiting_for_human_review waiting_for_budget_approval '
        'waiting_for_workflow_approval',
        'waiting_for_human_review -> running paused completed failed cancelled waiting_for_budget_approval '
        'waiting_for_workflow_approval',
        'waiting_for_budget_approval -> running paused completed failed cancelled waiting_for_human_review '
        'waiting_for_workflow_approval',
        'waiting_for_workflow_approval -> running paused completed failed cancelled waiting_for_human_review '
        'waiting_for_budget_approval',
        'failed -> running cancelled');

COMMENT ON TABLE execution_states IS 'Execution states of workflow runs, one for each run';
COMMENT ON COLUMN execution_states.id IS 'Primary key: a UUIDv7 by default, or the id that the caller gave';
COMMENT ON COLUMN execution_states.session_id IS 'Run that the state belongs to';
COMMENT ON COLUMN execution_states.budget_pool_id IS 'Budget pool that the run is charged to';
COMMENT ON COLUMN execution_states.current_node_id IS 'Node that is executed, by its id in the workflow''s definition';
COMMENT ON COLUMN execution_states.status IS 'State of the run';
COMMENT ON COLUMN execution_states.started_at IS 'Time at which the run was started';
COMMENT ON COLUMN execution_states.completed_at IS 'Time at which the run ended';
COMMENT ON COLUMN execution_states.context IS 'JSON object of the run''s variables';
COMMENT ON COLUMN execution_states.created_at IS 'Time of the INSERT; never changes';
COMMENT ON COLUMN execution_states.updated_at IS 'Time of the last UPDATE';
