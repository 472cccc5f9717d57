"""Part of `benchmarks.domains`: finding a row by the beginning of its id, beside LIKE on the id's text."""

from __future__ import annotations

import random
import statistics
from typing import Any

import psycopg

from agent_storage.statements.ids import prefix_range
from agent_storage.tables.chat.conversations.repository import Conversations

from .figures import Figure

LENGTHS = (4, 8, 9, 36)
SLOW_RUNS = 5

#: UUIDv7 ids evenly over a year, random after the timestamp, as if the rows had been inserted one by one.
FILL = """
    WITH moments AS (
        SELECT n, (extract(epoch FROM now() - interval '1 year' * (1 - n / %(rows)s::float)) * 1000)::bigint AS ms
          FROM generate_series(1, %(rows)s) n
    )
    INSERT INTO conversations (id, title)
    SELECT (lpad(to_hex(ms), 12, '0') || '7' || substr(md5(random()::text), 1, 3)
            || '8' || substr(md5(random()::text), 1, 15))::uuid, 'Conversation ' || n
      FROM moments
"""


def short_ids(conninfo: str, rows: int, runs: int) -> list[Figure]:
    """The database's own time, planning included, for prefixes of several lengths."""
    with psycopg.connect(conninfo, autocommit=True, cursor_factory=psycopg.RawCursor) as connection:
        psycopg.ClientCursor(connection).execute(FILL, {"rows": rows})
        connection.execute("VACUUM ANALYZE conversations")
        sample = connection.execute("SELECT id FROM conversations TABLESAMPLE SYSTEM (1)").fetchall()
        chosen = random.Random(7).choices([str(row[0]) for row in sample], k=runs)
        found: list[Figure] = []
        for length in LENGTHS:
            work = f"{length} characters of an id, {rows:,} rows"
            ours = [ranged(connection, one[:length]) for one in chosen]
            like = [matched(connection, one[:length]) for one in chosen[:SLOW_RUNS]]
            found.append(Figure(work, "between_ids", statistics.median(ours), "ms", f"median of {runs}"))
            found.append(Figure(work, "id::text LIKE", statistics.median(like), "ms", f"median of {len(like)}"))
    return found


def ranged(connection: psycopg.Connection, prefix: str) -> float:
    text = Conversations.statements()["_between_ids"].text
    return explained(connection, text, prefix_range(prefix))


def matched(connection: psycopg.Connection, prefix: str) -> float:
    text = "SELECT * FROM conversations WHERE id::text LIKE $1 ORDER BY id LIMIT 11"
    return explained(connection, text, (prefix + "%",))


def explained(connection: psycopg.Connection, text: str, values: tuple[Any, ...]) -> float:
    """Milliseconds of planning and execution, as the server says."""
    row = connection.execute(f"EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) {text}".encode(), values).fetchone()
    assert row
    plan = row[0][0]
    return plan["Planning Time"] + plan["Execution Time"]
