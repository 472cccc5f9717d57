-- Project planning: projects, their files, tickets, tasks and comments; conversations may belong to a project.

CREATE TABLE projects (
    id          uuid        PRIMARY KEY DEFAULT uuid_v7(),
    name        text        NOT NULL CHECK (name <> ''),
    path        text        NOT NULL UNIQUE CHECK (path <> ''),
    description text,
    settings    jsonb       NOT NULL DEFAULT '{}',
    created_at  timestamptz NOT NULL DEFAULT now(),
    updated_at  timestamptz NOT NULL DEFAULT now()
);
CREATE TRIGGER set_timestamp BEFORE UPDATE ON projects FOR EACH ROW EXECUTE FUNCTION trigger_set_timestamp();

CREATE TABLE project_files (
    id            uuid        PRIMARY KEY DEFAULT uuid_v7(),
    project_id    uuid        NOT NULL REFERENCES projects (id) ON DELETE CASCADE,
    path          text        NOT NULL CHECK (path <> ''),
    extension     text,
    size_bytes    bigint      NOT NULL DEFAULT 0 CHECK (size_bytes >= 0),
    checksum      text,
    content       text,
    summary       text,
    summarized_at timestamptz,
    imports       jsonb       NOT NULL DEFAULT '[]',
    exports       jsonb       NOT NULL DEFAULT '[]',
    created_at    timestamptz NOT NULL DEFAULT now(),
    updated_at    timestamptz NOT NULL DEFAULT now(),
    UNIQUE (project_id, path)
);
CREATE TRIGGER set_timestamp BEFORE UPDATE ON project_files FOR EACH ROW EXECUTE FUNCTION trigger_set_timestamp();

CREATE TABLE tickets (
    id         uuid        PRIMARY KEY DEFAULT uuid_v7(),
    project_id uuid        NOT NULL REFERENCES projects (id) ON DELETE CASCADE,
    title      text        NOT NULL CHECK (title <> ''),
    overview   text,
    status     text        NOT NULL DEFAULT 'open' CHECK (status IN ('open', 'in_progress', 'done', 'closed')),
    priority   integer     NOT NULL DEFAULT 0,
    assignee   text,
    labels     text[]      NOT NULL DEFAULT '{}',
    deleted_at timestamptz,                                 -- set: archived, and left out of every list
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX tickets_project_id_idx ON tickets (project_id, id);
CREATE INDEX tickets_open_idx ON tickets (project_id, status, id) WHERE deleted_at IS NULL;
CREATE INDEX tickets_assignee_idx ON tickets (assignee, id) WHERE deleted_at IS NULL;
CREATE INDEX tickets_labels_idx ON tickets USING gin (labels);
CREATE TRIGGER set_timestamp BEFORE UPDATE ON tickets FOR EACH ROW EXECUTE FUNCTION trigger_set_timestamp();

-- The order of a ticket's tasks is unique at the end of every statement, so one UPDATE may turn it round.
CREATE TABLE ticket_tasks (
    id              uuid         PRIMARY KEY DEFAULT uuid_v7(),
    ticket_id       uuid         NOT NULL REFERENCES tickets (id) ON DELETE CASCADE,
    content         text         NOT NULL,
    description     text,
    done            boolean      NOT NULL DEFAULT false,
    position        integer      NOT NULL CHECK (position > 0),
    estimated_hours numeric(8,2) CHECK (estimated_hours >= 0),
    depends_on      uuid[]       NOT NULL DEFAULT '{}',
    tags            text[]       NOT NULL DEFAULT '{}',
    agent_id        text,
    created_at      timestamptz  NOT NULL DEFAULT now(),
    updated_at      timestamptz  NOT NULL DEFAULT now(),
    UNIQUE (ticket_id, position) DEFERRABLE INITIALLY IMMEDIATE
);
CREATE INDEX ticket_tasks_agent_id_idx ON ticket_tasks (agent_id, id) WHERE agent_id IS NOT NULL;
CREATE TRIGGER set_timestamp BEFORE UPDATE ON ticket_tasks FOR EACH ROW EXECUTE FUNCTION trigger_set_timestamp();

-- A task without a position becomes its ticket's last. The ticket's row lock, held to commit, makes concurrent ones queue.
CREATE FUNCTION trigger_place_ticket_task() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM tickets WHERE id = NEW.ticket_id FOR NO KEY UPDATE;
    NEW.position := (SELECT coalesce(max(position), 0) + 1 FROM ticket_tasks WHERE ticket_id = NEW.ticket_id);
    RETURN NEW;
END
$$;
CREATE TRIGGER place_ticket_task BEFORE INSERT ON ticket_tasks
    FOR EACH ROW WHEN (NEW.position IS NULL) EXECUTE FUNCTION trigger_place_ticket_task();

CREATE TABLE ticket_comments (
    id         uuid        PRIMARY KEY DEFAULT uuid_v7(),
    ticket_id  uuid        NOT NULL REFERENCES tickets (id) ON DELETE CASCADE,
    author     text        NOT NULL CHECK (author <> ''),
    body       text        NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX ticket_comments_ticket_id_idx ON ticket_comments (ticket_id, id);
CREATE TRIGGER set_timestamp BEFORE UPDATE ON ticket_comments FOR EACH ROW EXECUTE FUNCTION trigger_set_timestamp();

-- Until now a conversation's project was an id that nothing checked: each becomes a project, so that none is lost.
INSERT INTO projects (id, name, path)
SELECT DISTINCT project_id, project_id::text, project_id::text FROM conversations WHERE project_id IS NOT NULL;
ALTER TABLE conversations
    ADD CONSTRAINT conversations_project_id_fkey FOREIGN KEY (project_id) REFERENCES projects (id) ON DELETE SET NULL;
