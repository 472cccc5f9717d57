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

COMMENT ON TABLE approval_requests IS 'Questions of workflow runs to people; each is decided once';
COMMENT ON COLUMN approval_requests.id IS 'Primary key: a UUIDv7 by default, or the id that the caller gave';
COMMENT ON COLUMN approval_requests.session_id IS 'Run that waits for the decision';
COMMENT ON COLUMN approval_requests.node_id IS 'Node that asks, by its id in the workflow''s definition';
COMMENT ON COLUMN approval_requests.type IS 'Kind of the question';
COMMENT ON COLUMN approval_requests.status IS 'State of the request';
COMMENT ON COLUMN approval_requests.context IS 'JSON object of what has to be known for the decision';
COMMENT ON COLUMN approval_requests.expires_at IS 'Time after which the request is overdue; null for never';
COMMENT ON COLUMN approval_requests.resolved_at IS 'Time of the decision';
COMMENT ON COLUMN approval_requests.resolved_by IS 'Name of the person who decided';
COMMENT ON COLUMN approval_requests.resolution_notes IS 'Reason for the decision';
COMMENT ON COLUMN approval_requests.created_at IS 'Time of the INSERT; never changes';
COMMENT ON COLUMN approval_requests.updated_at IS 'Time of the last UPDATE';
