"""Every error that leaves the package, and the table that makes one from a PostgreSQL SQLSTATE.

No driver exception crosses the package's border: callers catch `StorageError` or one of its family, and the psycopg
error stays chained as `__cause__`. Messages name table, field and constraint and end with what to do next; they never
carry `message_detail` (PostgreSQL prints whole rows there) nor a value that was sent.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal
from uuid import UUID

if TYPE_CHECKING:
    from collections.abc import Sequence
    from decimal import Decimal

    import psycopg


class StorageError(Exception):
    """The root of the family.

    Attributes that are known are set, the others are `None`: `table`, `column`, `constraint`, `sqlstate`, and
    `statement`, the name of the declared statement (`messages.latest`). `outcome` says what became of the changes of
    the call that raised it; inside a transaction, the transaction's end decides.
    """

    outcome: Literal["not kept", "kept", "unknown"] = "not kept"

    def __init__(
        self,
        message: str,
        *,
        table: str | None = None,
        column: str | None = None,
        constraint: str | None = None,
        sqlstate: str | None = None,
        statement: str | None = None,
    ) -> None:
        super().__init__(message)
        self.table = table
        self.column = column
        self.constraint = constraint
        self.sqlstate = sqlstate
        self.statement = statement


class InvalidSettings(StorageError):
    """A setting (URL, environment variable, keyword) cannot be used; the message says which and why."""


class SchemaNotCarried(InvalidSettings):
    """The search_path of a pooler's connections does not begin with the `schema`; the message has the SQL for that."""


class NotFound(StorageError):
    """The requested row does not exist. `id` is its id, where the row was requested by one."""

    id: UUID | None = None


class AmbiguousId(StorageError):
    """A short id fits several rows; `candidates` holds up to ten of them."""

    def __init__(self, message: str, *, candidates: Sequence[UUID], table: str | None = None) -> None:
        super().__init__(message, table=table)
        self.candidates = list(candidates)


class InvalidValue(StorageError, ValueError):
    """A value that the table cannot hold: wrong type, unknown choice, too large, not representable.

    `column` names the field and, for a JSON document, `path` the place inside it (`$.parts[2].text`).
    """

    path: str | None = None


class Conflict(StorageError):
    """The change contradicts the stored rows. Raised as such where a rule of the table is violated (a cycle, say)."""


class AlreadyExists(Conflict):
    """A row with the same unique key already exists; for an id that is given again, it differs from what was given."""


class InvalidTransition(Conflict):
    """The present state of the row does not allow the change: it was already made, or the row has reached its end."""


class BudgetExceeded(Conflict):
    """A budget pool has too little left: `pool_id` names it, `remaining` is the amount. Nothing was charged."""

    def __init__(self, message: str, *, pool_id: UUID, remaining: Decimal, table: str | None = None) -> None:
        super().__init__(message, table=table)
        self.pool_id = pool_id
        self.remaining = remaining


class MissingReference(NotFound):
    """A foreign key points to a row that does not exist."""


class StillReferenced(StorageError):
    """The row cannot go because other rows refer to it."""


class PoolUsedInTransaction(StorageError):
    """A repository of the pool was used inside a `transaction()` block instead of the repository of the block."""


class PermissionDenied(StorageError):
    """The database role lacks a privilege."""


class SecretUnavailable(StorageError):
    """A secret cannot be stored or read: no key, an unknown key, or a ciphertext that does not belong to its row."""


class SchemaMismatch(StorageError):
    """The database's schema is not the one that this code was written for; usually a migration is pending."""


class Unreadable(SchemaMismatch):
    """A row came back that this code cannot read: its columns or its values do not fit the record."""

    def say_kept(self) -> None:
        """Record that the statement that returned the row has been committed."""
        self.outcome = "kept"
        self.args = (f"{self.args[0]}; what the statement wrote was kept",)


class StatementTimeout(StorageError, TimeoutError):
    """The statement ran longer than `statement_timeout` and was cancelled by the server."""


class WaitTimeout(StorageError, TimeoutError):
    """The awaited change did not happen within the timeout. Nothing was changed."""


class Retryable(StorageError):
    """Serialization failure, deadlock or lock timeout: the whole transaction may be run again."""


class Unavailable(StorageError):
    """The database cannot be reached or cannot serve now."""


class PoolTimeout(Unavailable, TimeoutError):
    """No connection of the pool became free in time."""


class ConnectionLost(Unavailable):
    """The connection broke while it was in use; nothing that the statement did was kept."""


class OutcomeUnknown(ConnectionLost):
    """The connection broke after a write was sent: it may or may not have been committed.

    A call with an id or key that the caller gave can be repeated: it returns the row that is there. Otherwise read back
    first.
    """

    outcome = "unknown"


class MigrationError(StorageError):
    """A migration command could not do what was asked; subclasses carry the exit code of `storage migrate`."""

    exit_code = 1


#: The SQLSTATEs of the package's functions: a change violates a rule of the table; a row exists with other values.
_RULE, _DIFFERS = "AS001", "AS002"

