-- `lock_for_delete` has a statement for each shipped table, so that a DELETE no longer reads the catalog. It serves
-- every other table, and tables that others refer to, by the function that it was before, `lock_by_foreign_keys`.

DROP FUNCTION lock_for_delete(regclass, uuid[], integer);
-- Lock the rows that a DELETE of `ids` deletes or changes, before it does: first those whose reference becomes null, then
-- the rows themselves, then those that go with them, each table in the order of ids. The foreign keys' own actions lock
-- in the order of their plans, and statements that wait for each other crosswise end as deadlocks.
-- This function reads the foreign keys from the catalog, so it serves every table; it plans each statement again.
CREATE FUNCTION lock_by_foreign_keys(target regclass, ids uuid[], depth integer DEFAULT 0) RETURNS void
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
        own := own || ARRAY(SELECT id FROM ticket_tasks WHERE depends_on && ids AND depends_on <> '{}');
    END IF;
    IF target = to_regclass('approval_requests') AND has_table_privilege(to_regclass('workflow_sessions'), 'UPDATE') THEN
        PERFORM FROM workflow_sessions
          WHERE id IN (SELECT session_id FROM approval_requests WHERE id = ANY (ids))
          ORDER BY id FOR NO KEY UPDATE;
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
          FROM pg_catalog.pg_trigger enforced  -- by the referenced table, for which pg_constraint has no index
          JOIN pg_catalog.pg_constraint con ON con.oid = enforced.tgconstraint
          JOIN pg_catalog.pg_attribute id
            ON id.attrelid = con.conrelid AND id.attname = 'id' AND id.atttypid = 'uuid'::regtype
         WHERE enforced.tgrelid = target AND enforced.tgtype & 8 <> 0  -- on DELETE
           AND con.confrelid = target AND con.contype = 'f' AND con.confdeltype IN ('c', 'n', 'd')
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
            PERFORM lock_by_foreign_keys(reference.child, found, depth + 1);
        ELSIF found IS NOT NULL THEN
            EXECUTE format('SELECT FROM %s WHERE id = ANY($1) ORDER BY id FOR NO KEY UPDATE', reference.child) USING found;
        END IF;
    END LOOP;
    IF cardinality(own) > 1 OR depth > 0 THEN  -- a single row is locked by the DELETE itself
        EXECUTE format('SELECT FROM %s WHERE id = ANY($1) ORDER BY id FOR UPDATE', target) USING own;
    END IF;
END
$$;

-- Return how many foreign keys refer to the tables `deleted`; null if the role may not lock the rows of all of them, or
-- if one of them does not exist.
CREATE FUNCTION foreign_keys_to(deleted text[]) RETURNS bigint
LANGUAGE plpgsql STABLE AS $$
DECLARE
    tables CONSTANT regclass[] := ARRAY(SELECT to_regclass(name) FROM unnest(deleted) AS name);
BEGIN
    RETURN (SELECT CASE WHEN coalesce(bool_and(has_table_privilege(tgconstrrelid, 'UPDATE')), true)
                             AND (SELECT coalesce(bool_and(has_table_privilege(one, 'UPDATE')), false)
                                         AND bool_and(one IS NOT NULL)
                                    FROM unnest(tables) AS one)
                        THEN count(*) END
              FROM pg_catalog.pg_trigger
             WHERE tgrelid = ANY (tables) AND tgconstrrelid <> 0 AND tgtype & 8 <> 0);  -- on DELETE
END
$$;

-- The same for the shipped tables, by statements whose plans are kept, with the settings that make them use the indexes.
-- Where another table refers to one of them, and for every other table, the catalog is read.
CREATE FUNCTION lock_for_delete(target regclass, ids uuid[]) RETURNS void
LANGUAGE plpgsql SET enable_seqscan = off SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    name CONSTANT text := target::text;  -- without a schema, if it is in that of this function
    found         uuid[];
