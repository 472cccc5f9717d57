"""The results of the migration manager: frozen dataclasses that `--json` can print."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Literal

Direction = Literal["up", "down"]
State = Literal["applied", "pending", "running", "failed", "missing"]
ProblemKind = Literal["edited", "missing", "renamed", "out-of-order", "running", "failed"]

Source = Literal["schema", "migrations", "applied", "db"]


class CheckName(StrEnum):
    """The checks of `Migrator.check`, in the order in which they run."""

    LINT = "lint"
    HISTORY = "history"
    TEST = "test"
    SCHEMA = "schema"
    DRIFT = "drift"


@dataclass(frozen=True, slots=True)
class Event:
    """An event while a command runs. `message` is the line that the terminal shows.

    `kind` is one of: waiting, blocked, retry, start, statement, progress, notice, done, skipped, note.
    """

    kind: str
    message: str
    migration: str | None = None
    statement: int | None = None
    total: int | None = None


@dataclass(frozen=True, slots=True)
class Done:
    """A migration that this run applied or rolled back."""

    id: str
    direction: Direction
    statements: int
    duration_ms: int
    attempts: int = 1


@dataclass(frozen=True, slots=True)
class RunResult:
    """The migrations that `up`, `down`, `redo` or `sync` ran, in order, and the ids that are still `pending`."""

    done: list[Done]
    pending: list[str]

    @property
    def changed(self) -> bool:
        """Return whether any migration was applied or rolled back."""
        return bool(self.done)


@dataclass(frozen=True, slots=True)
class Problem:
    """A contradiction between the database's history and the folder."""

    id: str
    kind: ProblemKind
    message: str
    hint: str


@dataclass(frozen=True, slots=True)
class MigrationStatus:
    """One line of `status`."""

    id: str
    state: State
    applied_at: datetime | None = None
    applied_by: str | None = None
    duration_ms: int | None = None
    reversible: bool = True
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Status:
    """The state of the database compared with the folder."""

    database: str
    folder: str
    migrations: list[MigrationStatus]
    problems: list[Problem] = field(default_factory=list[Problem])

    @property
    def applied(self) -> list[str]:
        """Ids that are applied."""
        return [migration.id for migration in self.migrations if migration.state in {"applied", "missing"}]

    @property
    def pending(self) -> list[str]:
        """Pending ids, in the order in which they would run."""
        return [migration.id for migration in self.migrations if migration.state == "pending"]

    @property
    def at_head(self) -> bool:
        """Return whether nothing is pending and there is no problem."""
        return not self.pending and not self.problems


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """One entry of yoyo's log."""

    at: datetime
    operation: str
    id: str
    user: str | None
    host: str | None
    comment: str | None
