"""Rows for every table, made from the records' own types: edge values, nulls and duplicates, linked as they must be."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Literal, get_args, get_origin
from uuid import UUID

from pydantic import BaseModel

from agent_storage import sync
from agent_storage.statements.records import Column, bare, columns, nullable
from agent_storage.sync.tables import REPOSITORIES

#: Which table a reference leads to; every other `…_id` is text or nothing.
REFERENCES = {
    "project_id": "projects", "model_id": "models", "conversation_id": "conversations", "provider_id": "providers",
    "message_id": "messages", "tool_config_id": "tool_configs", "board_id": "boards", "repo_id": "repos",
    "parent_session_id": "sessions", "forked_from_session_id": "sessions", "ticket_id": "tickets",
    "workflow_id": "workflows", "execution_id": "llm_executions", "budget_pool_id": "budget_pools",
    "parent_pool_id": "budget_pools", "pool_id": "budget_pools",
}  # fmt: skip
RUN_TABLES = ("execution_states", "node_execution_states", "llm_executions", "approval_requests", "budget_entries",
              "budget_reservations")  # fmt: skip
#: Values that do not depend on chance, because a ledger adds them up.
PLAIN: dict[str, dict[str, Any]] = {
    "budget_pools": {"status": "active"},
    "budget_reservations": {"key": None},
    "budget_entries": {"kind": "increase"},
}
UNIQUE = ("name", "slug", "path", "node_id", "key")
TEXTS = ["", "a", "b", "B", "Ø", "\x00", "\x1a", "z%_", "'; DROP TABLE messages; --", "\ud800"]
DOCUMENTS = [{}, {"n": 1}, {"n": 2, "deep": {"tag": "x"}}, {"n": None}, {"\x00": "\x00"}]
START = datetime(2026, 1, 1, tzinfo=UTC)


class Factory:
    """Makes rows table by table, parents first."""

    def __init__(self, storage: sync.Storage, seed: int) -> None:
        self.storage = storage
        self.dice = random.Random(seed)
        self.ids: dict[str, list[UUID]] = {}

    def fill(self, rows: int) -> None:
        for table in parents_first():
            news = [self.new(table, number) for number in range(rows)]
            self.ids[table] = [row.id for row in getattr(self.storage, table).create_many(news)]

    def new(self, table: str, number: int) -> Any:
        new = REPOSITORIES[table].new
        given = {name: column for name, column in columns(new).items() if name not in SKIPPED}
        values = {name: self.value(table, column, number) for name, column in given.items()}
        if table == "approval_requests":
            decided = {"resolved_at": START, "resolved_by": "ada", "resolution_notes": values["resolution_notes"]}
            values |= dict.fromkeys(decided) if values["status"] == "pending" else decided
        return new(**values)

    def value(self, table: str, column: Column, number: int) -> Any:
        name = column.name
        if table in PLAIN and name in PLAIN[table]:
            return PLAIN[table][name]
        if nullable(column.annotation) and self.dice.random() < 0.3:
            return None
        if (target := self.target(table, name)) is not None:
            known = self.ids.get(target)
            return known[number % len(known)] if known else None
        if name == "stream_id":
            return f"stream {number % 3}"
        if name in UNIQUE:
            return f"{self.dice.choice(['a', 'Ø', 'z%_'])} {number}"
        return self.plain(column)

    def target(self, table: str, name: str) -> str | None:
        if name == "session_id" and table in RUN_TABLES:
            return "workflow_sessions"
        if name == "session_id" and table == "tasks":
            return "sessions"
        return REFERENCES.get(name)

    def plain(self, column: Column) -> Any:
        kind = column.python_type
        if column.encrypted:
            return None
        if column.json:
            return self.document(kind)
        if get_origin(kind) is Literal:
            return self.dice.choice(get_args(kind))
        if get_origin(kind) is list:
            texts = bare(get_args(kind)[0]) is str
            held = ["bug", "ui", "Ø" if column.name in KEYS else "\x00"]
            return self.dice.sample(held, self.dice.randrange(3)) if texts else []
        made = {
            int: lambda: self.dice.randrange(4) + (column.name in ("context_window", "position")),
            bool: lambda: self.dice.random() < 0.5,
            Decimal: lambda: Decimal(self.dice.randrange(4)) + 1000 * (column.name == "total_budget"),
            datetime: lambda: START + timedelta(hours=self.dice.randrange(5)),
            UUID: lambda: UUID(int=self.dice.getrandbits(128)),
            str: lambda: self.dice.choice(TEXTS[1:5] if column.name in KEYS else TEXTS),
        }[kind]
        return made()

    def document(self, kind: Any) -> Any:
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return self.dice.choice([{}, {"description": "x"}, {"mine": {"deep": 1}}])
        if get_origin(kind) is list:
            return self.dice.choice([[], ["x"], ["x", "y"]])
        return "text" if kind is not Any and get_origin(kind) is not dict else self.dice.choice(DOCUMENTS)


SKIPPED = {"to_pool_id", "reservation_id", "id", "updated_at", "position", "parent_id", "last_sequence"}
#: Names and keys, which refuse what PostgreSQL cannot hold as it is.
KEYS = {
    "agent", "agent_id", "agent_type", "assignee", "author", "kind", "labels", "owner", "session_id", "title",
    "tool_call_id", "tool_name", "version",
}  # fmt: skip


def parents_first() -> list[str]:
    """The tables in an order in which every reference finds its row; streams come with their events."""
    first = ["projects", "providers", "models", "workflows", "workflow_sessions", "budget_pools"]
    return [*first, *(name for name in REPOSITORIES if name not in {*first, "event_streams"})]
