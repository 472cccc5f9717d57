CREATE TABLE tasks (
    id           uuid        PRIMARY KEY DEFAULT uuid_v7(),
    session_id   uuid        NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    status       text        NOT NULL DEFAULT 'created' CHECK (status IN ('created', 'running', 'completed', 'failed')),
    completed_at timestamptz,
    data         jsonb       NOT NULL DEFAULT '{}',
    created_at   timestamptz NOT NULL DEFAULT now(),
    updated_at   timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX tasks_session_id_idx ON tasks (session_id, id);
CREATE INDEX tasks_running_idx ON tasks (id) WHERE status = 'running';
CREATE TRIGGER set_timestamp BEFORE UPDATE ON tasks FOR EACH ROW EXECUTE FUNCTION trigger_set_timestamp();
