"""A runner that stands before a database and keeps what goes through it: statements, values, plans."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import psycopg
from psycopg.rows import tuple_row

from agent_storage import sync
from agent_storage.statements.statement import Statement


class Recording:
    """Runs every statement and remembers it; with `explain`, its plan too, made for the very values."""

    def __init__(self, database: Any, *, explain: bool = False) -> None:
        self._database = database
        self._explain = explain
        self.codec = database.codec
        self.statements: list[str] = []
        self.plans: list[tuple[str, dict[str, Any]]] = []

    def run(self, statement: Statement[Any], values: Sequence[Any]) -> Any:
        self.statements.append(statement.name)
        if self._explain:
            self.plans.append((statement.name, self._plan(statement, values)))
        return self._database.run(statement, values)

    def run_chunked(self, statement: Statement[Any], arguments: Mapping[str, Any]) -> Any:
        assert statement.encode_chunks(arguments, self.codec) is None, "give fewer rows"
        return self.run(statement, statement.encode(arguments, self.codec))

    def _plan(self, statement: Statement[Any], values: Sequence[Any]) -> dict[str, Any]:
        with self._database.connection() as connection:
            cursor = psycopg.RawCursor(connection, row_factory=tuple_row)
            row = cursor.execute(b"EXPLAIN (FORMAT JSON) " + statement.query, values, prepare=False).fetchone()
            return row[0][0]["Plan"]

    def stream(self, statement: Statement[Any], values: Sequence[Any]) -> Any:
        self.statements.append(statement.name)
        return self._database.stream(statement, values)

    def begin(self, *args: Any, **kwargs: Any) -> Any:
        self.statements.append("BEGIN")
        return self._database.begin(*args, **kwargs)


class Recorded(sync.storage.Tables):
    """The repositories over a recording runner."""

    def __init__(self, storage: sync.Storage, *, explain: bool = False) -> None:
        self.log = Recording(storage.database, explain=explain)
        super().__init__(self.log)  # pyright: ignore[reportArgumentType]


def nodes(plan: dict[str, Any]) -> list[dict[str, Any]]:
    """A plan's node and all below it."""
    return [plan, *(found for child in plan.get("Plans", []) for found in nodes(child))]
