"""The results of the migration manager: frozen dataclasses that `--json` can print."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Literal

from agent_storage.sources import SHIPPED

Direction = Literal["up", "down"]
#: A migration of a source that is not configured here is "not configured", in whatever state it is.
State = Literal["applied", "pending", "running", "failed", "missing", "not configured"]
ProblemKind = Literal["edited", "missing", "renamed", "out-of-order", "running", "failed"]

#: One side of a comparison of `diff`.
Side = Literal["schema", "migrations", "applied", "db"]


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
    source: str = SHIPPED


@dataclass(frozen=True, slots=True)
class RunResult:
    """The migrations that `up`, `down`, `redo` or `sync` ran, in order, and those that are still `pending`.

    A pending migration is given as `ID` if it is of the own source, else as `SOURCE:ID`.
    """

    done: list[Done]
    pending: list[str]

    @property
    def changed(self) -> bool:
        """Return whether any migration was applied or rolled back."""
        return bool(self.done)


@dataclass(frozen=True, slots=True)
class Problem:
    """A contradiction between the database's history and the folder of a source."""

    id: str
    kind: ProblemKind
    message: str
    hint: str
    source: str = SHIPPED


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
    source: str = SHIPPED


@dataclass(frozen=True, slots=True)
class Status:
    """The state of the database compared with the folders of the sources, of which `own` is the last.

    `applied` and `pending` give a migration as `ID` if it is of the own source, else as `SOURCE:ID`.
    """

    database: str
    sources: dict[str, str]
    own: str
    migrations: list[MigrationStatus]
    applied: list[str]
    #: In the order in which they would run.
    pending: list[str]
    problems: list[Problem] = field(default_factory=list[Problem])

    @property
    def at_head(self) -> bool:
        """Return whether nothing is pending and there is no problem."""
        return not self.pending and not self.problems


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """One entry of yoyo's log. `source` is None for an entry of stock yoyo or of an older release."""

    at: datetime
    operation: str
    id: str
    user: str | None
    host: str | None
    source: str | None
