-- Functions that all tables use. `storage migrate check` compares them with the migrations.

-- Give functions the search_path of their own schema. They find its tables whatever the path of the session is: that of
-- another product, or the empty one of pg_restore, autovacuum and REINDEX. CREATE OR REPLACE FUNCTION removes the setting,
-- so call this after it. A function whose body names nothing outside pg_catalog needs no setting.
CREATE OR REPLACE FUNCTION pin_search_path(VARIADIC functions regprocedure[]) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    pinned record;
BEGIN
    FOR pinned IN
        SELECT p.oid::regprocedure AS name, n.nspname AS schema
          FROM pg_catalog.pg_proc p
          JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
         WHERE p.oid = ANY (functions)
         ORDER BY p.oid
    LOOP
        EXECUTE format('ALTER FUNCTION %s SET search_path = %I, pg_temp', pinned.name, pinned.schema);
    END LOOP;
END
$$;

-- updated_at moves on every UPDATE, also twice in one transaction; created_at can never be changed.
CREATE OR REPLACE FUNCTION trigger_set_timestamp() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    NEW.created_at := OLD.created_at;
    NEW.updated_at := greatest(clock_timestamp(), OLD.updated_at + interval '1 microsecond');
    RETURN NEW;
END
$$;

-- UUIDv7 (RFC 9562): the server's own on PostgreSQL 18 and newer, before that the same layout in SQL:
-- 48 bits of milliseconds, 12 bits of their fraction, the rest random.
DO $do$
BEGIN
    IF current_setting('server_version_num')::integer >= 180000 THEN
        EXECUTE 'CREATE OR REPLACE FUNCTION uuid_v7() RETURNS uuid
                 LANGUAGE sql VOLATILE PARALLEL SAFE AS ''SELECT uuidv7()''';
    ELSE
        EXECUTE $fallback$
            CREATE OR REPLACE FUNCTION uuid_v7() RETURNS uuid
            LANGUAGE sql VOLATILE PARALLEL SAFE AS $body$
                SELECT encode(
                           substring(int8send(floor(microseconds / 1000)::bigint) FROM 3)
                           || substring(int4send(28672 + ((microseconds % 1000) * 4096 / 1000)::integer) FROM 3)
                           || substring(uuid_send(gen_random_uuid()) FROM 9),
                           'hex')::uuid
                  FROM (SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS microseconds) AS clock
            $body$
        $fallback$;
    END IF;
END
$do$;

-- Deep merge: objects merge to any depth, arrays and scalars replace, null is written as null, the rest stays.
CREATE OR REPLACE FUNCTION jsonb_merge(target jsonb, patch jsonb) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
    result jsonb;
    item   record;
BEGIN
    IF jsonb_typeof(target) IS DISTINCT FROM 'object' OR jsonb_typeof(patch) IS DISTINCT FROM 'object' THEN
        RETURN patch;
    END IF;
    result := target || patch;
    FOR item IN SELECT key, value FROM jsonb_each(patch) WHERE jsonb_typeof(value) = 'object' LOOP
        IF target ? item.key THEN
            result := jsonb_set(result, ARRAY[item.key], jsonb_merge(target -> item.key, item.value));
        END IF;
    END LOOP;
    RETURN result;
END
$$;

-- Return the rows of the table of `kind` that have the ids of `given`, an array of objects. Each object holds the columns
-- of a row, and as "?" the names of those to compare. A row that differs in one of them is reported as AlreadyExists.
-- With `required`, every row has to be there. VOLATILE, so that under READ COMMITTED it sees what was committed before
-- the call, be it after the calling statement has begun.
CREATE OR REPLACE FUNCTION rows_as_given(kind anyelement, given jsonb, required boolean) RETURNS SETOF anyelement
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    target  text := pg_typeof(kind);
    ids     uuid[];
    items   jsonb;      -- by id, because a join with an array would be planned for a hundred rows
    found   bigint;
    differs record;
BEGIN
    SELECT array_agg((value ->> 'id')::uuid) INTO ids FROM jsonb_array_elements(given);
    EXECUTE format('SELECT count(*) FROM %1$s AS stored WHERE stored.id = ANY ($1)', target) INTO found USING ids;
    IF found = 0 AND NOT required THEN
        RETURN;
    END IF;
    SELECT jsonb_object_agg((value ->> 'id')::uuid, value) INTO items FROM jsonb_array_elements(given);
    EXECUTE format(
        'SELECT stored.id, array_agg(given.name) AS names
           FROM %1$s AS stored
          CROSS JOIN LATERAL (SELECT $2 -> stored.id::text AS value OFFSET 0) AS item
          CROSS JOIN LATERAL (
                SELECT to_jsonb(stored) AS present,
                       to_jsonb(jsonb_populate_record(NULL::%1$s, item.value)) AS wanted
                OFFSET 0) AS compared
          CROSS JOIN LATERAL jsonb_array_elements_text(item.value -> ''?'') AS given (name)
          WHERE stored.id = ANY ($1)
            AND compared.present -> given.name IS DISTINCT FROM compared.wanted -> given.name
          GROUP BY stored.id
          LIMIT 1', target) INTO differs USING ids, items;
    IF differs.id IS NOT NULL THEN
        RAISE EXCEPTION 'row % exists and differs in %', differs.id, array_to_string(differs.names, ', ')
            USING ERRCODE = 'AS002', TABLE = target, COLUMN = differs.names[1],
                  HINT = 'repeat the call with the values of the first one, or choose another id';
    END IF;
    RETURN QUERY EXECUTE format('SELECT stored.* FROM %1$s AS stored WHERE stored.id = ANY ($1)', target) USING ids;
    GET DIAGNOSTICS found = ROW_COUNT;
    IF required AND found < cardinality(ids) THEN
        RAISE EXCEPTION 'a row was deleted while it was created again' USING ERRCODE = '40001', TABLE = target;
    END IF;
END
$$;

-- Remove keys from a document. `keys` is an object: a value that is an object names keys of the object below, any other
-- value marks the key itself. What is no object is returned as it is.
CREATE OR REPLACE FUNCTION jsonb_remove(document jsonb, keys jsonb) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
    result jsonb;
    item   record;
BEGIN
    IF jsonb_typeof(document) IS DISTINCT FROM 'object' THEN
        RETURN document;
    END IF;
    result := document - ARRAY(SELECT key FROM jsonb_each(keys) WHERE jsonb_typeof(value) <> 'object');
    FOR item IN SELECT key, value FROM jsonb_each(keys) WHERE jsonb_typeof(value) = 'object' LOOP
        IF result ? item.key THEN
            result := jsonb_set(result, ARRAY[item.key], jsonb_remove(result -> item.key, item.value));
        END IF;
    END LOOP;
    RETURN result;
END
$$;

-- Refuse an UPDATE of an immutable column. The WHEN of the trigger compares the column; its arguments are the column's
-- name and a hint. Reported as a Conflict.
CREATE OR REPLACE FUNCTION trigger_refuse_change() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% of row % cannot be changed', TG_ARGV[0], OLD.id
        USING ERRCODE = 'AS001', TABLE = TG_TABLE_NAME, COLUMN = TG_ARGV[0],
              CONSTRAINT = TG_TABLE_NAME || '_' || TG_ARGV[0] || '_immutable', HINT = TG_ARGV[1];
END
$$;

-- Lock the rows that a DELETE of `ids` deletes or changes, before it does: first those whose reference becomes null, then
-- the rows themselves, then those that go with them, each table in the order of ids. The foreign keys' own actions lock
-- in the order of their plans, and statements that wait for each other crosswise end as deadlocks.
-- This function reads the foreign keys from the catalog, so it serves every table; it plans each statement again.
CREATE OR REPLACE FUNCTION lock_by_foreign_keys(target regclass, ids uuid[], depth integer DEFAULT 0) RETURNS void
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
CREATE OR REPLACE FUNCTION foreign_keys_to(deleted text[]) RETURNS bigint
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
CREATE OR REPLACE FUNCTION lock_for_delete(target regclass, ids uuid[]) RETURNS void
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

-- Refuse an UPDATE that moves the status where it cannot go. Each argument is a status and those that may follow it,
-- 'running -> completed failed'; a status without an argument is final. An INSERT may have any status. Reported as an
-- InvalidTransition.
CREATE OR REPLACE FUNCTION trigger_check_transition() RETURNS trigger
LANGUAGE plpgsql AS $$
DECLARE
    allowed text;
BEGIN
    SELECT split_part(rule, ' -> ', 2) INTO allowed
      FROM unnest(TG_ARGV) AS rule
     WHERE split_part(rule, ' -> ', 1) = OLD.status;
    IF NEW.status = ANY (string_to_array(allowed, ' ')) THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION 'status of row % cannot change from % to %', OLD.id, OLD.status, NEW.status
        USING ERRCODE = 'AS001', TABLE = TG_TABLE_NAME, COLUMN = 'status',
              CONSTRAINT = TG_TABLE_NAME || '_status_transition',
              HINT = coalesce('after ' || OLD.status || ' may follow: ' || replace(allowed, ' ', ', '),
                              OLD.status || ' is final');
END
$$;

-- The channel of a table's notifications. Products in several schemas of a database have a channel each. A channel has at
-- most 63 bytes, so a long name of a schema is replaced by its hash.
CREATE OR REPLACE FUNCTION notification_channel(name text, schema text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT name || '.' || CASE WHEN octet_length(name || '.' || schema) < 64 THEN schema
                               ELSE left(encode(sha256(convert_to(schema, 'UTF8')), 'hex'), 32) END
$$;

SELECT pin_search_path(
    'jsonb_merge(jsonb, jsonb)',
    'jsonb_remove(jsonb, jsonb)',
    'lock_by_foreign_keys(regclass, uuid[], integer)',
    'lock_for_delete(regclass, uuid[])');
