-- Deletes lock in one order; genealogies are examined by look-ups alone; tasks depend on tasks of their own ticket.

-- Lock the rows that a DELETE of `ids` deletes or changes, before it does: first those whose reference becomes null, then
-- the rows themselves, then those that go with them, each table in the order of ids. The foreign keys' own actions lock
-- in the order of their plans, and statements that wait for each other crosswise end as deadlocks.
CREATE FUNCTION lock_for_delete(target regclass, ids uuid[], depth integer DEFAULT 0) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    reference record;
    own       uuid[] := ids;
    found     uuid[];
BEGIN
    IF NOT has_table_privilege(target, 'UPDATE') THEN
        RETURN;
    END IF;
    IF target = to_regclass('ticket_tasks') THEN   -- a step names others in an array, which is no foreign key
        own := own || ARRAY(SELECT id FROM ticket_tasks WHERE depends_on && ids);
    END IF;
    FOR reference IN
        SELECT con.conrelid::regclass AS child, con.confdeltype = 'c' AS cascades, con.conrelid = target AS is_own,
               format('SELECT array_agg(id) FROM %s WHERE (%s) IN (SELECT %s FROM %s WHERE id = ANY($1))',
                      con.conrelid::regclass,
                      (SELECT string_agg(quote_ident(attname), ', ' ORDER BY nth)
                         FROM unnest(con.conkey) WITH ORDINALITY AS key (number, nth)
                         JOIN pg_catalog.pg_attribute ON attrelid = con.conrelid AND attnum = number),
                      (SELECT string_agg(quote_ident(attname), ', ' ORDER BY nth)
                         FROM unnest(con.confkey) WITH ORDINALITY AS key (number, nth)
                         JOIN pg_catalog.pg_attribute ON attrelid = con.confrelid AND attnum = number),
                      target) AS referring
          FROM pg_catalog.pg_constraint con
          JOIN pg_catalog.pg_attribute id
            ON id.attrelid = con.conrelid AND id.attname = 'id' AND id.atttypid = 'uuid'::regtype
         WHERE con.confrelid = target AND con.contype = 'f' AND con.confdeltype IN ('c', 'n', 'd')
           AND has_table_privilege(con.conrelid, 'UPDATE')  -- which FOR UPDATE needs, though the foreign key does not
         ORDER BY is_own DESC, cascades, con.conrelid::regclass::text, con.conname
    LOOP
        IF reference.cascades AND NOT reference.is_own AND own IS NOT NULL THEN     -- after the rows themselves
            EXECUTE format('SELECT FROM %s WHERE id = ANY($1) ORDER BY id FOR UPDATE', target) USING own;
            own := NULL;
        END IF;
        EXECUTE reference.referring INTO found USING ids;
        IF reference.is_own THEN
            own := own || found;
        ELSIF reference.cascades AND found IS NOT NULL AND depth < 8 THEN
            PERFORM lock_for_delete(reference.child, found, depth + 1);
        ELSIF found IS NOT NULL THEN
            EXECUTE format('SELECT FROM %s WHERE id = ANY($1) ORDER BY id FOR NO KEY UPDATE', reference.child) USING found;
        END IF;
    END LOOP;
    IF own IS NOT NULL THEN
        EXECUTE format('SELECT FROM %s WHERE id = ANY($1) ORDER BY id FOR UPDATE', target) USING own;
    END IF;
END
$$;

DROP TRIGGER refuse_genealogy_cycle ON sessions;
-- No session is its own ancestor. A cycle of new rows has a least id, whose row refers to a greater one: only such rows are
-- examined after an INSERT, and only their ancestors of greater ids. An UPDATE could close a cycle together with another one
-- that cannot see it yet, so updates take turns, after their statement has locked its rows. Above READ COMMITTED the
-- snapshot is older than the turn: there the ancestors are locked, and PostgreSQL ends one of the two as a serialization
-- failure or a deadlock, which may be retried.
-- Each ancestor is one look-up by the primary key, whatever the statistics say: LIMIT keeps the planner from a join, and
-- the setting from a scan of the table while it is small, in a plan that is kept when it has grown.
CREATE OR REPLACE FUNCTION trigger_refuse_genealogy_cycle() RETURNS trigger
LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE
    ancestors uuid[];
