-- Creating a row again with its id returns it; imported rows keep their times.

-- Return the rows of the table of `kind` that have the ids of `given`, an array of objects. Each object holds the columns
-- of a row, and as "?" the names of those to compare. A row that differs in one of them is reported as AlreadyExists.
-- With `required`, every row has to be there. VOLATILE, so that under READ COMMITTED it sees what was committed before
-- the call, be it after the calling statement has begun.
CREATE FUNCTION rows_as_given(kind anyelement, given jsonb, required boolean) RETURNS SETOF anyelement
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

-- While there is no message, the time of the last one is that of the creation, of an imported conversation too.
CREATE FUNCTION trigger_set_last_message_at() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    NEW.last_message_at := NEW.created_at;
    RETURN NEW;
END
$$;
CREATE TRIGGER set_last_message_at BEFORE INSERT ON conversations
    FOR EACH ROW WHEN (NEW.message_count = 0 AND NEW.last_message_at <> NEW.created_at)
    EXECUTE FUNCTION trigger_set_last_message_at();

COMMENT ON COLUMN conversations.last_message_at IS 'Time of the newest message, or of the creation while there is none';

-- A checkpoint without a time was captured now, an imported one when it was created.
CREATE OR REPLACE FUNCTION trigger_set_captured_at() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    NEW.captured_at := CASE WHEN NEW.created_at = now() THEN clock_timestamp() ELSE NEW.created_at END;
    RETURN NEW;
END
$$;

-- A call that is created running without a start has started now, an imported one when it was created.
CREATE OR REPLACE FUNCTION trigger_set_started_at() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    NEW.started_at := CASE WHEN NEW.created_at = now() THEN clock_timestamp() ELSE NEW.created_at END;
    RETURN NEW;
END
$$;
