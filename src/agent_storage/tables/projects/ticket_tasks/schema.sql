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
    agent_id        text         CHECK (char_length(agent_id) <= 500),
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

COMMENT ON TABLE ticket_tasks IS 'Steps of tickets, in order';
COMMENT ON COLUMN ticket_tasks.id IS 'Primary key: a UUIDv7 by default, or the id that the caller gave';
COMMENT ON COLUMN ticket_tasks.ticket_id IS 'Ticket that the step belongs to';
COMMENT ON COLUMN ticket_tasks.content IS 'Text of the step';
COMMENT ON COLUMN ticket_tasks.description IS 'Details of the step';
COMMENT ON COLUMN ticket_tasks.done IS 'Whether the step is done';
COMMENT ON COLUMN ticket_tasks.position IS 'Position within the ticket, counted from 1; by default after the last step';
COMMENT ON COLUMN ticket_tasks.estimated_hours IS 'Estimated effort in hours';
COMMENT ON COLUMN ticket_tasks.depends_on IS 'Ids of the steps that have to be done before';
COMMENT ON COLUMN ticket_tasks.tags IS 'Tags of the step';
COMMENT ON COLUMN ticket_tasks.agent_id IS 'Id of the agent that works on the step';
COMMENT ON COLUMN ticket_tasks.created_at IS 'Time of the INSERT; never changes';
COMMENT ON COLUMN ticket_tasks.updated_at IS 'Time of the last UPDATE';
