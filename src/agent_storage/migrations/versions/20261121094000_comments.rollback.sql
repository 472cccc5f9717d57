-- Removes the descriptions of all tables and columns.

DO $$
DECLARE
    object record;
BEGIN
    FOR object IN
        SELECT c.oid::regclass AS of, a.attname AS field
          FROM unnest(ARRAY[
                   'providers', 'models', 'conversations', 'messages', 'tool_configs', 'tool_results', 'checkpoints',
                   'boards', 'repos', 'sessions', 'tasks', 'projects', 'project_files', 'tickets', 'ticket_tasks',
                   'ticket_comments', 'workflows', 'workflow_sessions', 'budget_pools', 'execution_states',
                   'node_execution_states', 'llm_executions', 'tool_call_logs', 'approval_requests', 'event_streams',
                   'stream_events'
               ]) AS name
          JOIN pg_class c ON c.oid = name::regclass
          LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    LOOP
        EXECUTE format('COMMENT ON TABLE %s IS NULL', object.of);
        EXECUTE format('COMMENT ON COLUMN %s.%I IS NULL', object.of, object.field);
    END LOOP;
END
$$;
