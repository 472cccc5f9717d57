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
CREATE INDEX ticket_tasks_depends_on_idx ON ticket_tasks USING gin (depends_on) WHERE depends_on <> '{}';
CREATE TRIGGER set_timestamp BEFORE UPDATE ON ticket_tasks FOR EACH ROW EXECUTE FUNCTION trigger_set_timestamp();

-- A task without a position becomes its ticket's last, and so does one that moves to another ticket, unless the UPDATE
-- gives it a position too. The ticket's row lock, held to commit, makes concurrent ones queue.
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
CREATE TRIGGER move_ticket_task BEFORE UPDATE OF ticket_id ON ticket_tasks
    FOR EACH ROW WHEN (NEW.ticket_id <> OLD.ticket_id AND NEW.position = OLD.position)
    EXECUTE FUNCTION trigger_place_ticket_task();

-- A step depends on steps of its own ticket, never in a circle; a deleted step is removed from what depended on it.
-- An INSERT locks the steps that it names, so that none is deleted or moved meanwhile. An UPDATE could close a circle
-- together with another one that cannot see it yet, so these take turns; above READ COMMITTED, see the sessions' genealogy.
-- Look-ups are as there: a circle of new rows has a least id, from which only greater ones are followed.
CREATE FUNCTION trigger_check_ticket_task_dependencies() RETURNS trigger
LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE
    added     uuid[] := NEW.depends_on;
    needed    uuid[];
    stray     uuid;
    dependent uuid;
BEGIN
    IF TG_OP = 'UPDATE' THEN
        PERFORM pg_advisory_xact_lock('ticket_tasks'::regclass::oid::integer, 0);
        added := ARRAY(SELECT unnest(NEW.depends_on) EXCEPT SELECT unnest(OLD.depends_on));
        PERFORM FROM ticket_tasks s WHERE s.id = ANY(added) ORDER BY s.id FOR KEY SHARE;
    ELSE
        PERFORM FROM ticket_tasks s WHERE s.id = ANY(added) ORDER BY s.id FOR SHARE;
    END IF;
    WITH RECURSIVE above (id) AS (
        SELECT unnest(NEW.depends_on)
         UNION
        SELECT unnest(step.depends_on)
          FROM above
         CROSS JOIN LATERAL (SELECT s.depends_on FROM ticket_tasks s WHERE s.id = above.id LIMIT 1) step
         WHERE above.id > NEW.id OR TG_OP = 'UPDATE'
    )
    SELECT array_agg(above.id ORDER BY above.id) INTO needed FROM above;
    SELECT direct.id INTO stray
      FROM unnest(NEW.depends_on) AS direct (id)
      LEFT JOIN LATERAL (SELECT s.ticket_id FROM ticket_tasks s WHERE s.id = direct.id LIMIT 1) step ON true
     WHERE step.ticket_id IS DISTINCT FROM NEW.ticket_id
     LIMIT 1;
    IF TG_OP = 'UPDATE' AND current_setting('transaction_isolation') <> 'read committed' THEN
        PERFORM FROM ticket_tasks WHERE id = ANY(needed) ORDER BY id FOR SHARE;
    END IF;
    IF stray IS NOT NULL THEN
        RAISE EXCEPTION 'step % depends on %, which is no step of its ticket', NEW.id, stray
            USING ERRCODE = 'foreign_key_violation', TABLE = 'ticket_tasks', COLUMN = 'depends_on',
                  CONSTRAINT = 'ticket_tasks_depends_on_fkey',
                  DETAIL = format('Key (depends_on)=(%s) is not present in ticket %s.', stray, NEW.ticket_id);
    ELSIF NEW.id = ANY(needed) THEN
        RAISE EXCEPTION 'step % would depend on itself', NEW.id
            USING ERRCODE = 'AS001', TABLE = 'ticket_tasks', COLUMN = 'depends_on',
                  CONSTRAINT = 'ticket_tasks_depends_on_without_cycle',
                  HINT = 'choose steps that do not depend on it';
    END IF;
    IF TG_OP = 'UPDATE' AND NEW.ticket_id <> OLD.ticket_id THEN
        SELECT s.id INTO dependent
          FROM ticket_tasks s
         WHERE s.depends_on @> ARRAY[NEW.id] AND s.depends_on <> '{}' AND s.ticket_id <> NEW.ticket_id
         LIMIT 1;
        IF dependent IS NOT NULL THEN
            RAISE EXCEPTION 'step % of another ticket depends on step %', dependent, NEW.id
                USING ERRCODE = 'AS001', TABLE = 'ticket_tasks', COLUMN = 'ticket_id',
                      CONSTRAINT = 'ticket_tasks_depends_on_same_ticket',
                      HINT = 'remove the dependency first, or move both in one statement';
        END IF;
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER check_dependencies_on_insert AFTER INSERT ON ticket_tasks
    FOR EACH ROW WHEN (NEW.depends_on <> '{}') EXECUTE FUNCTION trigger_check_ticket_task_dependencies();
CREATE TRIGGER check_dependencies_on_update AFTER UPDATE OF id, ticket_id, depends_on ON ticket_tasks
    FOR EACH ROW WHEN (NEW.id <> OLD.id OR NEW.ticket_id <> OLD.ticket_id OR NOT NEW.depends_on <@ OLD.depends_on)
    EXECUTE FUNCTION trigger_check_ticket_task_dependencies();

CREATE FUNCTION trigger_forget_ticket_tasks() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    UPDATE ticket_tasks t
       SET depends_on = ARRAY(SELECT kept.id
                                FROM unnest(t.depends_on) WITH ORDINALITY AS kept (id, nth)
                               WHERE NOT EXISTS (SELECT FROM gone WHERE gone.id = kept.id)
                               ORDER BY nth)
     WHERE t.depends_on && (SELECT array_agg(gone.id) FROM gone) AND t.depends_on <> '{}';
    RETURN NULL;
END
$$;
CREATE TRIGGER forget_ticket_tasks AFTER DELETE ON ticket_tasks REFERENCING OLD TABLE AS gone
    FOR EACH STATEMENT EXECUTE FUNCTION trigger_forget_ticket_tasks();
SELECT pin_search_path(
    'trigger_place_ticket_task()',
    'trigger_check_ticket_task_dependencies()',
    'trigger_forget_ticket_tasks()');

COMMENT ON TABLE ticket_tasks IS 'Steps of tickets, in order';
COMMENT ON COLUMN ticket_tasks.id IS 'Primary key: a UUIDv7 by default, or the id that the caller gave';
COMMENT ON COLUMN ticket_tasks.ticket_id IS 'Ticket that the step belongs to';
COMMENT ON COLUMN ticket_tasks.content IS 'Text of the step';
COMMENT ON COLUMN ticket_tasks.description IS 'Details of the step';
COMMENT ON COLUMN ticket_tasks.done IS 'Whether the step is done';
COMMENT ON COLUMN ticket_tasks.position IS 'Position within the ticket, counted from 1; by default after the last step, also when moved to another ticket';
COMMENT ON COLUMN ticket_tasks.estimated_hours IS 'Estimated effort in hours';
COMMENT ON COLUMN ticket_tasks.depends_on IS 'Ids of the steps of the ticket that have to be done before';
COMMENT ON COLUMN ticket_tasks.tags IS 'Tags of the step';
COMMENT ON COLUMN ticket_tasks.agent_id IS 'Id of the agent that works on the step';
COMMENT ON COLUMN ticket_tasks.created_at IS 'Time of the INSERT; never changes';
COMMENT ON COLUMN ticket_tasks.updated_at IS 'Time of the last UPDATE';
