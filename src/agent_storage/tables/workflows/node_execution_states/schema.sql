CREATE TABLE node_execution_states (
    id                  uuid        PRIMARY KEY DEFAULT uuid_v7(),
    session_id          uuid        NOT NULL REFERENCES workflow_sessions (id) ON DELETE CASCADE,
    node_id             text        NOT NULL CHECK (node_id <> ''),
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
