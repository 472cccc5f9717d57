DROP TRIGGER forget_ticket_tasks ON ticket_tasks;
DROP TRIGGER check_dependencies_on_update ON ticket_tasks;
DROP TRIGGER check_dependencies_on_insert ON ticket_tasks;
DROP FUNCTION trigger_forget_ticket_tasks();
DROP FUNCTION trigger_check_ticket_task_dependencies();
COMMENT ON COLUMN ticket_tasks.depends_on IS 'Ids of the steps that have to be done before';
DROP INDEX ticket_tasks_depends_on_idx;

DROP TRIGGER refuse_genealogy_cycle_on_update ON sessions;
DROP TRIGGER refuse_genealogy_cycle_on_insert ON sessions;
CREATE OR REPLACE FUNCTION trigger_refuse_genealogy_cycle() RETURNS trigger
LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE
    ancestors uuid[];
BEGIN
    IF TG_OP = 'UPDATE' THEN
        PERFORM pg_advisory_xact_lock('sessions'::regclass::oid::integer, 0);
    ELSIF NOT EXISTS (SELECT FROM sessions WHERE parent_session_id = NEW.id)
      AND NOT EXISTS (SELECT FROM sessions WHERE forked_from_session_id = NEW.id) THEN
        RETURN NULL;
    END IF;
    WITH RECURSIVE above (id) AS (
        SELECT unnest(ARRAY[NEW.parent_session_id, NEW.forked_from_session_id])
         UNION
        SELECT unnest(ARRAY[s.parent_session_id, s.forked_from_session_id]) FROM above JOIN sessions s USING (id)
    )
    SELECT array_agg(above.id) INTO ancestors FROM above;
    IF TG_OP = 'UPDATE' AND current_setting('transaction_isolation') <> 'read committed' THEN
        PERFORM FROM sessions WHERE id = ANY(ancestors) FOR SHARE;
    END IF;
    IF NEW.id = ANY(ancestors) THEN
        RAISE EXCEPTION 'session % would become its own ancestor', NEW.id
            USING ERRCODE = 'AS001', TABLE = 'sessions', CONSTRAINT = 'sessions_genealogy_without_cycle',
                  HINT = 'choose a parent that does not descend from it';
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER refuse_genealogy_cycle AFTER INSERT OR UPDATE OF parent_session_id, forked_from_session_id ON sessions
    FOR EACH ROW WHEN (NEW.parent_session_id IS NOT NULL OR NEW.forked_from_session_id IS NOT NULL)
    EXECUTE FUNCTION trigger_refuse_genealogy_cycle();

DROP FUNCTION lock_for_delete(regclass, uuid[], integer);
