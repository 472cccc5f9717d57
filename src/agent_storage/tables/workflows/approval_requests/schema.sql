CREATE TABLE approval_requests (
    id               uuid        PRIMARY KEY DEFAULT uuid_v7(),
    session_id       uuid        NOT NULL REFERENCES workflow_sessions (id) ON DELETE CASCADE,
    node_id          text        NOT NULL CHECK (char_length(node_id) BETWEEN 1 AND 500),
    type             text        NOT NULL CHECK (type IN ('human_review', 'budget_increase', 'workflow_call')),
    status           text        NOT NULL DEFAULT 'pending'
                                 CHECK (status IN ('pending', 'approved', 'rejected', 'expired')),
    context          jsonb       NOT NULL DEFAULT '{}',
    expires_at       timestamptz,
    resolved_at      timestamptz,
    resolved_by      text,
    resolution_notes text,
    created_at       timestamptz NOT NULL DEFAULT now(),
    updated_at       timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT approval_requests_decision_check CHECK (
        CASE status
            WHEN 'pending' THEN resolved_at IS NULL AND resolved_by IS NULL AND resolution_notes IS NULL
            WHEN 'expired' THEN resolved_at IS NOT NULL
            ELSE resolved_at IS NOT NULL AND resolved_by IS NOT NULL
        END)
);
CREATE INDEX approval_requests_session_id_idx ON approval_requests (session_id, id);
CREATE INDEX approval_requests_pending_idx ON approval_requests (id) WHERE status = 'pending';
CREATE INDEX approval_requests_overdue_idx ON approval_requests (expires_at) WHERE status = 'pending';
CREATE TRIGGER set_timestamp BEFORE UPDATE ON approval_requests FOR EACH ROW EXECUTE FUNCTION trigger_set_timestamp();

-- A decision is final, and so is the question that it answers. An overdue request can only expire.
CREATE FUNCTION trigger_guard_decision() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.status <> 'pending' THEN
        IF (NEW.status, NEW.resolved_at, NEW.resolved_by, NEW.resolution_notes, NEW.context, NEW.expires_at)
           IS DISTINCT FROM
           (OLD.status, OLD.resolved_at, OLD.resolved_by, OLD.resolution_notes, OLD.context, OLD.expires_at) THEN
            RAISE EXCEPTION '% was % at %', OLD.id, concat_ws(' by ', OLD.status, OLD.resolved_by), OLD.resolved_at
                USING ERRCODE = 'AS001', TABLE = 'approval_requests', COLUMN = 'status',
                      CONSTRAINT = 'approval_requests_status_transition', HINT = 'a decision is final: ask again';
        END IF;
        RETURN NEW;
    END IF;
    IF OLD.expires_at <= clock_timestamp()
       AND (NEW.status IN ('approved', 'rejected') OR NEW.expires_at IS DISTINCT FROM OLD.expires_at) THEN
        RAISE EXCEPTION '% expired at %', OLD.id, OLD.expires_at
            USING ERRCODE = 'AS001', TABLE = 'approval_requests', COLUMN = 'status',
                  CONSTRAINT = 'approval_requests_status_transition', HINT = 'its time is over: ask again';
    END IF;
    IF NEW.status <> 'pending' THEN
        NEW.resolved_at := coalesce(NEW.resolved_at, clock_timestamp());
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER guard_decision BEFORE UPDATE ON approval_requests
    FOR EACH ROW EXECUTE FUNCTION trigger_guard_decision();
CREATE TRIGGER keep_session_id BEFORE UPDATE OF session_id ON approval_requests
    FOR EACH ROW WHEN (NEW.session_id IS DISTINCT FROM OLD.session_id)
    EXECUTE FUNCTION trigger_refuse_change('session_id', 'ask again for the other run');
CREATE TRIGGER keep_node_id BEFORE UPDATE OF node_id ON approval_requests
    FOR EACH ROW WHEN (NEW.node_id IS DISTINCT FROM OLD.node_id)
    EXECUTE FUNCTION trigger_refuse_change('node_id', 'ask again for the other node');
CREATE TRIGGER keep_type BEFORE UPDATE OF type ON approval_requests
    FOR EACH ROW WHEN (NEW.type IS DISTINCT FROM OLD.type)
    EXECUTE FUNCTION trigger_refuse_change('type', 'ask again with the other type');

