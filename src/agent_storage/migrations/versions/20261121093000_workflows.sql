-- Workflow runs: definitions, sessions, budgets, execution states, model and tool calls, approvals, streams of events.

CREATE TABLE workflows (
    id         uuid        PRIMARY KEY DEFAULT uuid_v7(),
    name       text        NOT NULL CHECK (name <> ''),
    version    text        NOT NULL DEFAULT '1',
    definition jsonb       NOT NULL,
    metadata   jsonb       NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX workflows_name_idx ON workflows (name, version, id);      -- not unique: a version may be saved again
CREATE TRIGGER set_timestamp BEFORE UPDATE ON workflows FOR EACH ROW EXECUTE FUNCTION trigger_set_timestamp();

-- A run keeps the definition that it started with: neither a change nor the end of its workflow touches the snapshot.
CREATE TABLE workflow_sessions (
    id                uuid        PRIMARY KEY DEFAULT uuid_v7(),
    workflow_id       uuid        REFERENCES workflows (id) ON DELETE SET NULL,
    workflow_snapshot jsonb       NOT NULL,
    status            text        NOT NULL DEFAULT 'running'
                                  CHECK (status IN ('running', 'paused', 'completed', 'failed',
                                                    'waiting_for_human_review', 'waiting_for_budget_approval',
                                                    'waiting_for_workflow_approval')),
    metadata          jsonb       NOT NULL DEFAULT '{}',
    created_at        timestamptz NOT NULL DEFAULT now(),
    updated_at        timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX workflow_sessions_workflow_id_idx ON workflow_sessions (workflow_id, id);
CREATE INDEX workflow_sessions_status_idx ON workflow_sessions (status, id);
CREATE TRIGGER set_timestamp BEFORE UPDATE ON workflow_sessions FOR EACH ROW EXECUTE FUNCTION trigger_set_timestamp();

CREATE FUNCTION trigger_keep_workflow_snapshot() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the workflow snapshot of session % cannot be changed', OLD.id
        USING ERRCODE = 'AS001', TABLE = 'workflow_sessions', COLUMN = 'workflow_snapshot',
              CONSTRAINT = 'workflow_snapshot_is_immutable', HINT = 'start another session for another definition';
END
$$;
CREATE TRIGGER keep_workflow_snapshot BEFORE UPDATE OF workflow_snapshot ON workflow_sessions
    FOR EACH ROW WHEN (NEW.workflow_snapshot IS DISTINCT FROM OLD.workflow_snapshot)
    EXECUTE FUNCTION trigger_keep_workflow_snapshot();

-- fillfactor 70: a spend updates the pool and all pools above it; no index holds the amounts, so with room on the page
-- every spend is a HOT update; without, 78 % (measured, see benchmarks/growth.py).
CREATE TABLE budget_pools (
    id               uuid          PRIMARY KEY DEFAULT uuid_v7(),
    parent_pool_id   uuid          REFERENCES budget_pools (id) CHECK (parent_pool_id <> id),
    total_budget     numeric(20,6) NOT NULL CHECK (total_budget >= 0),
    used_budget      numeric(20,6) NOT NULL DEFAULT 0 CHECK (used_budget >= 0),
    remaining_budget numeric(20,6) NOT NULL GENERATED ALWAYS AS (total_budget - used_budget) STORED,
    status           text          NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'exhausted', 'suspended')),
    metadata         jsonb         NOT NULL DEFAULT '{}',
    created_at       timestamptz   NOT NULL DEFAULT now(),
    updated_at       timestamptz   NOT NULL DEFAULT now(),
    CONSTRAINT budget_pools_used_within_total CHECK (used_budget <= total_budget)
) WITH (fillfactor = 70);
CREATE INDEX budget_pools_parent_pool_id_idx ON budget_pools (parent_pool_id, id);
CREATE TRIGGER set_timestamp BEFORE UPDATE ON budget_pools FOR EACH ROW EXECUTE FUNCTION trigger_set_timestamp();

-- A pool that reaches its total is exhausted, one that has something again is active; a suspended one stays so.
CREATE FUNCTION trigger_set_budget_pool_status() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    NEW.status := CASE WHEN NEW.used_budget >= NEW.total_budget THEN 'exhausted' ELSE 'active' END;
    RETURN NEW;
END
$$;
CREATE TRIGGER set_status BEFORE UPDATE OF total_budget, used_budget ON budget_pools
    FOR EACH ROW WHEN (NEW.status <> 'suspended'
                       AND (NEW.total_budget, NEW.used_budget) IS DISTINCT FROM (OLD.total_budget, OLD.used_budget))
    EXECUTE FUNCTION trigger_set_budget_pool_status();

