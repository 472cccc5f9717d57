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
CREATE TRIGGER check_transition BEFORE UPDATE ON tasks
    FOR EACH ROW WHEN (NEW.status IS DISTINCT FROM OLD.status) EXECUTE FUNCTION trigger_check_transition(
        'created -> running failed',
        'running -> completed failed');

COMMENT ON TABLE tasks IS 'Tasks of sessions: prompts and the work that they started';
COMMENT ON COLUMN tasks.id IS 'Primary key: a UUIDv7 by default, or the id that the caller gave';
COMMENT ON COLUMN tasks.session_id IS 'Session that does the work';
COMMENT ON COLUMN tasks.status IS 'State of the task';
COMMENT ON COLUMN tasks.completed_at IS 'Time at which the task was completed or failed';
COMMENT ON COLUMN tasks.data IS 'JSON object: prompt, model, state of the code, range of messages, report';
COMMENT ON COLUMN tasks.created_at IS 'Time of the INSERT; never changes';
COMMENT ON COLUMN tasks.updated_at IS 'Time of the last UPDATE';
