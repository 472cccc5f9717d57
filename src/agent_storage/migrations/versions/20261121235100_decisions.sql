-- Statuses move only along their state machines, and an approval is decided once: also for raw SQL.

-- Refuse an UPDATE that moves the status where it cannot go. Each argument is a status and those that may follow it,
-- 'running -> completed failed'; a status without an argument is final. An INSERT may have any status. Reported as an
-- InvalidTransition.
CREATE FUNCTION trigger_check_transition() RETURNS trigger
LANGUAGE plpgsql AS $$
DECLARE
    allowed text;
BEGIN
    SELECT split_part(rule, ' -> ', 2) INTO allowed
      FROM unnest(TG_ARGV) AS rule
     WHERE split_part(rule, ' -> ', 1) = OLD.status;
    IF NEW.status = ANY (string_to_array(allowed, ' ')) THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION 'status of row % cannot change from % to %', OLD.id, OLD.status, NEW.status
        USING ERRCODE = 'AS001', TABLE = TG_TABLE_NAME, COLUMN = 'status',
              CONSTRAINT = TG_TABLE_NAME || '_status_transition',
              HINT = coalesce('after ' || OLD.status || ' may follow: ' || replace(allowed, ' ', ', '),
                              OLD.status || ' is final');
END
$$;

CREATE TRIGGER check_transition BEFORE UPDATE ON tool_results
    FOR EACH ROW WHEN (NEW.status IS DISTINCT FROM OLD.status) EXECUTE FUNCTION trigger_check_transition(
        'pending -> running success error timeout cancelled',
        'running -> success error timeout cancelled');

CREATE TRIGGER check_transition BEFORE UPDATE ON sessions
    FOR EACH ROW WHEN (NEW.status IS DISTINCT FROM OLD.status) EXECUTE FUNCTION trigger_check_transition(
        'idle -> running failed',
        'running -> completed failed');

CREATE TRIGGER check_transition BEFORE UPDATE ON tasks
    FOR EACH ROW WHEN (NEW.status IS DISTINCT FROM OLD.status) EXECUTE FUNCTION trigger_check_transition(
        'created -> running failed',
        'running -> completed failed');

CREATE TRIGGER check_transition BEFORE UPDATE ON workflow_sessions
    FOR EACH ROW WHEN (NEW.status IS DISTINCT FROM OLD.status) EXECUTE FUNCTION trigger_check_transition(
        'running -> paused completed failed waiting_for_human_review waiting_for_budget_approval '
        'waiting_for_workflow_approval',
        'paused -> running failed waiting_for_human_review waiting_for_budget_approval waiting_for_workflow_approval',
        'waiting_for_human_review -> running paused failed waiting_for_budget_approval waiting_for_workflow_approval',
        'waiting_for_budget_approval -> running paused failed waiting_for_human_review waiting_for_workflow_approval',
        'waiting_for_workflow_approval -> running paused failed waiting_for_human_review waiting_for_budget_approval',
        'failed -> running');

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

CREATE TRIGGER check_transition BEFORE UPDATE ON node_execution_states
    FOR EACH ROW WHEN (NEW.status IS DISTINCT FROM OLD.status) EXECUTE FUNCTION trigger_check_transition(
        'pending -> running completed failed skipped waiting_for_approval waiting_for_review',
        'running -> completed failed skipped waiting_for_approval waiting_for_review',
        'waiting_for_approval -> running completed failed skipped waiting_for_review',
        'waiting_for_review -> running completed failed skipped waiting_for_approval',
        'failed -> pending running skipped');

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

-- Rows that older releases allowed: a pending request loses the traces of an undone decision; a decision without its
-- time or its author gets the time of the last UPDATE and the author 'unknown'.
UPDATE approval_requests
   SET resolved_at = CASE WHEN status <> 'pending' THEN coalesce(resolved_at, updated_at) END,
       resolved_by = CASE WHEN status IN ('approved', 'rejected') THEN coalesce(resolved_by, 'unknown')
                          WHEN status = 'expired' THEN resolved_by END,
       resolution_notes = CASE WHEN status <> 'pending' THEN resolution_notes END
 WHERE CASE status
           WHEN 'pending' THEN num_nonnulls(resolved_at, resolved_by, resolution_notes) > 0
           WHEN 'expired' THEN resolved_at IS NULL
           ELSE num_nulls(resolved_at, resolved_by) > 0
       END;
ALTER TABLE approval_requests
    ADD CONSTRAINT approval_requests_decision_check CHECK (
        CASE status
            WHEN 'pending' THEN resolved_at IS NULL AND resolved_by IS NULL AND resolution_notes IS NULL
            WHEN 'expired' THEN resolved_at IS NOT NULL
            ELSE resolved_at IS NOT NULL AND resolved_by IS NOT NULL
        END);

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
CREATE OR REPLACE FUNCTION trigger_notify_approval() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('approval_requests', OLD.id::text);
    RETURN NULL;
END
$$;
CREATE TRIGGER notify_deleted AFTER DELETE ON approval_requests
    FOR EACH ROW WHEN (OLD.status = 'pending') EXECUTE FUNCTION trigger_notify_approval();

COMMENT ON COLUMN node_execution_states.pending_approval_id IS 'Approval request that the node waits for, or waited for last';
COMMENT ON COLUMN approval_requests.resolved_by IS 'Name of the person who decided; null if the request expired';
