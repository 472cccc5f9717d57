CREATE TABLE orders (
    id              uuid           PRIMARY KEY DEFAULT uuid_v7(),
    customer_id     uuid           NOT NULL REFERENCES customers (id),
    conversation_id uuid           REFERENCES conversations (id) ON DELETE SET NULL,
    status          text           NOT NULL DEFAULT 'open' CHECK (status IN ('open', 'paid', 'cancelled')),
    total           numeric(20, 6) NOT NULL CHECK (total >= 0),
    created_at      timestamptz    NOT NULL DEFAULT now(),
    updated_at      timestamptz    NOT NULL DEFAULT now()
);
CREATE INDEX orders_customer_id_idx ON orders (customer_id, id);
CREATE INDEX orders_conversation_id_idx ON orders (conversation_id, id);
CREATE TRIGGER set_timestamp BEFORE UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION trigger_set_timestamp();
CREATE TRIGGER check_transition BEFORE UPDATE OF status ON orders
    FOR EACH ROW WHEN (NEW.status <> OLD.status) EXECUTE FUNCTION trigger_check_transition('open -> paid cancelled');

COMMENT ON TABLE orders IS 'Orders of customers';
COMMENT ON COLUMN orders.id IS 'Primary key: a UUIDv7 by default, or the id that the caller gave';
COMMENT ON COLUMN orders.customer_id IS 'Customer of the order';
COMMENT ON COLUMN orders.conversation_id IS 'Conversation in which it was placed; null if in none';
COMMENT ON COLUMN orders.status IS 'open, then paid or cancelled';
COMMENT ON COLUMN orders.total IS 'Price of all items';
COMMENT ON COLUMN orders.created_at IS 'Time of the INSERT; never changes';
COMMENT ON COLUMN orders.updated_at IS 'Time of the last UPDATE';
