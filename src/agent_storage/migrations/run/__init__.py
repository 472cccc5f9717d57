"""Run migrations: one connection, one lock, statement by statement."""
