CREATE TABLE budget_entries (
    id             uuid          PRIMARY KEY DEFAULT uuid_v7(),
    pool_id        uuid          NOT NULL REFERENCES budget_pools (id),
    kind           text          NOT NULL CHECK (kind IN ('spend', 'refund', 'increase', 'decrease', 'transfer',
                                                          'reserve', 'settle', 'release')),
    amount         numeric(20,6) NOT NULL CHECK (amount >= 0 AND amount <> 'NaN'),
    to_pool_id     uuid          REFERENCES budget_pools (id),
    reservation_id uuid          REFERENCES budget_reservations (id),
    key            text          UNIQUE CHECK (char_length(key) BETWEEN 1 AND 500),
    actor          text,
    session_id     uuid          REFERENCES workflow_sessions (id) ON DELETE SET NULL,
    metadata       jsonb         NOT NULL DEFAULT '{}',
    created_at     timestamptz   NOT NULL DEFAULT now(),
    updated_at     timestamptz   NOT NULL DEFAULT now(),
    CONSTRAINT budget_entries_transfer_has_target CHECK ((kind = 'transfer') = (to_pool_id IS NOT NULL)),
    CONSTRAINT budget_entries_target_is_another_pool CHECK (to_pool_id <> pool_id),
    CONSTRAINT budget_entries_kind_has_reservation
        CHECK ((kind IN ('reserve', 'settle', 'release')) = (reservation_id IS NOT NULL))
);
CREATE INDEX budget_entries_pool_id_idx ON budget_entries (pool_id, id);
CREATE INDEX budget_entries_to_pool_id_idx ON budget_entries (to_pool_id, id);
CREATE INDEX budget_entries_session_id_idx ON budget_entries (session_id, id);
-- A reservation is made once, and closed once.
CREATE UNIQUE INDEX budget_entries_reservation_id_idx ON budget_entries (reservation_id, (kind = 'reserve'));
CREATE TRIGGER set_timestamp BEFORE UPDATE ON budget_entries FOR EACH ROW EXECUTE FUNCTION trigger_set_timestamp();

-- The entries of a statement move the sums of their pools, and of all above these, whatever statement inserts them. All
-- pools are locked in the order of their ids, so no deadlock is possible; a row that another transaction changed
-- meanwhile is read again once it is locked. The DETAIL of a refusal is read by budget_post.
-- Its plans are kept, also those made while the tables were small: the settings make them use the indexes.
CREATE FUNCTION trigger_post_budget_entries() RETURNS trigger
LANGUAGE plpgsql SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
    refused record;
BEGIN
    WITH RECURSIVE change (id, distance, upwards, charges, mismatch, used, reserved, total, at) AS (
        SELECT e.pool_id, 0, kind NOT IN ('increase', 'decrease', 'transfer'),
               kind IN ('spend', 'reserve') OR kind = 'settle' AND e.amount > r.amount,
               r.pool_id <> e.pool_id OR kind <> 'settle' AND r.amount <> e.amount,
               CASE WHEN kind IN ('spend', 'settle') THEN e.amount WHEN kind = 'refund' THEN -e.amount ELSE 0 END,
               CASE WHEN kind = 'reserve' THEN e.amount WHEN kind IN ('settle', 'release') THEN -r.amount ELSE 0 END,
               CASE WHEN kind = 'increase' THEN e.amount
                    WHEN kind IN ('decrease', 'transfer') THEN -e.amount ELSE 0 END,
               e.created_at
          FROM added e
          LEFT JOIN budget_reservations r ON r.id = e.reservation_id
         UNION ALL
        SELECT to_pool_id, 0, false, false, false, 0, 0, amount, created_at FROM added WHERE to_pool_id IS NOT NULL
         UNION ALL
        SELECT p.parent_pool_id, distance + 1, true, charges, false, used, reserved, 0, at
          FROM change
          JOIN budget_pools p USING (id)
         WHERE upwards AND p.parent_pool_id IS NOT NULL
    ), sums AS (
        SELECT id, min(distance) AS distance, bool_or(charges) AS charges, bool_or(mismatch) AS mismatch,
               sum(used) AS used, sum(reserved) AS reserved, sum(total) AS total, max(at) AS at
          FROM change
         GROUP BY id
    ), locked AS MATERIALIZED (
        SELECT sums.*, p.used_budget, p.remaining_budget,
               CASE WHEN mismatch THEN 'mismatch'
                    WHEN charges AND p.status = 'suspended' THEN 'suspended'
                    WHEN p.used_budget + used < 0 THEN 'unused'
                    WHEN p.remaining_budget + total - used - reserved < 0 THEN 'short' END AS refusal
          FROM budget_pools p
          JOIN sums USING (id)
         ORDER BY p.id
           FOR NO KEY UPDATE OF p
    ), moved AS (
        UPDATE budget_pools p
           SET total_budget = p.total_budget + l.total,
               used_budget = p.used_budget + l.used,
               reserved_budget = p.reserved_budget + l.reserved,
               updated_at = greatest(p.updated_at + interval '1 microsecond', least(l.at, clock_timestamp()))
          FROM locked l
         WHERE p.id = l.id AND NOT EXISTS (SELECT FROM locked WHERE refusal IS NOT NULL)
    )
    SELECT id, refusal, CASE refusal WHEN 'unused' THEN used_budget ELSE remaining_budget END AS amount
      INTO refused
      FROM locked
     WHERE refusal IS NOT NULL
     ORDER BY distance, id
     LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION '%', format(CASE refused.refusal
                WHEN 'short' THEN 'pool %s has only %s left'
                WHEN 'unused' THEN 'pool %s cannot refund more than %s, which was spent'
                WHEN 'suspended' THEN 'pool %s is suspended'
                ELSE 'pool %s or the amount differs from the reservation''s' END, refused.id, refused.amount)
            USING ERRCODE = 'AS001', TABLE = 'budget_entries', CONSTRAINT = 'budget_entries_' || refused.refusal,
                  DETAIL = format('%s %s %s', refused.id, refused.refusal, refused.amount),
                  HINT = 'nothing was changed; increase, resume or choose another pool';
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER post_budget_entries AFTER INSERT ON budget_entries
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION trigger_post_budget_entries();

