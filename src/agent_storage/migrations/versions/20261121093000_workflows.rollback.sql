-- Takes workflow runs away again, with everything that is stored in them.

DROP TABLE stream_events;
DROP TABLE event_streams;
DROP FUNCTION trigger_notify_event_stream();
DROP TABLE approval_requests;
DROP FUNCTION trigger_notify_approval();
DROP TABLE tool_call_logs;
DROP TABLE llm_executions;
DROP TABLE node_execution_states;
DROP TABLE execution_states;
DROP TABLE budget_pools;
DROP FUNCTION trigger_keep_parent_pool();
DROP FUNCTION trigger_set_budget_pool_status();
DROP TABLE workflow_sessions;
DROP FUNCTION trigger_keep_workflow_snapshot();
DROP TABLE workflows;