BEGIN
    IF name = 'tickets' AND foreign_keys_to('{tickets, ticket_tasks, ticket_comments}') = 2 THEN
        PERFORM FROM tickets WHERE id = ANY (ids) ORDER BY id FOR UPDATE;
        PERFORM FROM ticket_comments WHERE ticket_id = ANY (ids) ORDER BY id FOR UPDATE;
        found := ARRAY(SELECT id FROM ticket_tasks WHERE ticket_id = ANY (ids));
        PERFORM FROM ticket_tasks
          WHERE id = ANY (found) OR depends_on && found AND depends_on <> '{}'
          ORDER BY id FOR UPDATE;
    ELSIF name = 'ticket_tasks' AND foreign_keys_to('{ticket_tasks}') = 0 THEN
        PERFORM FROM ticket_tasks
          WHERE id = ANY (ids) OR depends_on && ids AND depends_on <> '{}'
          ORDER BY id FOR UPDATE;
    ELSIF name = 'projects'
      AND foreign_keys_to('{projects, project_files, tickets, ticket_tasks, ticket_comments}') = 5 THEN
        PERFORM FROM conversations WHERE project_id = ANY (ids) ORDER BY id FOR NO KEY UPDATE;
        PERFORM FROM projects WHERE id = ANY (ids) ORDER BY id FOR UPDATE;
        PERFORM FROM project_files WHERE project_id = ANY (ids) ORDER BY id FOR UPDATE;
        found := ARRAY(SELECT id FROM tickets WHERE project_id = ANY (ids));
        IF found <> '{}' THEN
            PERFORM lock_for_delete('tickets', found);
        END IF;
    ELSIF name = 'conversations' AND foreign_keys_to('{conversations, messages, tool_results}') = 5 THEN
        PERFORM FROM conversations WHERE id = ANY (ids) OR forked_from_id = ANY (ids) ORDER BY id FOR UPDATE;
        found := ARRAY(SELECT id FROM messages WHERE conversation_id = ANY (ids));
        IF found <> '{}' THEN
            PERFORM lock_for_delete('messages', found);
        END IF;
        PERFORM FROM tool_results WHERE conversation_id = ANY (ids) ORDER BY id FOR UPDATE;
    ELSIF name = 'messages' AND foreign_keys_to('{messages}') = 2 THEN
        PERFORM FROM tool_results WHERE message_id = ANY (ids) ORDER BY id FOR NO KEY UPDATE;
        PERFORM FROM messages WHERE id = ANY (ids) OR parent_id = ANY (ids) ORDER BY id FOR UPDATE;
    ELSIF name = 'models' AND foreign_keys_to('{models}') = 2 THEN
        PERFORM FROM conversations WHERE model_id = ANY (ids) ORDER BY id FOR NO KEY UPDATE;
        PERFORM FROM messages WHERE model_id = ANY (ids) ORDER BY id FOR NO KEY UPDATE;
        PERFORM FROM models WHERE id = ANY (ids) ORDER BY id FOR UPDATE;
    ELSIF name = 'providers' AND foreign_keys_to('{providers, models}') = 3 THEN
        PERFORM FROM providers WHERE id = ANY (ids) ORDER BY id FOR UPDATE;
        found := ARRAY(SELECT id FROM models WHERE provider_id = ANY (ids));
        IF found <> '{}' THEN
            PERFORM lock_for_delete('models', found);
        END IF;
    ELSIF name = 'workflow_sessions'
      AND foreign_keys_to('{workflow_sessions, approval_requests, execution_states,
                             llm_executions, tool_call_logs, node_execution_states}') = 7 THEN
        PERFORM FROM budget_entries WHERE session_id = ANY (ids) ORDER BY id FOR NO KEY UPDATE;
        PERFORM FROM budget_reservations WHERE session_id = ANY (ids) ORDER BY id FOR NO KEY UPDATE;
        PERFORM FROM workflow_sessions WHERE id = ANY (ids) ORDER BY id FOR UPDATE;
        PERFORM FROM approval_requests WHERE session_id = ANY (ids) ORDER BY id FOR UPDATE;
        PERFORM FROM execution_states WHERE session_id = ANY (ids) ORDER BY id FOR UPDATE;
        found := ARRAY(SELECT id FROM llm_executions WHERE session_id = ANY (ids));
        IF found <> '{}' THEN
            PERFORM lock_for_delete('llm_executions', found);
        END IF;
        PERFORM FROM node_execution_states WHERE session_id = ANY (ids) ORDER BY id FOR UPDATE;
    ELSIF name = 'llm_executions' AND foreign_keys_to('{llm_executions, tool_call_logs}') = 1 THEN
        PERFORM FROM llm_executions WHERE id = ANY (ids) ORDER BY id FOR UPDATE;
        PERFORM FROM tool_call_logs WHERE execution_id = ANY (ids) ORDER BY id FOR UPDATE;
    ELSIF name = 'approval_requests' AND foreign_keys_to('{approval_requests}') = 0 THEN
        PERFORM FROM workflow_sessions
          WHERE id = ANY (ARRAY(SELECT session_id FROM approval_requests WHERE id = ANY (ids)))
          ORDER BY id FOR NO KEY UPDATE;   -- by a trigger, the run of a deleted request goes on
        PERFORM FROM approval_requests WHERE id = ANY (ids) ORDER BY id FOR UPDATE;
    ELSIF name = 'sessions' AND foreign_keys_to('{sessions, tasks}') = 3 THEN
        PERFORM FROM sessions
          WHERE id = ANY (ids) OR parent_session_id = ANY (ids) OR forked_from_session_id = ANY (ids)
          ORDER BY id FOR UPDATE;
        PERFORM FROM tasks WHERE session_id = ANY (ids) ORDER BY id FOR UPDATE;
    ELSIF name = 'boards' AND foreign_keys_to('{boards}') = 1 THEN
        PERFORM FROM sessions WHERE board_id = ANY (ids) ORDER BY id FOR NO KEY UPDATE;
        PERFORM FROM boards WHERE id = ANY (ids) ORDER BY id FOR UPDATE;
    ELSIF name = 'repos' AND foreign_keys_to('{repos}') = 1 THEN
        PERFORM FROM sessions WHERE repo_id = ANY (ids) ORDER BY id FOR NO KEY UPDATE;
        PERFORM FROM repos WHERE id = ANY (ids) ORDER BY id FOR UPDATE;
    ELSIF name = 'tool_configs' AND foreign_keys_to('{tool_configs}') = 1 THEN
        PERFORM FROM tool_results WHERE tool_config_id = ANY (ids) ORDER BY id FOR NO KEY UPDATE;
        PERFORM FROM tool_configs WHERE id = ANY (ids) ORDER BY id FOR UPDATE;
    ELSIF name = 'workflows' AND foreign_keys_to('{workflows}') = 1 THEN
        PERFORM FROM workflow_sessions WHERE workflow_id = ANY (ids) ORDER BY id FOR NO KEY UPDATE;
        PERFORM FROM workflows WHERE id = ANY (ids) ORDER BY id FOR UPDATE;
    ELSIF name = 'checkpoints' AND foreign_keys_to('{checkpoints}') = 1 THEN
        PERFORM FROM checkpoints WHERE id = ANY (ids) OR parent_id = ANY (ids) ORDER BY id FOR UPDATE;
    ELSIF name = 'event_streams' AND foreign_keys_to('{event_streams, stream_events}') = 1 THEN
        PERFORM FROM event_streams WHERE id = ANY (ids) ORDER BY id FOR UPDATE;
        PERFORM FROM stream_events
          WHERE stream_id = ANY (ARRAY(SELECT stream_id FROM event_streams WHERE id = ANY (ids)))
          ORDER BY id FOR UPDATE;
    ELSIF cardinality(ids) > 1 OR foreign_keys_to(ARRAY[name]) > 0 THEN  -- else the DELETE locks the only row
        PERFORM lock_by_foreign_keys(target, ids);
    END IF;