# Exact codes first, then classes. Only the error's kind is here; the messages are below.
_BY_SQLSTATE: dict[str, type[StorageError]] = {
    "23505": AlreadyExists,
    "23P01": AlreadyExists,
    "23001": StillReferenced,
    "40001": Retryable,
    "40P01": Retryable,
    "55P03": Retryable,
    "57014": StatementTimeout,
    "42501": PermissionDenied,
    "42P01": SchemaMismatch,
    "42703": SchemaMismatch,
    "42883": SchemaMismatch,
    "3F000": SchemaMismatch,
    "25006": Unavailable,
    _RULE: Conflict,
    _DIFFERS: AlreadyExists,
}
_BY_CLASS: dict[str, type[StorageError]] = {
    "22": InvalidValue,
    "23": InvalidValue,
    "28": Unavailable,
    "3D": Unavailable,
    "53": Unavailable,
    "54": InvalidValue,  # a limit of PostgreSQL: an index entry, a document, a text of 1 GB
    "57": ConnectionLost,
}


def translate(
    error: psycopg.Error,
    *,
    statement: str | None = None,
    table: str | None = None,
    writes: bool = False,
    committing: bool = False,
) -> StorageError:
    """Return the package's error for a psycopg error.

    `statement` and `table` name what was run. `writes` says that the statement commits by itself, so that a lost
    connection leaves the outcome unknown. `committing` says that it was COMMIT, where a session that the server ends
    does so too. Raise the result `from` the psycopg error.
    """
    state = error.sqlstate
    diag = error.diag
    kind = _kind(error, writes=writes or committing, committing=committing)
    where = diag.table_name or table
    column = diag.column_name
    return kind(
        _sentence(kind, error, where=where, table=table, statement=statement),
        table=where,
        column=column,
        constraint=diag.constraint_name,
        sqlstate=state,
        statement=statement,
    )


def _kind(error: psycopg.Error, *, writes: bool, committing: bool) -> type[StorageError]:
    state = error.sqlstate
    if state is None:
        # libpq reports a dead socket without a code.
        import psycopg

        if isinstance(error, psycopg.OperationalError):
            return OutcomeUnknown if writes else ConnectionLost
        return InvalidValue if isinstance(error, psycopg.DataError) else StorageError
    if state.startswith("08"):  # a pooler's own: it may have lost the server after that had committed
        return OutcomeUnknown if writes else ConnectionLost
    if error.diag.severity_nonlocalized in ("FATAL", "PANIC"):  # the server has ended the session, the statement undone
        return OutcomeUnknown if committing else ConnectionLost
    if state == "23503":
        # PostgreSQL has one code for both directions; its (English) message tells them apart.
        primary = error.diag.message_primary or ""
        return StillReferenced if primary.startswith("update or delete") else MissingReference
    if state == _RULE and (error.diag.constraint_name or "").endswith("_transition"):
        return InvalidTransition
    return _BY_SQLSTATE.get(state) or _BY_CLASS.get(state[:2], StorageError)


_KEY = re.compile(r"^Key \(([^=]*)\)=")


def _sentence(
    kind: type[StorageError], error: psycopg.Error, *, where: str | None, table: str | None, statement: str | None
) -> str:
    diag = error.diag
    constraint = diag.constraint_name
    subject = where or "the database"
    at = f" (statement {statement})" if statement else ""
    if error.sqlstate == _RULE:
        return f"{subject}: {diag.message_primary} (constraint {constraint}); {diag.message_hint}{at}"
    if error.sqlstate == _DIFFERS:
        return f"{subject}: {diag.message_primary}; {diag.message_hint}{at}"
    if kind is AlreadyExists:
        key = _KEY.match(diag.message_detail or "")
        fields = f" with the same {key[1]}" if key else ""
        return f"{subject} already has a row{fields} (constraint {constraint}); change the value or update that row{at}"
    if kind is MissingReference:
        key = _KEY.match(diag.message_detail or "")
        fields = f".{key[1]}" if key else ""
        return f"{subject}{fields} refers to a row that does not exist (constraint {constraint}); create it first{at}"
    if kind is StillReferenced:
        return (
            f"the row in {table or 'its table'} is still referred to by {subject} (constraint {constraint}); "
            f"remove or detach those rows first{at}"
        )
    if kind is InvalidValue and diag.column_name:
        return f"{subject}.{diag.column_name} must have a value{at}"
    if kind is InvalidValue and constraint:
        return f"{subject} refuses the value: it breaks the rule {constraint}{at}"
    if kind is InvalidValue and error.sqlstate is None:  # psycopg's own, of a value on its way out or in
        return (
            f"{subject} was given or holds a value that Python and PostgreSQL cannot both express, such as a moment "
            f"beyond the year 9999{at}"
        )
    if kind is InvalidValue:
        return f"{subject} cannot hold a value that was given [SQLSTATE {error.sqlstate}]{at}"
    if kind is SchemaMismatch:
        return (
            f"{diag.message_primary or 'the schema differs from what this code expects'}{at}; "
            "run `storage migrate status`, then `storage migrate up`"
        )
    if kind is StatementTimeout:
        return f"cancelled by the server{at}: it ran longer than statement_timeout or was cancelled by another session"
    if kind is OutcomeUnknown:
        return (
            f"the connection broke after a write was sent{at}: it may or may not have been committed; "
            "with an id of yours, repeat the call; otherwise read back first"
        )
    if kind is ConnectionLost:
        return f"the connection to PostgreSQL broke{at}; try again"
    if kind is Retryable:
        return f"{diag.message_primary or 'the transaction was chosen as a victim'}{at}; run the transaction again"
    if kind is PermissionDenied:
        return f"{diag.message_primary or 'permission denied'}{at}; grant the privilege or use another role"
    primary = diag.message_primary or type(error).__name__
    return f"{primary} [SQLSTATE {error.sqlstate or 'none'}]{at}"
