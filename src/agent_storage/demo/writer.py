"""The way of the demo data into the database: COPY, table after table, references first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from psycopg import sql

from agent_storage.demo.unit import Row, Unit
from agent_storage.statements.codec import encode_row
from agent_storage.statements.records import columns
from agent_storage.statements.text import JsonText
from agent_storage.statements.types import to_text
from agent_storage.sync.database.transaction import Transaction

if TYPE_CHECKING:
    from agent_storage.sync.storage import Storage

#: The tables in an order in which each finds what it refers to.
ORDER = (
    *("providers", "models", "tool_configs", "projects", "project_files", "tickets", "ticket_tasks", "ticket_comments"),
    *("conversations", "messages", "tool_results", "boards", "repos", "sessions", "tasks", "checkpoints"),
    *(
        "workflows",
        "workflow_sessions",
        "budget_pools",
        "budget_reservations",
        "budget_entries",
        "execution_states",
        "node_execution_states",
    ),
    *("llm_executions", "tool_call_logs", "approval_requests", "event_streams", "stream_events"),
)


def write(tx: Storage, unit: Unit, counts: dict[str, int]) -> None:
    """Copy a unit's rows and count them."""
    runner = cast(Transaction, tx.providers.runner)
    for table in ORDER:
        if rows := unit.rows.get(table):
            # by id, which is by time, as they would have come
            _copy(runner, table, sorted(rows, key=lambda row: str(row.new.id)))
            counts[table] += len(rows)
            if table == "budget_reservations":  # each has an entry, which a trigger inserts
                counts["budget_entries"] += len(rows)


def _copy(runner: Transaction, table: str, rows: list[Row]) -> None:
    extra = list(rows[0].extra)
    names = [name for name in columns(type(rows[0].new)) if name not in extra]

    def values(row: Row) -> list[Any]:
        given = [*encode_row(row.new, names, runner.codec, table=table).values(), *(row.extra[name] for name in extra)]
        return [one if one is None or isinstance(one, JsonText) else to_text(one) for one in given]

    text = sql.SQL("COPY {} ({}) FROM STDIN").format(
        sql.Identifier(table), sql.SQL(", ").join(map(sql.Identifier, [*names, *extra]))
    )
    with runner.connection.cursor() as cursor, cursor.copy(text) as copy:
        for row in rows:
            copy.write_row(values(row))


def analyze(tx: Storage) -> None:
    """Run ANALYZE, so that the planner has the statistics of the new rows."""
    text = sql.SQL("ANALYZE {}").format(sql.SQL(", ").join(map(sql.Identifier, ORDER)))
    cast(Transaction, tx.providers.runner).connection.execute(text)
