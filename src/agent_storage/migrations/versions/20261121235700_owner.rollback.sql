DROP INDEX llm_executions_created_at_idx;
DROP INDEX messages_created_at_idx;
ALTER TABLE checkpoints DROP COLUMN owner;
ALTER TABLE workflow_sessions DROP COLUMN owner;
ALTER TABLE workflows DROP COLUMN owner;
ALTER TABLE sessions DROP COLUMN owner;
ALTER TABLE projects DROP COLUMN owner;
ALTER TABLE conversations DROP COLUMN owner;
