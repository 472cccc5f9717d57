"""The compiled path: declared statements without a cursor, straight through libpq (`psycopg.pq`).

`parameters` encodes, `prepared` keeps what a connection knows of a statement, `readiness` waits, `wire` runs statements
on one connection that a task or thread has to itself, `lanes` on connections that all tasks share. Nothing outside this
folder sees libpq, and `STORAGE_COMPILED=0` goes back to psycopg's cursor.
"""
