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
SELECT pin_search_path('trigger_hold_budget()');

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
