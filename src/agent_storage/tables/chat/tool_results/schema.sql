CREATE TABLE tool_results (
    id              uuid        PRIMARY KEY DEFAULT uuid_v7(),
    conversation_id uuid        NOT NULL REFERENCES conversations (id) ON DELETE CASCADE,
    message_id      uuid        REFERENCES messages (id) ON DELETE SET NULL,
    tool_config_id  uuid        REFERENCES tool_configs (id) ON DELETE SET NULL,
    tool_call_id    text        NOT NULL,
    tool_name       text        NOT NULL,
    arguments       jsonb       NOT NULL DEFAULT '{}',
    result          jsonb,
    error           text,
    status          text        NOT NULL DEFAULT 'pending'
                                CHECK (status IN ('pending', 'running', 'success', 'error', 'timeout', 'cancelled')),
    started_at      timestamptz,
    duration_ms     integer     CHECK (duration_ms >= 0),
    created_at      timestamptz NOT NULL DEFAULT now(),
    updated_at      timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX tool_results_conversation_id_idx ON tool_results (conversation_id, id);
CREATE INDEX tool_results_message_id_idx ON tool_results (message_id);
CREATE INDEX tool_results_tool_config_id_idx ON tool_results (tool_config_id);
CREATE INDEX tool_results_created_at_idx ON tool_results (created_at);
CREATE INDEX tool_results_open_idx ON tool_results (status, started_at) WHERE status IN ('pending', 'running');
CREATE TRIGGER set_timestamp BEFORE UPDATE ON tool_results FOR EACH ROW EXECUTE FUNCTION trigger_set_timestamp();

-- A call that is created running without a start has started now.
CREATE FUNCTION trigger_set_started_at() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    NEW.started_at := clock_timestamp();
    RETURN NEW;
END
$$;
CREATE TRIGGER set_started_at BEFORE INSERT ON tool_results
    FOR EACH ROW WHEN (NEW.status = 'running' AND NEW.started_at IS NULL) EXECUTE FUNCTION trigger_set_started_at();
