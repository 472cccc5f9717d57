CREATE TABLE node_execution_states (
    id                  uuid        PRIMARY KEY DEFAULT uuid_v7(),
    session_id          uuid        NOT NULL REFERENCES workflow_sessions (id) ON DELETE CASCADE,
    node_id             text        NOT NULL CHECK (char_length(node_id) BETWEEN 1 AND 500),
    status              text        NOT NULL DEFAULT 'pending'
                                    CHECK (status IN ('pending', 'running', 'completed', 'failed', 'skipped',
                                                      'waiting_for_approval', 'waiting_for_review')),
    input               jsonb,
    output              jsonb,
    error               text,
    started_at          timestamptz,
    completed_at        timestamptz,
    retry_count         integer     NOT NULL DEFAULT 0 CHECK (retry_count >= 0),
    pending_approval_id uuid,       -- no reference: the approval may be stored after the node that waits for it
    metadata            jsonb       NOT NULL DEFAULT '{}',
    created_at          timestamptz NOT NULL DEFAULT now(),
    updated_at          timestamptz NOT NULL DEFAULT now(),
    UNIQUE (session_id, node_id)
) WITH (fillfactor = 90);
CREATE TRIGGER set_timestamp BEFORE UPDATE ON node_execution_states
    FOR EACH ROW EXECUTE FUNCTION trigger_set_timestamp();
CREATE TRIGGER check_transition BEFORE UPDATE ON node_execution_states
    FOR EACH ROW WHEN (NEW.status IS DISTINCT FROM OLD.status) EXECUTE FUNCTION trigger_check_transition(
        'pending -> running completed failed skipped waiting_for_approval waiting_for_review',
        'running -> completed failed skipped waiting_for_approval waiting_for_review',
        'waiting_for_approval -> running completed failed skipped waiting_for_review',
        'waiting_for_review -> running completed failed skipped waiting_for_approval',
        'failed -> pending running skipped');

COMMENT ON TABLE node_execution_states IS 'Execution states of the nodes of workflow runs: inputs, outputs and retries';
COMMENT ON COLUMN node_execution_states.id IS 'Primary key: a UUIDv7 by default, or the id that the caller gave';
COMMENT ON COLUMN node_execution_states.session_id IS 'Run that the node belongs to';
COMMENT ON COLUMN node_execution_states.node_id IS 'Id of the node in the definition; unique within the run';
COMMENT ON COLUMN node_execution_states.status IS 'State of the node';
COMMENT ON COLUMN node_execution_states.input IS 'JSON value that the node was given';
COMMENT ON COLUMN node_execution_states.output IS 'JSON value that the node returned';
COMMENT ON COLUMN node_execution_states.error IS 'Error message of a node that failed';
COMMENT ON COLUMN node_execution_states.started_at IS 'Time at which the node was started';
COMMENT ON COLUMN node_execution_states.completed_at IS 'Time at which the node ended';
COMMENT ON COLUMN node_execution_states.retry_count IS 'Number of times that the node was executed again';
COMMENT ON COLUMN node_execution_states.pending_approval_id IS 'Approval request that the node waits for, or waited for last';
COMMENT ON COLUMN node_execution_states.metadata IS 'JSON object of the platform''s own fields';
COMMENT ON COLUMN node_execution_states.created_at IS 'Time of the INSERT; never changes';
COMMENT ON COLUMN node_execution_states.updated_at IS 'Time of the last UPDATE';
