"""The errors of the migration commands. Each has the exit code with which `storage migrate` ends."""

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
    "NameTaken",
    "NotReversible",
    "Pending",
    "StatementFailed",
]


class MigrationFailure(MigrationError):
    """Base class: a message, lines of detail, and a hint that gives the next step."""

    exit_code = 1

    def __init__(
        self, message: str, *, hint: str | None = None, lines: Sequence[str] = (), sqlstate: str | None = None
    ) -> None:
        super().__init__(message, sqlstate=sqlstate)
        self.message = message
        self.hint = hint
        self.lines = list(lines)

    def as_json(self) -> dict[str, Any]:
        """Return the error as `--json` prints it."""
        return {
            "kind": type(self).__name__,
            "exit_code": self.exit_code,
            "message": self.message,
            "details": self.lines,
            "hint": self.hint,
            "sqlstate": self.sqlstate,
        }


class StatementFailed(MigrationFailure):
    """PostgreSQL rejected a statement of a migration. The message is `file:line:column SQLSTATE text`."""


class InvalidRequest(MigrationFailure):
    """The request is invalid: an unknown id, a wrong or empty folder, an option that cannot be used here."""

    exit_code = 2


class BadMigrationFile(InvalidRequest):
    """A file of the folder is not a valid migration, because of its name or its dependencies."""


class NotReversible(InvalidRequest):
    """The migration is declared irreversible."""


class NameTaken(MigrationFailure):
    """A pending migration creates an object whose name exists, and no migration made that. Nothing was applied."""


class Pending(MigrationFailure):
    """Migrations are pending, and the caller required that none is."""

    exit_code = 3


class DriftFound(MigrationFailure):
    """The database, the migrations and the declared schema do not agree."""

    exit_code = 4


class HistoryProblem(MigrationFailure):
    """The applied migrations of the database and the files of the folder contradict each other."""

    exit_code = 5


class LockNotObtained(MigrationFailure):
    """The migration lock, or a lock on a table, was not released in time."""

    exit_code = 6


class LintFailed(MigrationFailure):
    """A file violates a lint rule and is unsafe to run."""

    exit_code = 7


class CannotConnect(MigrationFailure):
    """The database cannot be reached, the connection was lost, or the role lacks a privilege."""

    exit_code = 8


class Interrupted(MigrationFailure):
    """A signal ended the run. The statement that was running has been rolled back."""

    exit_code = 130
