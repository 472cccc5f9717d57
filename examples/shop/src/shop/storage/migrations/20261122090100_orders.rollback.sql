-- Rolls back 20261122090100_orders.
DROP TABLE orders;
