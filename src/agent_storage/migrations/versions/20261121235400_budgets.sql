-- data-loss: ok
-- (the generated column remaining_budget is made again, with another expression)

-- Budgets have a ledger: every change of a sum is a row of budget_entries, whose trigger moves the sums of the pool and of
-- all above it. Reservations hold an amount for a call whose cost is known afterwards.

DO $do$
BEGIN
    IF EXISTS (
        WITH RECURSIVE above (id, ancestor) AS (
            SELECT id, parent_pool_id FROM budget_pools WHERE parent_pool_id IS NOT NULL
             UNION
            SELECT above.id, p.parent_pool_id FROM above JOIN budget_pools p ON p.id = ancestor
        )
        SELECT FROM above WHERE id = ancestor
    ) THEN
        RAISE EXCEPTION 'some rows of budget_pools are above themselves'
            USING HINT = 'set parent_pool_id of one of them to null; trigger keep_parent_pool refuses it until disabled';
    END IF;
END
$do$;

-- remaining_budget depends on the new column, and the expression of a generated column cannot be changed.
ALTER TABLE budget_pools
    ADD COLUMN reserved_budget numeric(20,6) NOT NULL DEFAULT 0 CHECK (reserved_budget >= 0),
    DROP COLUMN remaining_budget,
    DROP CONSTRAINT budget_pools_used_within_total,
    DROP CONSTRAINT budget_pools_total_budget_check;
ALTER TABLE budget_pools
    ADD COLUMN remaining_budget numeric(20,6) NOT NULL
        GENERATED ALWAYS AS (total_budget - used_budget - reserved_budget) STORED,
    ADD CONSTRAINT budget_pools_used_within_total CHECK (used_budget + reserved_budget <= total_budget),
    ADD CONSTRAINT budget_pools_total_budget_check CHECK (total_budget >= 0 AND total_budget <> 'NaN');

DROP TRIGGER set_timestamp ON budget_pools;
-- The ledger's trigger sets updated_at to the time of its entry.
CREATE TRIGGER set_timestamp BEFORE UPDATE ON budget_pools
    FOR EACH ROW WHEN (NEW.updated_at = OLD.updated_at OR pg_trigger_depth() = 0)
    EXECUTE FUNCTION trigger_set_timestamp();


DROP TRIGGER set_status ON budget_pools;
UPDATE budget_pools
   SET status = CASE WHEN used_budget >= total_budget THEN 'exhausted' ELSE 'active' END
 WHERE status <> 'suspended' AND (status = 'exhausted') <> (used_budget >= total_budget);
CREATE OR REPLACE FUNCTION trigger_set_budget_pool_status() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    NEW.status := CASE WHEN NEW.used_budget + NEW.reserved_budget >= NEW.total_budget THEN 'exhausted' ELSE 'active' END;
    RETURN NEW;
END
$$;
CREATE TRIGGER set_status BEFORE INSERT OR UPDATE OF status, total_budget, used_budget, reserved_budget ON budget_pools
    FOR EACH ROW WHEN ((NEW.status = 'active' AND NEW.used_budget + NEW.reserved_budget >= NEW.total_budget)
                       OR (NEW.status = 'exhausted' AND NEW.used_budget + NEW.reserved_budget < NEW.total_budget))
    EXECUTE FUNCTION trigger_set_budget_pool_status();


-- The sums change only with an entry of the ledger, whose trigger updates them at depth 1.
CREATE TRIGGER keep_total_budget BEFORE UPDATE OF total_budget ON budget_pools
    FOR EACH ROW WHEN (NEW.total_budget IS DISTINCT FROM OLD.total_budget AND pg_trigger_depth() = 0)
    EXECUTE FUNCTION trigger_refuse_change('total_budget', 'insert an entry into budget_entries: increase, decrease');
CREATE TRIGGER keep_used_budget BEFORE UPDATE OF used_budget ON budget_pools
    FOR EACH ROW WHEN (NEW.used_budget IS DISTINCT FROM OLD.used_budget AND pg_trigger_depth() = 0)
    EXECUTE FUNCTION trigger_refuse_change('used_budget', 'insert an entry into budget_entries: spend, refund');
