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