-- The status of a run that waits for its oldest pending request; null when it has none. Volatile: it has to see all that
-- was committed before the lock of the run was granted.
CREATE FUNCTION awaited_by_run(run uuid) RETURNS text
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    RETURN (SELECT CASE type WHEN 'human_review' THEN 'waiting_for_human_review'
                             WHEN 'budget_increase' THEN 'waiting_for_budget_approval'
                             ELSE 'waiting_for_workflow_approval' END
              FROM approval_requests
             WHERE session_id = run AND status = 'pending'
               AND (expires_at IS NULL OR expires_at > clock_timestamp())
             ORDER BY id
             LIMIT 1);
END
$$;

-- A decision lets the run and the node that waited for it go on, whatever statement made it. Decisions of one run take
-- turns, so that the last one finds no other pending; under REPEATABLE READ the UPDATE fails one of them as retryable.
CREATE FUNCTION trigger_release_run() RETURNS trigger
LANGUAGE plpgsql AS $$
DECLARE
    present text;
BEGIN
    SELECT status INTO present FROM workflow_sessions WHERE id = OLD.session_id FOR NO KEY UPDATE;
    IF present LIKE 'waiting%' THEN
        present := coalesce(awaited_by_run(OLD.session_id), 'running');
    END IF;
    IF present NOT IN ('completed', 'failed') THEN
        UPDATE workflow_sessions SET status = present WHERE id = OLD.session_id;
        UPDATE node_execution_states
           SET status = 'running'
         WHERE session_id = OLD.session_id AND node_id = OLD.node_id AND pending_approval_id = OLD.id
           AND status IN ('waiting_for_approval', 'waiting_for_review');
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER release_run AFTER UPDATE OF status ON approval_requests
    FOR EACH ROW WHEN (OLD.status = 'pending' AND NEW.status <> 'pending') EXECUTE FUNCTION trigger_release_run();
CREATE TRIGGER release_run_of_deleted AFTER DELETE ON approval_requests
    FOR EACH ROW WHEN (OLD.status = 'pending') EXECUTE FUNCTION trigger_release_run();

-- Waiting sessions are notified at commit when the request is decided or deleted, whatever statement did it.
CREATE FUNCTION trigger_notify_approval() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify(notification_channel(TG_TABLE_NAME, TG_TABLE_SCHEMA), OLD.id::text);
    RETURN NULL;
END
$$;
CREATE TRIGGER notify_approval AFTER UPDATE OF status ON approval_requests
    FOR EACH ROW WHEN (OLD.status = 'pending' AND NEW.status <> 'pending') EXECUTE FUNCTION trigger_notify_approval();
CREATE TRIGGER notify_deleted AFTER DELETE ON approval_requests
    FOR EACH ROW WHEN (OLD.status = 'pending') EXECUTE FUNCTION trigger_notify_approval();
SELECT pin_search_path(
    'awaited_by_run(uuid)',
    'trigger_release_run()',
    'trigger_notify_approval()');

COMMENT ON TABLE approval_requests IS 'Questions of workflow runs to people; each is decided once';
COMMENT ON COLUMN approval_requests.id IS 'Primary key: a UUIDv7 by default, or the id that the caller gave';
COMMENT ON COLUMN approval_requests.session_id IS 'Run that waits for the decision';
COMMENT ON COLUMN approval_requests.node_id IS 'Node that asks, by its id in the workflow''s definition';
COMMENT ON COLUMN approval_requests.type IS 'Kind of the question';
COMMENT ON COLUMN approval_requests.status IS 'State of the request';
COMMENT ON COLUMN approval_requests.context IS 'JSON object of what has to be known for the decision';
COMMENT ON COLUMN approval_requests.expires_at IS 'Time after which the request is overdue; null for never';
COMMENT ON COLUMN approval_requests.resolved_at IS 'Time of the decision';
COMMENT ON COLUMN approval_requests.resolved_by IS 'Name of the person who decided; null if the request expired';
COMMENT ON COLUMN approval_requests.resolution_notes IS 'Reason for the decision';
COMMENT ON COLUMN approval_requests.created_at IS 'Time of the INSERT; never changes';
COMMENT ON COLUMN approval_requests.updated_at IS 'Time of the last UPDATE';
