-- fillfactor 70: a spend updates the pool and all pools above it; no index holds the amounts, so with room on the page
-- every spend is a HOT update; without, 78 % (measured, see benchmarks/growth.py).
CREATE TABLE budget_pools (
    id               uuid          PRIMARY KEY DEFAULT uuid_v7(),
    parent_pool_id   uuid          REFERENCES budget_pools (id) CHECK (parent_pool_id <> id),
    total_budget     numeric(20,6) NOT NULL CHECK (total_budget >= 0),
    used_budget      numeric(20,6) NOT NULL DEFAULT 0 CHECK (used_budget >= 0),
    remaining_budget numeric(20,6) NOT NULL GENERATED ALWAYS AS (total_budget - used_budget) STORED,
    status           text          NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'exhausted', 'suspended')),
    metadata         jsonb         NOT NULL DEFAULT '{}',
    created_at       timestamptz   NOT NULL DEFAULT now(),
    updated_at       timestamptz   NOT NULL DEFAULT now(),
    CONSTRAINT budget_pools_used_within_total CHECK (used_budget <= total_budget)
) WITH (fillfactor = 70);
CREATE INDEX budget_pools_parent_pool_id_idx ON budget_pools (parent_pool_id, id);
CREATE TRIGGER set_timestamp BEFORE UPDATE ON budget_pools FOR EACH ROW EXECUTE FUNCTION trigger_set_timestamp();

-- A pool that reaches its total is exhausted, one that has something again is active; a suspended one stays so.
CREATE FUNCTION trigger_set_budget_pool_status() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    NEW.status := CASE WHEN NEW.used_budget >= NEW.total_budget THEN 'exhausted' ELSE 'active' END;
    RETURN NEW;
END
$$;
CREATE TRIGGER set_status BEFORE UPDATE OF total_budget, used_budget ON budget_pools
    FOR EACH ROW WHEN (NEW.status <> 'suspended'
                       AND (NEW.total_budget, NEW.used_budget) IS DISTINCT FROM (OLD.total_budget, OLD.used_budget))
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

COMMENT ON TABLE budget_pools IS 'Budgets, in trees; no pool is ever overspent';
COMMENT ON COLUMN budget_pools.id IS 'Primary key: a UUIDv7 by default, or the id that the caller gave';
COMMENT ON COLUMN budget_pools.parent_pool_id IS 'Pool above this one, which is charged too; never changes';
COMMENT ON COLUMN budget_pools.total_budget IS 'Amount that may be spent';
COMMENT ON COLUMN budget_pools.used_budget IS 'Amount that was spent, that of the pools below included';
COMMENT ON COLUMN budget_pools.remaining_budget IS 'Amount that is left: total less used; generated';
COMMENT ON COLUMN budget_pools.status IS 'State of the pool';
COMMENT ON COLUMN budget_pools.metadata IS 'JSON object of the platform''s own fields';
COMMENT ON COLUMN budget_pools.created_at IS 'Time of the INSERT; never changes';
COMMENT ON COLUMN budget_pools.updated_at IS 'Time of the last UPDATE';
