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
CREATE OR REPLACE FUNCTION lock_for_delete(target regclass, ids uuid[], depth integer DEFAULT 0) RETURNS void
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
    'lock_for_delete(regclass, uuid[], integer)');
