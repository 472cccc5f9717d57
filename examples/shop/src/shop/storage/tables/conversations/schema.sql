-- A column more on a table of agent-storage.
ALTER TABLE conversations ADD COLUMN customer_id uuid REFERENCES customers (id) ON DELETE SET NULL;
CREATE INDEX conversations_customer_id_idx ON conversations (customer_id, id);

COMMENT ON COLUMN conversations.customer_id IS 'Customer of the shop; null if it is not known';
