"""The way of a declared statement through libpq (`psycopg.pq`), without psycopg's cursor. Nothing else sees libpq."""
