CREATE TABLE tickets (
    id         uuid        PRIMARY KEY DEFAULT uuid_v7(),
    project_id uuid        NOT NULL REFERENCES projects (id) ON DELETE CASCADE,
    title      text        NOT NULL CHECK (title <> ''),
    overview   text,
    status     text        NOT NULL DEFAULT 'open' CHECK (status IN ('open', 'in_progress', 'done', 'closed')),
    priority   integer     NOT NULL DEFAULT 0,
    assignee   text,
    labels     text[]      NOT NULL DEFAULT '{}',
    archived_at timestamptz,                                -- set: archived, and left out of every list
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX tickets_project_id_idx ON tickets (project_id, id);
CREATE INDEX tickets_open_idx ON tickets (project_id, status, id) WHERE archived_at IS NULL;
CREATE INDEX tickets_assignee_idx ON tickets (assignee, id) WHERE archived_at IS NULL;
CREATE INDEX tickets_labels_idx ON tickets USING gin (labels);
CREATE TRIGGER set_timestamp BEFORE UPDATE ON tickets FOR EACH ROW EXECUTE FUNCTION trigger_set_timestamp();
