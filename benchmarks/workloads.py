"""Part of `benchmarks.compare`: the common table, its rows, and the workloads."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

import psycopg
from psycopg.types.json import Jsonb
from pydantic import BaseModel

TABLE = """
    CREATE TABLE bench_rows (
        id         uuid        PRIMARY KEY DEFAULT uuid_v7(),
        owner      uuid        NOT NULL,
        body       text        NOT NULL,
        data       jsonb       NOT NULL,
        created_at timestamptz NOT NULL DEFAULT now(),
        updated_at timestamptz NOT NULL DEFAULT now()
    );
    CREATE INDEX bench_rows_owner_idx ON bench_rows (owner, id);
    CREATE TRIGGER set_timestamp BEFORE UPDATE ON bench_rows FOR EACH ROW EXECUTE FUNCTION trigger_set_timestamp();
"""
PER_OWNER = 200
#: The methods that many tasks use at once.
AT_ONCE = frozenset({"mixed", "uneven"})
CONNECTIONS = 10


class Row(BaseModel):
    """The record that peers make, where they make one."""

    id: UUID
    owner: UUID
    body: str
    data: dict[str, Any]
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True)
class New:
    """Fields to create a row."""

    owner: UUID
    body: str
    data: dict[str, Any]


@dataclass(frozen=True)
class Slow:
    """A call that takes its time on the server."""

    seconds: float


@dataclass(frozen=True)
class Work:
    """One workload: which method of a contender is called, how often, and on how many rows to begin with.

    The contenders take turns for `rounds`; `size` is how many rows one call handles, by which its time is divided.
    `tasks` work at once; `durable` waits for the disk at each commit; `delay` seconds are added to each way.
    """

    key: str
    title: str
    method: str
    calls: int
    rows: int
    rounds: int
    size: int = 1
    tasks: int = 1
    durable: bool = False
    delay: float = 0.0


def works(*, quick: bool) -> list[Work]:
    """All of them; the quick ones are smaller, not fewer."""
    rows, many = (20_000, 5_000) if quick else (100_000, 10_000)
    short, long = (3, 2) if quick else (11, 5)
    calls = 200 if quick else 500
    return [
        Work("W1", "insert one, returning it", "insert", calls, rows, short),
        Work("W2", "get one by key", "get", calls, rows, short),
        Work("W3", "newest 100 of an owner", "newest", calls // 5, rows, short),
        Work("W4", f"insert {many:,}, returning them", "many", 1, 0, long, many),
        Work("W5", f"stream {rows:,}", "stream", 1, rows, long, rows),
        Work("W6", "32 tasks, 70 % get, 30 % insert", "mixed", calls * 4, rows, short, tasks=32),
        Work("W6b", "200 tasks, the same", "mixed", calls * 8, rows, short, tasks=200),
        Work("W6c", "32 tasks, every commit on disk", "mixed", calls * 2, rows, short, tasks=32, durable=True),
        Work("W6d", "200 tasks, every commit on disk", "mixed", calls * 4, rows, short, tasks=200, durable=True),
        Work("W6e", "32 tasks, one call in 200 takes 20 ms", "uneven", calls * 4, rows, short, tasks=32),
        Work("W7", "one turn: four inserts, atomic", "turn", calls // 2, rows, short),
        Work("W7b", "the same, 10 ms there and back", "turn", 8, rows, 3, delay=0.005),
        Work("W8", "update one column, returning the row", "update", calls, rows, short),
    ]


def document(number: int) -> dict[str, Any]:
    """About 500 bytes of JSON."""
    return {
        "model": "a-model-of-some-kind",
        "usage": {"input_tokens": number % 4096, "output_tokens": 512, "cached": False},
        "tags": ["research", "draft", "reviewed"],
        "score": 0.875,
        "note": "The train leaves at half past eight from platform 4, and the next one an hour later. " * 4,
    }


def new_rows(count: int) -> list[New]:
    owner = uuid4()
    return [New(owner, f"Message {number}", document(number)) for number in range(count)]


class Seeded:
    """The table as a work wants it, and arguments for calls that meet the same rows for every contender."""

    def __init__(self, connection: psycopg.Connection, work: Work) -> None:
        self.connection, self.work = connection, work
        connection.execute("TRUNCATE bench_rows")
        connection.execute(
            """
            INSERT INTO bench_rows (owner, body, data)
            SELECT ('00000000-0000-4000-8000-' || lpad(to_hex(n / %s), 12, '0'))::uuid, 'Message ' || n, %s
              FROM generate_series(0, %s) n
            """,
            (PER_OWNER, Jsonb(document(7)), work.rows - 1),
        )
        connection.execute("VACUUM ANALYZE bench_rows")
        found = connection.execute("SELECT id, owner FROM bench_rows ORDER BY id LIMIT 20000").fetchall()
        self.ids: list[UUID] = [row[0] for row in found]
        self.owners: list[UUID] = sorted({row[1] for row in found})

    def arguments(self, round_: int) -> Sequence[tuple[Any, ...]]:
        """The arguments of each call."""
        if self.work.method == "many":
            self.connection.execute("TRUNCATE bench_rows")
        return list(self._calls(random.Random(round_)))

    def _calls(self, dice: random.Random) -> Iterator[tuple[Any, ...]]:
        new = new_rows(self.work.calls) if self.work.method in {"insert", *AT_ONCE} else []
        turns = new_rows(4 * self.work.calls) if self.work.method == "turn" else []
        for number in range(self.work.calls):
            match self.work.method:
                case "insert":
                    yield (new[number],)
                case "get":
                    yield (dice.choice(self.ids),)
                case "newest":
                    yield (dice.choice(self.owners),)
                case "turn":
                    yield (turns[4 * number : 4 * number + 4],)
                case "many":
                    yield (new_rows(self.work.size),)
                case "update":
                    yield (dice.choice(self.ids), f"changed {number}")
                case "uneven" if number % 200 == 100:
                    yield (Slow(0.02),)
                case "mixed" | "uneven":
                    yield (dice.choice(self.ids) if dice.random() < 0.7 else new[number],)
                case _:
                    yield ()
