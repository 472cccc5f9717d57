-- Owners: the user or tenant to which a row belongs, in the order of the table's list. Rows without one cost no index entry.

ALTER TABLE conversations ADD COLUMN owner text CHECK (char_length(owner) BETWEEN 1 AND 500);
CREATE INDEX conversations_owner_idx ON conversations (owner, last_message_at, id) WHERE owner IS NOT NULL;
COMMENT ON COLUMN conversations.owner IS 'User or tenant to which the conversation belongs; null if not said';

ALTER TABLE projects ADD COLUMN owner text CHECK (char_length(owner) BETWEEN 1 AND 500);
CREATE INDEX projects_owner_idx ON projects (owner, id) WHERE owner IS NOT NULL;
COMMENT ON COLUMN projects.owner IS 'User or tenant to which the project belongs; null if not said';

ALTER TABLE sessions ADD COLUMN owner text CHECK (char_length(owner) BETWEEN 1 AND 500);
CREATE INDEX sessions_owner_idx ON sessions (owner, id) WHERE owner IS NOT NULL;
COMMENT ON COLUMN sessions.owner IS 'User or tenant to which the session belongs; null if not said';

ALTER TABLE workflows ADD COLUMN owner text CHECK (char_length(owner) BETWEEN 1 AND 500);
CREATE INDEX workflows_owner_idx ON workflows (owner, id) WHERE owner IS NOT NULL;
COMMENT ON COLUMN workflows.owner IS 'User or tenant to which the workflow belongs; null if not said';

ALTER TABLE workflow_sessions ADD COLUMN owner text CHECK (char_length(owner) BETWEEN 1 AND 500);
CREATE INDEX workflow_sessions_owner_idx ON workflow_sessions (owner, id) WHERE owner IS NOT NULL;
COMMENT ON COLUMN workflow_sessions.owner IS 'User or tenant to which the run belongs; null if not said';

ALTER TABLE checkpoints ADD COLUMN owner text CHECK (char_length(owner) BETWEEN 1 AND 500);
CREATE INDEX checkpoints_owner_idx ON checkpoints (owner, captured_at DESC, id DESC) WHERE owner IS NOT NULL;
COMMENT ON COLUMN checkpoints.owner IS 'User or tenant to which the checkpoint belongs; null if not said';

-- Usage of a time. BRIN: the rows of a time lie together, and an INSERT pays nothing.
CREATE INDEX messages_created_at_idx ON messages USING brin (created_at);
CREATE INDEX llm_executions_created_at_idx ON llm_executions USING brin (created_at);