END
$$;

-- The pools are locked in the block that updates them, so that a charge takes no multixact.
CREATE OR REPLACE FUNCTION budget_post(
    new_kind text, new_pool_id uuid, new_amount numeric, new_to_pool_id uuid, new_reservation_id uuid,
    new_key text, new_actor text, new_session_id uuid, new_expires_at timestamptz, new_metadata jsonb
) RETURNS TABLE (pool budget_pools, reservation budget_reservations, refusal text, refused_amount numeric, was text)
LANGUAGE plpgsql ROWS 1 SET enable_seqscan = off AS $$
DECLARE
    entry   budget_entries;
    rule    text;
    detail  text;
    shown   uuid;
    made    boolean;
    held    budget_reservations;
BEGIN
    new_amount := round(new_amount, 6);
    IF new_kind IN ('settle', 'release') THEN
        SELECT r.pool_id, CASE new_kind WHEN 'settle' THEN new_amount ELSE r.amount END
          INTO new_pool_id, new_amount
          FROM budget_reservations r
         WHERE r.id = new_reservation_id;
        IF NOT FOUND THEN
            RETURN;
        END IF;
    END IF;
    BEGIN
        -- Locked before the foreign keys are checked: a KEY SHARE that becomes a stronger lock can end in a deadlock. In the
        -- block, since a row that the transaction locks and its subtransaction updates takes a multixact.
        PERFORM FROM budget_pools p
          WHERE p.id IN (WITH RECURSIVE chain (id) AS (
                             SELECT unnest(ARRAY[new_pool_id, new_to_pool_id])
                              UNION
                             SELECT above.parent_pool_id FROM chain JOIN budget_pools above USING (id)
                         )
                         SELECT id FROM chain)
          ORDER BY p.id
            FOR NO KEY UPDATE;
        IF new_kind = 'reserve' THEN
            INSERT INTO budget_reservations AS r (pool_id, amount, key, actor, session_id, expires_at, metadata)
            VALUES (new_pool_id, new_amount, new_key, new_actor, new_session_id, new_expires_at, new_metadata)
                ON CONFLICT DO NOTHING
            RETURNING r.id INTO new_reservation_id;
        ELSE
            INSERT INTO budget_entries
                   (pool_id, kind, amount, to_pool_id, reservation_id, key, actor, session_id, metadata)
            VALUES (new_pool_id, new_kind, new_amount, new_to_pool_id, new_reservation_id, new_key, new_actor,
                    new_session_id, new_metadata)
                ON CONFLICT DO NOTHING;
        END IF;
        made := FOUND;
    EXCEPTION
        WHEN SQLSTATE 'AS001' THEN
            GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL;
            IF split_part(detail, ' ', 2) NOT IN ('short', 'unused', 'suspended') THEN
                RAISE;
            END IF;
        WHEN foreign_key_violation THEN
            GET STACKED DIAGNOSTICS rule = CONSTRAINT_NAME;
            IF rule NOT LIKE '%pool_id_fkey' THEN
                RAISE;
            END IF;
            RETURN;
        WHEN unique_violation THEN  -- the key of a reservation is that of another entry
            GET STACKED DIAGNOSTICS rule = CONSTRAINT_NAME;
            IF rule <> 'budget_entries_key_key' THEN
                RAISE;
            END IF;
            made := false;
    END;
    shown := new_pool_id;
    IF detail IS NOT NULL THEN
        shown := split_part(detail, ' ', 1);
        refusal := split_part(detail, ' ', 2);
        refused_amount := split_part(detail, ' ', 3);
    ELSIF NOT made THEN
        SELECT * INTO entry FROM budget_entries e WHERE e.key = new_key;
        IF NOT FOUND THEN
            SELECT * INTO entry FROM budget_entries e
             WHERE e.reservation_id = new_reservation_id AND e.kind <> 'reserve';
            refusal := CASE WHEN new_key IS NOT NULL
                              OR (entry.kind, entry.amount) IS DISTINCT FROM (new_kind, new_amount) THEN 'closed' END;
        ELSIF (entry.kind, entry.pool_id, entry.amount, entry.to_pool_id)
              IS DISTINCT FROM (new_kind, new_pool_id, new_amount, new_to_pool_id)
              OR new_kind IN ('settle', 'release') AND entry.reservation_id <> new_reservation_id THEN
            refusal := 'key';
        ELSE
            new_reservation_id := entry.reservation_id;
        END IF;
        IF refusal IS NOT NULL THEN
            shown := entry.pool_id;
            new_to_pool_id := NULL;
            refused_amount := entry.amount;
            was := entry.kind;
        END IF;
    END IF;
    IF new_reservation_id IS NOT NULL THEN
        SELECT * INTO held FROM budget_reservations r WHERE r.id = new_reservation_id;
    ELSIF new_kind = 'reserve' THEN  -- refused
        held := jsonb_populate_record(held, jsonb_build_object(
            'id', shown, 'pool_id', new_pool_id, 'amount', new_amount, 'status', 'released', 'metadata', '{}'::jsonb,
            'created_at', now(), 'updated_at', now()));
    END IF;
    RETURN QUERY
    SELECT p, held, refusal, refused_amount, was
      FROM budget_pools p
     WHERE p.id IN (shown, CASE WHEN refusal IS NULL THEN new_to_pool_id END)
     ORDER BY p.id <> shown;
