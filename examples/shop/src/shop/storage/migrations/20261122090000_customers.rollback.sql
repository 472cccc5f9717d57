-- Rolls back 20261122090000_customers.
DROP TABLE customers;
