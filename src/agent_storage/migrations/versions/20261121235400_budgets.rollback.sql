-- data-loss: ok

-- The amounts spent stay in the pools; the ledger and the reservations are lost, and what these held is free again.
DROP FUNCTION budget_post;
DROP TABLE budget_entries, budget_reservations;
DROP FUNCTION trigger_post_budget_entries, trigger_close_budget_reservation, trigger_keep_budget_entries,
    trigger_hold_budget;
DROP TRIGGER keep_total_budget ON budget_pools;
DROP TRIGGER keep_used_budget ON budget_pools;
DROP TRIGGER keep_reserved_budget ON budget_pools;
DROP TRIGGER check_new_pool ON budget_pools;
DROP FUNCTION trigger_check_new_budget_pool;
DROP TRIGGER set_timestamp ON budget_pools;
CREATE TRIGGER set_timestamp BEFORE UPDATE ON budget_pools FOR EACH ROW EXECUTE FUNCTION trigger_set_timestamp();
DROP TRIGGER set_status ON budget_pools;
CREATE OR REPLACE FUNCTION trigger_set_budget_pool_status() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    NEW.status := CASE WHEN NEW.used_budget >= NEW.total_budget THEN 'exhausted' ELSE 'active' END;
    RETURN NEW;
END
$$;

ALTER TABLE budget_pools
    DROP CONSTRAINT budget_pools_used_within_total,
    DROP CONSTRAINT budget_pools_total_budget_check,
    DROP COLUMN remaining_budget,
    DROP COLUMN reserved_budget;
ALTER TABLE budget_pools
    ADD COLUMN remaining_budget numeric(20,6) NOT NULL GENERATED ALWAYS AS (total_budget - used_budget) STORED,
    ADD CONSTRAINT budget_pools_used_within_total CHECK (used_budget <= total_budget),
    ADD CONSTRAINT budget_pools_total_budget_check CHECK (total_budget >= 0);
UPDATE budget_pools
   SET status = 'active'
 WHERE status = 'exhausted' AND used_budget < total_budget;
CREATE TRIGGER set_status BEFORE UPDATE OF total_budget, used_budget ON budget_pools
    FOR EACH ROW WHEN (NEW.status <> 'suspended'
                       AND (NEW.total_budget, NEW.used_budget) IS DISTINCT FROM (OLD.total_budget, OLD.used_budget))
    EXECUTE FUNCTION trigger_set_budget_pool_status();


COMMENT ON COLUMN budget_pools.total_budget IS 'Amount that may be spent';
COMMENT ON COLUMN budget_pools.used_budget IS 'Amount that was spent, that of the pools below included';
COMMENT ON COLUMN budget_pools.remaining_budget IS 'Amount that is left: total less used; generated';
COMMENT ON COLUMN budget_pools.status IS 'State of the pool';
