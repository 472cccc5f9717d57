CREATE TABLE tickets (
    id         uuid        PRIMARY KEY DEFAULT uuid_v7(),
    project_id uuid        NOT NULL REFERENCES projects (id) ON DELETE CASCADE,
    title      text        NOT NULL CHECK (char_length(title) BETWEEN 1 AND 500),
    overview   text,
    status     text        NOT NULL DEFAULT 'open' CHECK (status IN ('open', 'in_progress', 'done', 'closed')),
    priority   integer     NOT NULL DEFAULT 0,
    assignee   text        CHECK (char_length(assignee) <= 500),
    labels     text[]      NOT NULL DEFAULT '{}'
                           CHECK (labels = labels::varchar(500)[]::text[]),         -- the cast would cut a longer one
    archived_at timestamptz,                                -- set: archived, and left out of every list
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX tickets_project_id_idx ON tickets (project_id, id);
CREATE INDEX tickets_open_idx ON tickets (project_id, status, id) WHERE archived_at IS NULL;
CREATE INDEX tickets_assignee_idx ON tickets (assignee, id) WHERE archived_at IS NULL;
CREATE INDEX tickets_labels_idx ON tickets USING gin (labels);
CREATE TRIGGER set_timestamp BEFORE UPDATE ON tickets FOR EACH ROW EXECUTE FUNCTION trigger_set_timestamp();

COMMENT ON TABLE tickets IS 'Tickets of projects; lists leave archived ones out';
COMMENT ON COLUMN tickets.id IS 'Primary key: a UUIDv7 by default, or the id that the caller gave';
COMMENT ON COLUMN tickets.project_id IS 'Project that the ticket belongs to';
COMMENT ON COLUMN tickets.title IS 'Title of the ticket';
COMMENT ON COLUMN tickets.overview IS 'Description of the work';
COMMENT ON COLUMN tickets.status IS 'State of the ticket';
COMMENT ON COLUMN tickets.priority IS 'Priority; higher ones come first';
COMMENT ON COLUMN tickets.assignee IS 'Name of the person or agent that works on the ticket';
COMMENT ON COLUMN tickets.labels IS 'Labels of the ticket';
COMMENT ON COLUMN tickets.archived_at IS 'Time of archiving; null while the ticket is active';
COMMENT ON COLUMN tickets.created_at IS 'Time of the INSERT; never changes';
COMMENT ON COLUMN tickets.updated_at IS 'Time of the last UPDATE';
