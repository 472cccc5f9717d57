"""What holds at any moment, and what holds when every call is acknowledged."""

from __future__ import annotations

from typing import Any

import psycopg

from .load import Journal, Shared

#: Queries that return contradictions.
ALWAYS = {
    "positions of messages have gaps": """
        SELECT conversation_id FROM messages GROUP BY conversation_id
        HAVING min(position) <> 1 OR max(position) <> count(*)""",
    "sequences of events have gaps": """
        SELECT e.stream_id FROM stream_events e JOIN event_streams s USING (stream_id)
         GROUP BY e.stream_id, s.last_sequence HAVING min(e.sequence) <> 1 OR max(e.sequence) <> count(*)
            OR s.last_sequence <> count(*)""",
    "a budget differs from its ledger": """
        SELECT p.id FROM budget_pools p
         WHERE p.parent_pool_id IS NOT NULL AND p.used_budget <>
               (SELECT coalesce(sum(CASE e.kind WHEN 'refund' THEN -e.amount ELSE e.amount END), 0)
                  FROM budget_entries e WHERE e.pool_id = p.id AND e.kind IN ('spend', 'settle', 'refund'))""",
    "a budget differs from those below": """
        SELECT p.id FROM budget_pools p
         WHERE p.parent_pool_id IS NULL AND p.used_budget <>
               (SELECT coalesce(sum(c.used_budget), 0) FROM budget_pools c WHERE c.parent_pool_id = p.id)""",
    "a budget is overspent": "SELECT id FROM budget_pools WHERE remaining_budget < 0",
    "a ticket has not all of its tasks": """
        SELECT t.id FROM tickets t LEFT JOIN ticket_tasks k ON k.ticket_id = t.id
         GROUP BY t.id HAVING count(k.id) <> 2""",
    "a completed task has no time": "SELECT id FROM tasks WHERE (status = 'completed') <> (completed_at IS NOT NULL)",
    "a batch is not whole": "SELECT count(*) FROM boards WHERE name = 'batch' HAVING count(*) % 3 <> 0",
    "a chunked list is not whole": "SELECT count(*) FROM boards WHERE name = 'many' HAVING count(*) % 1100 <> 0",
    "a key was used twice": "SELECT key FROM budget_entries WHERE key IS NOT NULL GROUP BY key HAVING count(*) > 1",
}


def always(conninfo: str) -> list[str]:
    """Return contradictions, in one snapshot."""
    with psycopg.connect(conninfo, application_name="invariants", connect_timeout=5) as connection:
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        return [
            f"{name}: {found[:3]}"
            for name, query in ALWAYS.items()
            if (found := connection.execute(query.encode()).fetchall())
        ]


def at_rest(conninfo: str, journal: Journal, shared: Shared, seen: dict[str, list[int]]) -> tuple[list[str], int]:
    """Return contradictions to what callers were told, and how many acknowledged writes are lost."""
    faults, lost = always(conninfo), 0

    def check(what: str, acknowledged: list[Any], there: set[Any]) -> None:
        nonlocal lost
        missing = set(acknowledged) - there
        lost += len(missing)
        if missing:
            faults.append(f"{len(missing)} {what} were acknowledged and are not there")

    with psycopg.connect(conninfo, autocommit=True) as connection:

        def column(query: str, *values: Any) -> set[Any]:
            return {row[0] for row in connection.execute(query.encode(), values).fetchall()}

        for table, ids in journal.rows.items():
            check(table, ids, column(f"SELECT id FROM {table}"))
        check("spendings", journal.spent, column("SELECT key FROM budget_entries WHERE key IS NOT NULL"))
        check("completed tasks", journal.completed, column("SELECT id FROM tasks WHERE status = 'completed'"))
        (number,) = column("SELECT (metadata->>'n')::int FROM conversations WHERE id = %s", shared.counter)
        if not journal.counted <= number <= journal.counted + journal.perhaps_counted:
            lost += max(0, journal.counted - number)
            faults.append(f"the counter is {number}: {journal.counted} acknowledged, {journal.perhaps_counted} unknown")
        for stream, sequences in seen.items():
            (last,) = column("SELECT coalesce(max(sequence), 0) FROM stream_events WHERE stream_id = %s", stream)
            if sequences != list(range(1, last + 1)):
                faults.append(f"a follower of {last} events saw {len(sequences)}, or not in order")
    return faults, lost
