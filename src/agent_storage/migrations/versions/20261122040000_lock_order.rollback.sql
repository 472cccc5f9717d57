DROP TRIGGER keep_id ON approval_requests;
DROP TRIGGER keep_id ON ticket_tasks;
DROP FUNCTION lock_for_delete(regclass, uuid[]);
DROP FUNCTION foreign_keys_to(text[]);
DROP FUNCTION lock_by_foreign_keys(regclass, uuid[], integer);

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
    -- Locked before the foreign keys are checked: a KEY SHARE that becomes a stronger lock can end in a deadlock.
    PERFORM FROM budget_pools p
      WHERE p.id IN (WITH RECURSIVE chain (id) AS (
                         SELECT unnest(ARRAY[new_pool_id, new_to_pool_id])
                          UNION
                         SELECT above.parent_pool_id FROM chain JOIN budget_pools above USING (id)
                     )
                     SELECT id FROM chain)
      ORDER BY p.id
        FOR NO KEY UPDATE;
    BEGIN
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

CREATE OR REPLACE FUNCTION trigger_hold_budget() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM added WHERE status <> 'held') THEN
        RAISE EXCEPTION 'a new reservation is held'
            USING ERRCODE = 'AS001', TABLE = 'budget_reservations', COLUMN = 'status',
                  CONSTRAINT = 'budget_reservations_status_by_ledger', HINT = 'settle or release it afterwards';
    END IF;
    INSERT INTO budget_entries (id, pool_id, kind, amount, reservation_id, key, actor, session_id, created_at, updated_at)
    SELECT id, pool_id, 'reserve', amount, id, key, actor, session_id, created_at, created_at FROM added ORDER BY id;
    RETURN NULL;
END
$$;
