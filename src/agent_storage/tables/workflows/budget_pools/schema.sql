-- fillfactor 70: a spend updates the pool and all pools above it; no index holds the amounts, so with room on the page
-- every spend is a HOT update; without, 78 % (measured, see benchmarks/growth.py).
CREATE TABLE budget_pools (
    id               uuid          PRIMARY KEY DEFAULT uuid_v7(),
    parent_pool_id   uuid          REFERENCES budget_pools (id) CHECK (parent_pool_id <> id),
    total_budget     numeric(20,6) NOT NULL CHECK (total_budget >= 0 AND total_budget <> 'NaN'),
    used_budget      numeric(20,6) NOT NULL DEFAULT 0 CHECK (used_budget >= 0),
    reserved_budget  numeric(20,6) NOT NULL DEFAULT 0 CHECK (reserved_budget >= 0),
    remaining_budget numeric(20,6) NOT NULL GENERATED ALWAYS AS (total_budget - used_budget - reserved_budget) STORED,
    status           text          NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'exhausted', 'suspended')),
    metadata         jsonb         NOT NULL DEFAULT '{}',
    created_at       timestamptz   NOT NULL DEFAULT now(),
    updated_at       timestamptz   NOT NULL DEFAULT now(),
    CONSTRAINT budget_pools_used_within_total CHECK (used_budget + reserved_budget <= total_budget)
) WITH (fillfactor = 70);
CREATE INDEX budget_pools_parent_pool_id_idx ON budget_pools (parent_pool_id, id);

-- The ledger's trigger sets updated_at to the time of its entry.
CREATE TRIGGER set_timestamp BEFORE UPDATE ON budget_pools
    FOR EACH ROW WHEN (NEW.updated_at = OLD.updated_at OR pg_trigger_depth() = 0)
    EXECUTE FUNCTION trigger_set_timestamp();

-- A pool with nothing left is exhausted, one that has something again is active; a suspended one stays so.
CREATE FUNCTION trigger_set_budget_pool_status() RETURNS trigger
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

-- What was spent has been charged to the pools above; another parent would not know of it.
CREATE FUNCTION trigger_keep_parent_pool() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'budget pool % cannot move to another parent', OLD.id
        USING ERRCODE = 'AS001', TABLE = 'budget_pools', COLUMN = 'parent_pool_id',
              CONSTRAINT = 'budget_pools_parent_pool_immutable', HINT = 'allocate a new pool under the other parent';
END
$$;
CREATE TRIGGER keep_parent_pool BEFORE UPDATE OF parent_pool_id ON budget_pools
    FOR EACH ROW WHEN (NEW.parent_pool_id IS DISTINCT FROM OLD.parent_pool_id)
    EXECUTE FUNCTION trigger_keep_parent_pool();

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
SELECT pin_search_path('trigger_check_new_budget_pool()');

COMMENT ON TABLE budget_pools IS 'Budgets, in trees; no pool is ever overspent';
COMMENT ON COLUMN budget_pools.id IS 'Primary key: a UUIDv7 by default, or the id that the caller gave';
COMMENT ON COLUMN budget_pools.parent_pool_id IS 'Pool above this one, which is charged too; never changes';
COMMENT ON COLUMN budget_pools.total_budget IS 'Amount that may be spent; changes only with an entry of the ledger';
COMMENT ON COLUMN budget_pools.used_budget IS 'Amount that was spent, that of the pools below included; changes only with an entry of the ledger';
COMMENT ON COLUMN budget_pools.reserved_budget IS 'Amount that is held by reservations, those of the pools below included';
COMMENT ON COLUMN budget_pools.remaining_budget IS 'Amount that is left: total less used and reserved; generated';
COMMENT ON COLUMN budget_pools.status IS 'State of the pool: suspended, else exhausted if nothing is left, else active';
COMMENT ON COLUMN budget_pools.metadata IS 'JSON object of the platform''s own fields';
COMMENT ON COLUMN budget_pools.created_at IS 'Time of the INSERT; never changes';
COMMENT ON COLUMN budget_pools.updated_at IS 'Time of the last UPDATE';
