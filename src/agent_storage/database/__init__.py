"""The way to the database: the pool, transactions, batches, and the fast path below them."""