-- An entry closes its reservation, before the trigger above locks the pools.
CREATE FUNCTION trigger_close_budget_reservation() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    UPDATE budget_reservations
       SET status = CASE NEW.kind WHEN 'settle' THEN 'settled' ELSE 'released' END,
           settled_amount = CASE NEW.kind WHEN 'settle' THEN NEW.amount END,
           updated_at = greatest(updated_at + interval '1 microsecond', least(NEW.created_at, clock_timestamp()))
     WHERE id = NEW.reservation_id;
    RETURN NULL;
END
$$;
CREATE TRIGGER close_reservation AFTER INSERT ON budget_entries
    FOR EACH ROW WHEN (NEW.kind IN ('settle', 'release')) EXECUTE FUNCTION trigger_close_budget_reservation();

-- The ledger is written once. Only the session of an entry may become null, when its row is deleted (at depth 1).
CREATE FUNCTION trigger_keep_budget_entries() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    -- TRUNCATE of the pools takes the ledger along, which is allowed.
    IF TG_OP <> 'TRUNCATE'
       OR EXISTS (SELECT FROM budget_pools WHERE used_budget <> 0 OR reserved_budget <> 0) THEN
        RAISE EXCEPTION 'entries of the ledger cannot be changed or deleted'
            USING ERRCODE = 'AS001', TABLE = 'budget_entries', CONSTRAINT = 'budget_entries_immutable',
                  HINT = 'correct an entry by another one, such as a refund';
    END IF;
    RETURN NULL;
END
$$;
-- Columns are compared one by one: pg_dump writes a comparison of rows as something else, which would be drift.
CREATE TRIGGER keep_entries BEFORE UPDATE ON budget_entries
    FOR EACH ROW WHEN (pg_trigger_depth() = 0 OR NEW.session_id IS NOT NULL
                       OR NEW.id IS DISTINCT FROM OLD.id OR NEW.pool_id IS DISTINCT FROM OLD.pool_id
                       OR NEW.kind IS DISTINCT FROM OLD.kind OR NEW.amount IS DISTINCT FROM OLD.amount
                       OR NEW.to_pool_id IS DISTINCT FROM OLD.to_pool_id
                       OR NEW.reservation_id IS DISTINCT FROM OLD.reservation_id
                       OR NEW.key IS DISTINCT FROM OLD.key OR NEW.actor IS DISTINCT FROM OLD.actor
                       OR NEW.metadata IS DISTINCT FROM OLD.metadata)
    EXECUTE FUNCTION trigger_keep_budget_entries();
CREATE TRIGGER keep_deleted_entries BEFORE DELETE ON budget_entries
    FOR EACH ROW EXECUTE FUNCTION trigger_keep_budget_entries();
CREATE TRIGGER keep_truncated_entries AFTER TRUNCATE ON budget_entries
    FOR EACH STATEMENT EXECUTE FUNCTION trigger_keep_budget_entries();

-- Insert an entry, or a reservation with its entry, and return the pool, both pools of a transfer, and the reservation
-- as they are afterwards. A refusal is a row, not an error, so that it leaves a transaction usable: `refusal` is the
-- reason, `pool` the nearest pool that refused, `refused_amount` what that had. A repeated call, known by its key or its
-- reservation, changes nothing; its refusal is 'key' or 'closed' when it asks for something else than the first one.
CREATE FUNCTION budget_post(
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
SELECT pin_search_path(
    'trigger_post_budget_entries()',
    'trigger_close_budget_reservation()',
    'trigger_keep_budget_entries()',
    'budget_post(text, uuid, numeric, uuid, uuid, text, text, uuid, timestamptz, jsonb)');

COMMENT ON TABLE budget_entries IS 'Ledger of the budgets: every change of a sum, which never changes itself';
COMMENT ON COLUMN budget_entries.id IS 'Primary key: a UUIDv7 by default, or the id that the caller gave';
COMMENT ON COLUMN budget_entries.pool_id IS 'Pool that is changed; all pools above it are charged too';
COMMENT ON COLUMN budget_entries.kind IS 'Kind of the change; a transfer moves a part of the total to another pool';
COMMENT ON COLUMN budget_entries.amount IS 'Amount of the change, never negative; the kind gives the direction';
COMMENT ON COLUMN budget_entries.to_pool_id IS 'Pool that receives a transfer; null for every other kind';
COMMENT ON COLUMN budget_entries.reservation_id IS 'Reservation that the entry makes or closes; null for other kinds';
COMMENT ON COLUMN budget_entries.key IS 'Idempotency key of the call, unique in the ledger; null for none';
COMMENT ON COLUMN budget_entries.actor IS 'Name of the person or program that made the entry';
COMMENT ON COLUMN budget_entries.session_id IS 'Workflow run that the amount was spent for; null after that was deleted';
COMMENT ON COLUMN budget_entries.metadata IS 'JSON object of the platform''s own fields';
COMMENT ON COLUMN budget_entries.created_at IS 'Time of the INSERT; never changes';
COMMENT ON COLUMN budget_entries.updated_at IS 'Time of the last UPDATE';