-- What was spent has been charged to the pools above; another parent would not know of it.
CREATE FUNCTION trigger_keep_parent_pool() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'budget pool % cannot move to another parent', OLD.id
        USING ERRCODE = 'AS001', TABLE = 'budget_pools', COLUMN = 'parent_pool_id',
              CONSTRAINT = 'parent_pool_is_immutable', HINT = 'allocate a new pool under the other parent';
END
$$;
CREATE TRIGGER keep_parent_pool BEFORE UPDATE OF parent_pool_id ON budget_pools
    FOR EACH ROW WHEN (NEW.parent_pool_id IS DISTINCT FROM OLD.parent_pool_id)
    EXECUTE FUNCTION trigger_keep_parent_pool();

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

CREATE TABLE llm_executions (
    id                uuid        PRIMARY KEY DEFAULT uuid_v7(),
    session_id        uuid        NOT NULL REFERENCES workflow_sessions (id) ON DELETE CASCADE,
    node_id           text        NOT NULL CHECK (node_id <> ''),
    success           boolean     NOT NULL DEFAULT true,
    text              text,
    tool_calls        jsonb       NOT NULL DEFAULT '[]',
    prompt_tokens     integer     CHECK (prompt_tokens >= 0),
    completion_tokens integer     CHECK (completion_tokens >= 0),
    total_tokens      integer     CHECK (total_tokens >= 0),
    cost              numeric     CHECK (cost >= 0),
    error             text,
    metadata          jsonb       NOT NULL DEFAULT '{}',
    created_at        timestamptz NOT NULL DEFAULT now(),
    updated_at        timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX llm_executions_session_id_idx ON llm_executions (session_id, id);
CREATE INDEX llm_executions_node_id_idx ON llm_executions (session_id, node_id, id);
CREATE TRIGGER set_timestamp BEFORE UPDATE ON llm_executions FOR EACH ROW EXECUTE FUNCTION trigger_set_timestamp();

CREATE TABLE tool_call_logs (
    id           uuid        PRIMARY KEY DEFAULT uuid_v7(),
    execution_id uuid        NOT NULL REFERENCES llm_executions (id) ON DELETE CASCADE,
    tool_call_id text        NOT NULL,
    tool_name    text        NOT NULL CHECK (tool_name <> ''),
    args         jsonb       NOT NULL DEFAULT '{}',
    result       jsonb,
    error        text,
    duration_ms  integer     CHECK (duration_ms >= 0),
    created_at   timestamptz NOT NULL DEFAULT now(),
    updated_at   timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX tool_call_logs_execution_id_idx ON tool_call_logs (execution_id, id);
CREATE TRIGGER set_timestamp BEFORE UPDATE ON tool_call_logs FOR EACH ROW EXECUTE FUNCTION trigger_set_timestamp();

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

-- A stream and how far it has come. The row lock, held to commit, hands out sequences in the order of commits, so that a
-- reader behind "the last one I saw" misses none; they go on where they were when old events have been deleted.
CREATE TABLE event_streams (
    id            uuid        PRIMARY KEY DEFAULT uuid_v7(),
    stream_id     text        NOT NULL UNIQUE CHECK (stream_id <> ''),
    last_sequence bigint      NOT NULL DEFAULT 0 CHECK (last_sequence >= 0),
    created_at    timestamptz NOT NULL DEFAULT now(),
    updated_at    timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 50);
CREATE TRIGGER set_timestamp BEFORE UPDATE ON event_streams FOR EACH ROW EXECUTE FUNCTION trigger_set_timestamp();

-- Followers hear at commit that there is more to read, once for each stream and transaction.
CREATE FUNCTION trigger_notify_event_stream() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('event_streams', NEW.stream_id);
    RETURN NULL;
END
$$;
CREATE TRIGGER notify_event_stream AFTER INSERT OR UPDATE OF last_sequence ON event_streams
    FOR EACH ROW EXECUTE FUNCTION trigger_notify_event_stream();

-- Append only: vacuum when a fiftieth is new, so that index-only reads stay so.
CREATE TABLE stream_events (
    id         uuid        PRIMARY KEY DEFAULT uuid_v7(),
    stream_id  text        NOT NULL REFERENCES event_streams (stream_id) ON DELETE CASCADE,
    node_id    text,
    sequence   bigint      NOT NULL CHECK (sequence > 0),
    data       jsonb       NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (stream_id, sequence)
) WITH (autovacuum_vacuum_insert_scale_factor = 0.02);
CREATE TRIGGER set_timestamp BEFORE UPDATE ON stream_events FOR EACH ROW EXECUTE FUNCTION trigger_set_timestamp();