CREATE TRIGGER keep_reserved_budget BEFORE UPDATE OF reserved_budget ON budget_pools
    FOR EACH ROW WHEN (NEW.reserved_budget IS DISTINCT FROM OLD.reserved_budget AND pg_trigger_depth() = 0)
    EXECUTE FUNCTION trigger_refuse_change('reserved_budget', 'insert a row into budget_reservations');

-- Pools that one statement inserts could be each other's parent; the trigger sees all of them.
CREATE FUNCTION trigger_check_new_budget_pool() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.used_budget <> 0 OR NEW.reserved_budget <> 0 THEN
        RAISE EXCEPTION 'budget pool % is new, so nothing of it is used or reserved', NEW.id
            USING ERRCODE = 'AS001', TABLE = 'budget_pools', COLUMN = 'used_budget',
                  CONSTRAINT = 'budget_pools_new_is_unused', HINT = 'spend from it afterwards, which charges all above';
    END IF;
    IF EXISTS (SELECT FROM budget_pools WHERE parent_pool_id = NEW.id) AND EXISTS (
        WITH RECURSIVE above (id) AS (
            SELECT NEW.parent_pool_id
             UNION
            SELECT p.parent_pool_id FROM above JOIN budget_pools p USING (id)
        )
        SELECT FROM above WHERE id = NEW.id
    ) THEN
        RAISE EXCEPTION 'budget pool % would be above itself', NEW.id
            USING ERRCODE = 'AS001', TABLE = 'budget_pools', COLUMN = 'parent_pool_id',
                  CONSTRAINT = 'budget_pools_tree_without_cycle', HINT = 'choose a parent that is not below it';
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER check_new_pool AFTER INSERT ON budget_pools
    FOR EACH ROW WHEN (NEW.parent_pool_id IS NOT NULL OR NEW.used_budget <> 0 OR NEW.reserved_budget <> 0)
    EXECUTE FUNCTION trigger_check_new_budget_pool();


-- fillfactor 70: each reservation is updated once, when it is closed.
CREATE TABLE budget_reservations (
    id             uuid          PRIMARY KEY DEFAULT uuid_v7(),
    pool_id        uuid          NOT NULL REFERENCES budget_pools (id),
    amount         numeric(20,6) NOT NULL CHECK (amount >= 0 AND amount <> 'NaN'),
    status         text          NOT NULL DEFAULT 'held' CHECK (status IN ('held', 'settled', 'released')),
    settled_amount numeric(20,6),
    key            text          UNIQUE CHECK (char_length(key) BETWEEN 1 AND 500),
    actor          text,
    session_id     uuid          REFERENCES workflow_sessions (id) ON DELETE SET NULL,
    expires_at     timestamptz,
    metadata       jsonb         NOT NULL DEFAULT '{}',
    created_at     timestamptz   NOT NULL DEFAULT now(),
    updated_at     timestamptz   NOT NULL DEFAULT now(),
    CONSTRAINT budget_reservations_settled_has_amount CHECK ((status = 'settled') = (settled_amount IS NOT NULL))
) WITH (fillfactor = 70);
CREATE INDEX budget_reservations_pool_id_idx ON budget_reservations (pool_id, id);
CREATE INDEX budget_reservations_session_id_idx ON budget_reservations (session_id, id);
CREATE INDEX budget_reservations_overdue_idx ON budget_reservations (expires_at) WHERE status = 'held';

-- The ledger's trigger sets updated_at to the time of the entry that closes the reservation.
CREATE TRIGGER set_timestamp BEFORE UPDATE ON budget_reservations
    FOR EACH ROW WHEN (NEW.updated_at = OLD.updated_at OR pg_trigger_depth() = 0)
    EXECUTE FUNCTION trigger_set_timestamp();

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

-- Opening entries: what each pool had spent itself, so that the ledger adds up to the sums. They are made before the
-- triggers, which would add them once more. A pool whose sum was less than that of the pools below it has a refund.
INSERT INTO budget_entries (pool_id, kind, amount, actor)
SELECT id, CASE WHEN own > 0 THEN 'spend' ELSE 'refund' END, abs(own), 'migration'
  FROM (SELECT p.id, p.used_budget - coalesce(sum(below.used_budget), 0) AS own
          FROM budget_pools p
          LEFT JOIN budget_pools below ON below.parent_pool_id = p.id
         GROUP BY p.id) AS pools
 WHERE own <> 0;

