CREATE TABLE approval_requests (
    id               uuid        PRIMARY KEY DEFAULT uuid_v7(),
    session_id       uuid        NOT NULL REFERENCES workflow_sessions (id) ON DELETE CASCADE,
    node_id          text        NOT NULL CHECK (node_id <> ''),
    type             text        NOT NULL CHECK (type IN ('human_review', 'budget_increase', 'workflow_call')),
    status           text        NOT NULL DEFAULT 'pending'
                                 CHECK (status IN ('pending', 'approved', 'rejected', 'expired')),
    context          jsonb       NOT NULL DEFAULT '{}',
    expires_at       timestamptz,
    resolved_at      timestamptz,
    resolved_by      text,
    resolution_notes text,
    created_at       timestamptz NOT NULL DEFAULT now(),
    updated_at       timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX approval_requests_session_id_idx ON approval_requests (session_id, id);
CREATE INDEX approval_requests_pending_idx ON approval_requests (id) WHERE status = 'pending';
CREATE INDEX approval_requests_overdue_idx ON approval_requests (expires_at) WHERE status = 'pending';
CREATE TRIGGER set_timestamp BEFORE UPDATE ON approval_requests FOR EACH ROW EXECUTE FUNCTION trigger_set_timestamp();

-- Whoever waits for a decision hears of it at commit, whatever statement made it.
CREATE FUNCTION trigger_notify_approval() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('approval_requests', NEW.id::text);
    RETURN NULL;
END
$$;
CREATE TRIGGER notify_approval AFTER UPDATE OF status ON approval_requests
    FOR EACH ROW WHEN (OLD.status = 'pending' AND NEW.status <> 'pending') EXECUTE FUNCTION trigger_notify_approval();