END
$$;

-- Other steps name the id in depends_on, which is no foreign key.
CREATE TRIGGER keep_id BEFORE UPDATE OF id ON ticket_tasks
    FOR EACH ROW WHEN (NEW.id <> OLD.id)
    EXECUTE FUNCTION trigger_refuse_change('id', 'create another task, and delete this one');

-- The node that waits names the id, and so do waiting sessions; neither is a foreign key.
CREATE TRIGGER keep_id BEFORE UPDATE OF id ON approval_requests
    FOR EACH ROW WHEN (NEW.id <> OLD.id)
    EXECUTE FUNCTION trigger_refuse_change('id', 'ask again with the other id');

CREATE OR REPLACE FUNCTION trigger_hold_budget() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM added WHERE status <> 'held') THEN
        RAISE EXCEPTION 'a new reservation is held'
            USING ERRCODE = 'AS001', TABLE = 'budget_reservations', COLUMN = 'status',
                  CONSTRAINT = 'budget_reservations_status_by_ledger', HINT = 'settle or release it afterwards';
    END IF;
    -- In the order in which create_many makes entries with keys.
    INSERT INTO budget_entries (id, pool_id, kind, amount, reservation_id, key, actor, session_id, created_at, updated_at)
    SELECT id, pool_id, 'reserve', amount, id, key, actor, session_id, created_at, created_at
      FROM added
     ORDER BY key COLLATE "C", id;
    RETURN NULL;
END
$$;
