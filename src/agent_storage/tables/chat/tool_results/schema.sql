CREATE TABLE tool_results (
    id              uuid        PRIMARY KEY DEFAULT uuid_v7(),
    conversation_id uuid        NOT NULL REFERENCES conversations (id) ON DELETE CASCADE,
    message_id      uuid        REFERENCES messages (id) ON DELETE SET NULL,
    tool_config_id  uuid        REFERENCES tool_configs (id) ON DELETE SET NULL,
    tool_call_id    text        NOT NULL CHECK (char_length(tool_call_id) BETWEEN 1 AND 500),
    tool_name       text        NOT NULL CHECK (char_length(tool_name) BETWEEN 1 AND 500),
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
CREATE TRIGGER check_transition BEFORE UPDATE ON tool_results
    FOR EACH ROW WHEN (NEW.status IS DISTINCT FROM OLD.status) EXECUTE FUNCTION trigger_check_transition(
        'pending -> running success error timeout cancelled',
        'running -> success error timeout cancelled');

-- A call that is created running without a start has started now, an imported one when it was created.
CREATE FUNCTION trigger_set_started_at() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    NEW.started_at := CASE WHEN NEW.created_at = now() THEN clock_timestamp() ELSE NEW.created_at END;
    RETURN NEW;
END
$$;
CREATE TRIGGER set_started_at BEFORE INSERT ON tool_results
    FOR EACH ROW WHEN (NEW.status = 'running' AND NEW.started_at IS NULL) EXECUTE FUNCTION trigger_set_started_at();

COMMENT ON TABLE tool_results IS 'Tool calls of conversations: arguments, results or errors, and durations';
COMMENT ON COLUMN tool_results.id IS 'Primary key: a UUIDv7 by default, or the id that the caller gave';
COMMENT ON COLUMN tool_results.conversation_id IS 'Conversation in which the tool was called';
COMMENT ON COLUMN tool_results.message_id IS 'Message that asked for the call';
COMMENT ON COLUMN tool_results.tool_config_id IS 'Configuration of the tool that was called';
COMMENT ON COLUMN tool_results.tool_call_id IS 'Id of the call, as the model gave it';
COMMENT ON COLUMN tool_results.tool_name IS 'Name of the tool at the time of the call';
COMMENT ON COLUMN tool_results.arguments IS 'JSON object of the call''s arguments';
COMMENT ON COLUMN tool_results.result IS 'JSON value that the tool returned';
COMMENT ON COLUMN tool_results.error IS 'Error message of a call that failed';
COMMENT ON COLUMN tool_results.status IS 'State of the call';
COMMENT ON COLUMN tool_results.started_at IS 'Time at which the tool was started';
COMMENT ON COLUMN tool_results.duration_ms IS 'Duration of the call in milliseconds';
COMMENT ON COLUMN tool_results.created_at IS 'Time of the INSERT; never changes';
COMMENT ON COLUMN tool_results.updated_at IS 'Time of the last UPDATE';
