"""What can go wrong in a migration command. Each kind carries the exit code that `storage migrate` ends with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from agent_storage.errors import MigrationError

__all__ = [
    "BadMigrationFile",
    "CannotConnect",
    "DriftFound",
    "HistoryProblem",
    "Interrupted",
    "InvalidRequest",
    "LintFailed",
    "LockNotObtained",
    "MigrationError",
    "NotReversible",
    "Pending",
    "StatementFailed",
]


class MigrationFailure(MigrationError):
    """Base of the family: a sentence, the lines that explain it, and a hint that says what to do next."""

    exit_code = 1

    def __init__(
        self, message: str, *, hint: str | None = None, lines: Sequence[str] = (), sqlstate: str | None = None
    ) -> None:
        super().__init__(message, sqlstate=sqlstate)
        self.message = message
        self.hint = hint
        self.lines = list(lines)

    def as_json(self) -> dict[str, Any]:
        """The error as `--json` prints it."""
        return {
            "kind": type(self).__name__,
            "exit_code": self.exit_code,
            "message": self.message,
            "details": self.lines,
            "hint": self.hint,
            "sqlstate": self.sqlstate,
        }


class StatementFailed(MigrationFailure):
    """PostgreSQL refused a statement of a migration; the message is `file:line:column SQLSTATE text`."""


class InvalidRequest(MigrationFailure):
    """The request makes no sense: unknown id, wrong or empty folder, an option that cannot be used here."""

    exit_code = 2


class BadMigrationFile(InvalidRequest):
    """A file of the folder cannot be a migration: its name, its dependencies."""


class NotReversible(InvalidRequest):
    """The migration says of itself that it cannot be rolled back."""


class Pending(MigrationFailure):
    """Migrations are waiting to be applied, and the caller asked for none."""

    exit_code = 3


class DriftFound(MigrationFailure):
    """The database, the migrations and the declared schema do not agree."""

    exit_code = 4


class HistoryProblem(MigrationFailure):
    """What the database has applied and what the folder holds contradict each other."""

    exit_code = 5


class LockNotObtained(MigrationFailure):
    """Another migrator, or another session's lock on a table, did not go away in time."""

    exit_code = 6


class LintFailed(MigrationFailure):
    """A file breaks a rule that makes it unsafe to run."""

    exit_code = 7


class CannotConnect(MigrationFailure):
    """The database cannot be reached, went away, or the role lacks a privilege."""

    exit_code = 8


class Interrupted(MigrationFailure):
    """A signal ended the run; what was under way has been rolled back."""

    exit_code = 130
