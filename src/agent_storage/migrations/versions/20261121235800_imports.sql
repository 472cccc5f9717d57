-- Creating a row again with its id returns it; imported rows keep their times.

-- Return the rows of the table of `kind` that have the ids of `given`, an array of objects. Each object holds the columns
-- of a row, and as "?" the names of those to compare. A row that differs in one of them is reported as AlreadyExists.
-- With `required`, every row has to be there. VOLATILE, so that under READ COMMITTED it sees what was committed before
-- the call, be it after the calling statement has begun.
CREATE FUNCTION rows_as_given(kind anyelement, given jsonb, required boolean) RETURNS SETOF anyelement
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    target  text := pg_typeof(kind);
    found   bigint;
    differs record;
BEGIN
    EXECUTE format(
        'SELECT stored.id, array_agg(name) AS names
           FROM jsonb_array_elements($1) AS item
           JOIN %1$s AS stored ON stored.id = (item ->> ''id'')::uuid
          CROSS JOIN LATERAL (
                SELECT to_jsonb(stored) AS present, to_jsonb(jsonb_populate_record(NULL::%1$s, item)) AS wanted OFFSET 0
                ) AS both_rows
          CROSS JOIN LATERAL jsonb_array_elements_text(item -> ''?'') AS name
          WHERE present -> name IS DISTINCT FROM wanted -> name
          GROUP BY stored.id
          LIMIT 1', target) INTO differs USING given;
    IF differs.id IS NOT NULL THEN
        RAISE EXCEPTION 'row % exists and differs in %', differs.id, array_to_string(differs.names, ', ')
            USING ERRCODE = 'AS002', TABLE = target, COLUMN = differs.names[1],
                  HINT = 'repeat the call with the values of the first one, or choose another id';
    END IF;
    RETURN QUERY EXECUTE format(
        'SELECT stored.* FROM jsonb_array_elements($1) AS item JOIN %1$s AS stored ON stored.id = (item ->> ''id'')::uuid',
        target) USING given;
    GET DIAGNOSTICS found = ROW_COUNT;
    IF required AND found < jsonb_array_length(given) THEN
        RAISE EXCEPTION 'a row was deleted while it was created again' USING ERRCODE = '40001', TABLE = target;
    END IF;
END
$$;
