-- Functions that all tables use. `storage migrate check` compares them with the migrations.

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