-- The amount is held in the pool and in all above it by an entry of the ledger, which has the id of the reservation.
CREATE FUNCTION trigger_hold_budget() RETURNS trigger
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
CREATE TRIGGER hold_budget AFTER INSERT ON budget_reservations
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION trigger_hold_budget();

-- An entry of the ledger closes a reservation; a statement cannot. A session that is deleted is set to null at depth 1.
CREATE TRIGGER keep_pool_id BEFORE UPDATE OF pool_id ON budget_reservations
    FOR EACH ROW WHEN (NEW.pool_id IS DISTINCT FROM OLD.pool_id)
    EXECUTE FUNCTION trigger_refuse_change('pool_id', 'release it and reserve from the other pool');
CREATE TRIGGER keep_amount BEFORE UPDATE OF amount ON budget_reservations
    FOR EACH ROW WHEN (NEW.amount IS DISTINCT FROM OLD.amount)
    EXECUTE FUNCTION trigger_refuse_change('amount', 'release it and reserve the other amount');
CREATE TRIGGER keep_key BEFORE UPDATE OF key ON budget_reservations
    FOR EACH ROW WHEN (NEW.key IS DISTINCT FROM OLD.key)
    EXECUTE FUNCTION trigger_refuse_change('key', 'it identifies the call that made the reservation');
CREATE TRIGGER keep_status BEFORE UPDATE OF status, settled_amount ON budget_reservations
    FOR EACH ROW WHEN ((NEW.status, NEW.settled_amount) IS DISTINCT FROM (OLD.status, OLD.settled_amount)
                       AND pg_trigger_depth() = 0)
    EXECUTE FUNCTION trigger_refuse_change('status', 'settle or release the reservation');

COMMENT ON TABLE budget_reservations IS 'Amounts held in budget pools for calls whose cost is known afterwards';
COMMENT ON COLUMN budget_reservations.id IS 'Primary key: a UUIDv7 by default, or the id that the caller gave';
COMMENT ON COLUMN budget_reservations.pool_id IS 'Pool that holds the amount, as do all above it; never changes';
COMMENT ON COLUMN budget_reservations.amount IS 'Amount that is held until the reservation is closed; never changes';
COMMENT ON COLUMN budget_reservations.status IS 'State of the reservation; changes only with an entry of the ledger';
COMMENT ON COLUMN budget_reservations.settled_amount IS 'Amount that was charged in the end; null unless settled';
COMMENT ON COLUMN budget_reservations.key IS 'Idempotency key of the call, unique in the ledger; null for none';
COMMENT ON COLUMN budget_reservations.actor IS 'Name of the person or program that reserved';
COMMENT ON COLUMN budget_reservations.session_id IS 'Workflow run that the amount is for';
COMMENT ON COLUMN budget_reservations.expires_at IS 'Time after which release_overdue frees the amount; null for never';
COMMENT ON COLUMN budget_reservations.metadata IS 'JSON object of the platform''s own fields';
COMMENT ON COLUMN budget_reservations.created_at IS 'Time of the INSERT; never changes';
COMMENT ON COLUMN budget_reservations.updated_at IS 'Time of the last UPDATE';

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
CREATE TRIGGER keep_entries BEFORE UPDATE ON budget_entries
    FOR EACH ROW WHEN (pg_trigger_depth() = 0 OR NEW.session_id IS NOT NULL
                       OR (NEW.id, NEW.pool_id, NEW.kind, NEW.amount, NEW.to_pool_id, NEW.reservation_id, NEW.key,
                           NEW.actor, NEW.metadata)
                          IS DISTINCT FROM
                          (OLD.id, OLD.pool_id, OLD.kind, OLD.amount, OLD.to_pool_id, OLD.reservation_id, OLD.key,
                           OLD.actor, OLD.metadata))
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

COMMENT ON COLUMN budget_pools.total_budget IS 'Amount that may be spent; changes only with an entry of the ledger';
COMMENT ON COLUMN budget_pools.used_budget IS 'Amount that was spent, that of the pools below included; changes only with an entry of the ledger';
COMMENT ON COLUMN budget_pools.reserved_budget IS 'Amount that is held by reservations, those of the pools below included';
COMMENT ON COLUMN budget_pools.remaining_budget IS 'Amount that is left: total less used and reserved; generated';
COMMENT ON COLUMN budget_pools.status IS 'State of the pool: suspended, else exhausted if nothing is left, else active';
