-- Rolls back 20261122090200_conversations_customer_id.
ALTER TABLE conversations DROP COLUMN customer_id;
