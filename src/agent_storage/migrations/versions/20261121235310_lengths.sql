-- Every text that an index holds has a length that fits into one. A longer text was refused by the index (54000), or
-- stored if it could be compressed. If a row has a longer one, this migration fails and changes nothing: shorten it first.

ALTER TABLE checkpoints
    ADD CONSTRAINT checkpoints_session_id_check CHECK (char_length(session_id) <= 500),
    ADD CONSTRAINT checkpoints_agent_type_check CHECK (char_length(agent_type) <= 500);
ALTER TABLE tickets
    ADD CONSTRAINT tickets_assignee_check CHECK (char_length(assignee) <= 500),
    ADD CONSTRAINT tickets_labels_check CHECK (labels = labels::varchar(500)[]::text[]);
ALTER TABLE ticket_tasks
    ADD CONSTRAINT ticket_tasks_agent_id_check CHECK (char_length(agent_id) <= 500);
ALTER TABLE workflows
    ADD CONSTRAINT workflows_version_check CHECK (char_length(version) <= 100);