BEGIN
    IF TG_OP = 'UPDATE' THEN
        PERFORM pg_advisory_xact_lock('sessions'::regclass::oid::integer, 0);
    END IF;
    WITH RECURSIVE above (id) AS (
        SELECT unnest(ARRAY[NEW.parent_session_id, NEW.forked_from_session_id])
         UNION
        SELECT unnest(ARRAY[origin.parent_session_id, origin.forked_from_session_id])
          FROM above
         CROSS JOIN LATERAL (SELECT s.parent_session_id, s.forked_from_session_id
                               FROM sessions s
                              WHERE s.id = above.id
                              LIMIT 1) origin
         WHERE above.id > NEW.id OR TG_OP = 'UPDATE'
    )
    SELECT array_agg(above.id ORDER BY above.id) INTO ancestors FROM above WHERE above.id IS NOT NULL;
    IF TG_OP = 'UPDATE' AND current_setting('transaction_isolation') <> 'read committed' THEN
        PERFORM FROM sessions WHERE id = ANY(ancestors) ORDER BY id FOR SHARE;
    END IF;
    IF NEW.id = ANY(ancestors) THEN
        RAISE EXCEPTION 'session % would become its own ancestor', NEW.id
            USING ERRCODE = 'AS001', TABLE = 'sessions', CONSTRAINT = 'sessions_genealogy_without_cycle',
                  HINT = 'choose a parent that does not descend from it';
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER refuse_genealogy_cycle_on_insert AFTER INSERT ON sessions
    FOR EACH ROW WHEN (NEW.parent_session_id >= NEW.id OR NEW.forked_from_session_id >= NEW.id)
    EXECUTE FUNCTION trigger_refuse_genealogy_cycle();
CREATE TRIGGER refuse_genealogy_cycle_on_update AFTER UPDATE OF id, parent_session_id, forked_from_session_id ON sessions
    FOR EACH ROW WHEN (NEW.id <> OLD.id
                       OR NEW.parent_session_id IS NOT NULL AND NEW.parent_session_id IS DISTINCT FROM OLD.parent_session_id
                       OR NEW.forked_from_session_id IS NOT NULL
                          AND NEW.forked_from_session_id IS DISTINCT FROM OLD.forked_from_session_id)
    EXECUTE FUNCTION trigger_refuse_genealogy_cycle();


-- Until now nothing checked what a task depends on: ids of no task of the ticket are removed, and so are those that close a
-- circle, which would block all of its tasks for ever.
UPDATE ticket_tasks t
   SET depends_on = ARRAY(SELECT needed.id
                            FROM unnest(t.depends_on) WITH ORDINALITY AS needed (id, nth)
                            JOIN ticket_tasks step ON step.id = needed.id AND step.ticket_id = t.ticket_id
                           ORDER BY nth)
 WHERE t.depends_on <> '{}'
   AND EXISTS (SELECT FROM unnest(t.depends_on) AS needed (id)
                WHERE NOT EXISTS (SELECT FROM ticket_tasks step
                                   WHERE step.id = needed.id AND step.ticket_id = t.ticket_id));
WITH RECURSIVE direct (task, needed) AS (
    SELECT id, unnest(depends_on) FROM ticket_tasks WHERE depends_on <> '{}'
), reached (task, needed) AS (
    SELECT task, needed FROM direct
     UNION
    SELECT reached.task, direct.needed FROM reached JOIN direct ON direct.task = reached.needed
)
UPDATE ticket_tasks t
   SET depends_on = ARRAY(SELECT needed.id
                            FROM unnest(t.depends_on) WITH ORDINALITY AS needed (id, nth)
                           WHERE needed.id <> t.id
                             AND NOT EXISTS (SELECT FROM reached
                                              WHERE reached.task = needed.id AND reached.needed = t.id)
                           ORDER BY nth)
 WHERE EXISTS (SELECT FROM reached WHERE reached.task = t.id AND reached.needed = t.id);

CREATE INDEX ticket_tasks_depends_on_idx ON ticket_tasks USING gin (depends_on) WHERE depends_on <> '{}';
COMMENT ON COLUMN ticket_tasks.depends_on IS 'Ids of the steps of the ticket that have to be done before';
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
