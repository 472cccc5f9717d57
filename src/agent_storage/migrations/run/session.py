"""The connection of a command, and the translation of psycopg's errors."""

from __future__ import annotations

import re
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from agent_storage.errors import READ_ONLY
from agent_storage.migrations.errors import CannotConnect, InvalidRequest, MigrationFailure

APPLICATION_NAME = "storage migrate"

#: Parameters at the start of a session, overriding those of role, database and URL. `RESET ALL` restores them.
#: The splitter requires standard_conforming_strings. The time-outs release the locks of a lost client.
_OPTIONS = {
    "standard_conforming_strings": "on",
    "statement_timeout": "0",
    "idle_in_transaction_session_timeout": "60000",
    "client_min_messages": "notice",
}
_CHECK_CLIENT = {"client_connection_check_interval": "500"}
_NETWORK = {"connect_timeout": "10", "keepalives_idle": "10", "keepalives_interval": "5", "keepalives_count": "3"}


@dataclass(frozen=True)
class MigrationSession:
    """A connection in autocommit mode. `pooled`: behind a transaction pooler, which allows no session state."""

    connection: psycopg.Connection
    pooled: bool

    @property
    def database(self) -> str:
        """The name of the database."""
        return self.connection.info.dbname

    def reset(self) -> None:
        """Reset the parameters that a migration SET for the session."""
        if not self.pooled:
            self.connection.execute("RESET SESSION AUTHORIZATION; RESET ROLE; RESET ALL")


@contextmanager
def open_session(
    conninfo: str, *, lock_timeout_ms: int | None = None, application_name: str = APPLICATION_NAME
) -> Generator[MigrationSession]:
    """Connect, detect a transaction pooler, and close the connection at the end."""
    connection = _connect(conninfo, lock_timeout_ms, application_name)
    try:
        with explained():
            row = connection.execute("SELECT pg_backend_pid()").fetchone()
        yield MigrationSession(connection, pooled=row is not None and row[0] != connection.info.backend_pid)
    finally:
        connection.close()


def _connect(conninfo: str, lock_timeout_ms: int | None, application_name: str) -> psycopg.Connection:
    """Connect with as many of the startup parameters as server and pooler accept."""
    options = {**_OPTIONS, **({} if lock_timeout_ms is None else {"lock_timeout": str(lock_timeout_ms)})}
    for attempt in ({**options, **_CHECK_CLIENT}, options, {}):
        try:
            return psycopg.connect(
                _with_options(conninfo, attempt, application_name), autocommit=True, prepare_threshold=None
            )
        except psycopg.OperationalError as error:
            refused = "client_connection_check_interval", "unsupported startup parameter"
            if not attempt or not any(word in str(error) for word in refused):
                raise unreachable(error) from error
    raise AssertionError("the last attempt returns or raises")


def _with_options(conninfo: str, options: dict[str, str], application_name: str) -> str:
    try:
        given = conninfo_to_dict(conninfo)
    except psycopg.ProgrammingError:
        # libpq quotes the invalid part, which can be the password.
        hint = "write postgresql://user@host:5432/database, with special characters percent-encoded"
        raise InvalidRequest("the database URL is not a valid connection string", hint=hint) from None
    ours = {**{name: value for name, value in _NETWORK.items() if name not in given}, "client_encoding": "utf8"}
    texts = [str(given.get("options") or ""), *(f"-c {name}={value}" for name, value in options.items())]
    if options:
        ours["options"] = " ".join(text for text in texts if text)
    else:
        given.pop("options", None)
    return make_conninfo("", **{**given, "application_name": application_name, **ours})


def unreachable(error: psycopg.OperationalError) -> CannotConnect:
    """Return the error for a connection that failed or was lost."""
    text = error.diag.message_primary or _reason(str(error))
    return CannotConnect(
        f"PostgreSQL cannot be reached: {text}" if error.sqlstate is None else f"the connection was lost: {text}",
        hint="check the URL, and that the server is up; then `storage migrate status` shows the state of the database",
        sqlstate=error.sqlstate,
    )


def _reason(text: str) -> str:
    """Return libpq's message, or its messages if it tried several addresses, without its trailing question."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    tried = [line.removeprefix("- ") for line in lines if line.startswith("- ")] or lines[:1]
    # psycopg's prefix to libpq's message repeats what the error says.
    return "; ".join(re.sub(r"^connection (failed|is bad): ", "", line) for line in tried) or "the connection was lost"


def explain(error: psycopg.Error) -> MigrationFailure:
    """Return the `MigrationFailure` for a psycopg error outside the statements of a migration."""
    text = error.diag.message_primary or str(error)
    if isinstance(error, psycopg.errors.InsufficientPrivilege):
        return CannotConnect(
            text, hint="grant the role the privilege, or set STORAGE_MIGRATE_URL to the owner", sqlstate="42501"
        )
    if is_lost(error):
        return unreachable(error) if isinstance(error, psycopg.OperationalError) else CannotConnect(text)
    if isinstance(error, psycopg.errors.ReadOnlySqlTransaction):
        return CannotConnect(text, hint="this server is read-only (a standby?); use the primary", sqlstate=READ_ONLY)
    return MigrationFailure(f"{error.sqlstate or 'error'} {text}", sqlstate=error.sqlstate)


def is_lost(error: psycopg.Error) -> bool:
    """Return whether the error means that the connection is lost or the server is unavailable."""
    state = error.sqlstate
    if state is None:
        return isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
    return state[:2] in {"08", "28", "3D", "53"} or state in {"57P01", "57P02", "57P03", "57P05", "25P03"}


@contextmanager
def explained() -> Generator[None]:
    """Translate psycopg errors of the block into `MigrationFailure`."""
    try:
        yield
    except psycopg.Error as error:
        raise explain(error) from error
