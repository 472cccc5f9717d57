"""A part of the demo data: what one team has, made from random numbers that its seed and its own number decide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from random import Random
from typing import Any, TypeVar
from uuid import UUID

from agent_storage.demo import words
from agent_storage.statements.records import Input

T = TypeVar("T")

#: How far the data reaches back.
SPAN = timedelta(days=14)


def label(name: str, seed: int) -> str:
    """Return a unique name that says where it comes from."""
    return f"{name} (demo {seed})"


@dataclass
class Known:
    """The rows that all teams share: models with their prices per million tokens, and tools by name."""

    models: list[tuple[UUID, str, int, int]] = field(default_factory=list[tuple[UUID, str, int, int]])
    tools: dict[str, UUID] = field(default_factory=dict[str, UUID])


@dataclass
class Row:
    """The `New…` record of a row, and the columns that it does not have."""

    new: Input
    extra: dict[str, Any]


class Unit:
    """One team's rows by table, on the way to the database."""

    def __init__(self, seed: int, number: int, until: datetime, known: Known) -> None:
        self.seed, self.number, self.until, self.known = seed, number, until, known
        self.random = Random(f"agent-storage {seed} {number}")  # noqa: S311  # demo data, no secret
        self.rows: dict[str, list[Row]] = {}
        self.projects: list[UUID] = []
        team = words.TEAMS[number % len(words.TEAMS)]
        turn = number // len(words.TEAMS)
        self.team = f"{team} {turn + 1}" if turn else team
        self.slug = f"{self.team.lower().replace(' ', '-')}-demo-{seed}"
        self.people = self.random.sample(words.PEOPLE, 5)
        self.services = self.random.sample(words.SERVICES, 2)

    def id(self, at: datetime) -> UUID:
        """Return a UUIDv7 of that moment."""
        milliseconds = int(at.timestamp() * 1000)
        high, low = self.random.getrandbits(12), self.random.getrandbits(62)
        return UUID(int=(milliseconds << 80) | (0x7 << 76) | (high << 64) | (0b10 << 62) | low)

    def moment(self, least: timedelta = timedelta(hours=2)) -> datetime:
        """Return a random moment of the past days, at least that long before the end of the data."""
        seconds = self.random.uniform(least.total_seconds(), SPAN.total_seconds())
        return self.until - timedelta(milliseconds=int(seconds * 1000))

    def later(self, at: datetime, least: float, most: float) -> datetime:
        """Return a moment some seconds after `at`."""
        return at + timedelta(milliseconds=int(self.random.uniform(least, most) * 1000))

    def pick(self, items: Sequence[T]) -> T:
        """Return one of the items."""
        return self.random.choice(items)

    def phrase(self, text: str) -> str:
        """Return a text of `words` with its slots filled: {service}, {person}, {n}."""
        return text.format(
            service=self.pick(self.services), person=self.pick(self.people), n=self.random.randint(2, 90)
        )

    def add(
        self,
        table: str,
        make: type[Input],
        at: datetime,
        *,
        id: UUID | None = None,
        extra: dict[str, Any] | None = None,
        **fields: Any,
    ) -> UUID:
        """Add a row that was made at that moment. Return its id."""
        row_id = id or self.id(at)
        times = {"created_at": at, "updated_at": at}
        self.rows.setdefault(table, []).append(Row(make(id=row_id, **fields), times | (extra or {})))
        return row_id
