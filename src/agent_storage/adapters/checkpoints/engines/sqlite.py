"""SQLite: one file, by the driver of the standard library, in WAL mode."""

from __future__ import annotations

import re
import sqlite3
import threading
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, get_args

from agent_storage.adapters.checkpoints.engines.engine import Connections, Engine, Rows, Run, Seconds
from agent_storage.errors import (
    AlreadyExists,
    InvalidSettings,
    InvalidValue,
    MissingReference,
    Retryable,
    SchemaMismatch,
    StorageError,
    Unavailable,
)

#: The release that has STRICT tables.
_OLDEST = (3, 37, 0)
Synchronous = Literal["full", "normal"]


class Sqlite(Engine[sqlite3.Connection]):
    """An SQLite file. Readers see a snapshot and do not wait; writers take turns.

    Writers of this process wait for each other in a lock, since SQLite's own wait is a sleep that grows to 100 ms.
    """

    name = "sqlite"
    clock = "clock_us()"
    for_update = ""
    patterns = {"like": "matches({column}, {value}, 0)", "ilike": "matches({column}, {value}, 1)"}

    def __init__(
        self,
        path: str | Path,
        *,
        busy_timeout: Seconds = 10.0,
        synchronous: Synchronous = "full",
        pool_max: Connections = 4,
        pool_timeout: Seconds = 10.0,
    ) -> None:
        if sqlite3.sqlite_version_info < _OLDEST:
            raise InvalidSettings(f"SQLite 3.37 or newer is needed; Python was built with {sqlite3.sqlite_version}")
        if str(path) in ("", ":memory:") or str(path).startswith("file:"):
            raise InvalidSettings("path must name a file: a database in memory would differ in each connection")
        if synchronous not in get_args(Synchronous):
            raise InvalidSettings(f"synchronous must be one of {', '.join(get_args(Synchronous))}")
        super().__init__(str(path), pool_max=pool_max, pool_timeout=pool_timeout)
        self.path = Path(path)
        self._busy_timeout = busy_timeout
        self._synchronous = synchronous
        self._writing = threading.Lock()

    def connect(self) -> sqlite3.Connection:
        """Return a new connection. The file is created if it does not exist; its folder has to exist."""
        connection = sqlite3.connect(
            self.path, timeout=self._busy_timeout, isolation_level=None, check_same_thread=False
        )
        try:
            self._set_wal(connection)
            connection.execute(f"PRAGMA synchronous = {self._synchronous}")
            connection.execute("PRAGMA foreign_keys = on")
            connection.create_function("clock_us", 0, lambda: time.time_ns() // 1000)
            connection.create_function("matches", 3, _matches, deterministic=True)
        except BaseException:
            connection.close()
            raise
        return connection

    def _set_wal(self, connection: sqlite3.Connection) -> None:
        """Change the file to WAL mode, for which SQLite itself does not wait for other connections."""
        until = time.monotonic() + self._busy_timeout
        while True:
            try:
                (mode,) = connection.execute("PRAGMA journal_mode = wal").fetchone()
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                    raise
                time.sleep(0.01)
                continue
            if mode != "wal":
                raise Unavailable(f"{self.address}: the file system does not support SQLite's WAL mode")
            return

    def execute(self, connection: sqlite3.Connection, text: str, values: Sequence[Any]) -> Rows:
        """Run a statement. Return its rows."""
        return connection.execute(text, values).fetchall()

    def disconnect(self, connection: sqlite3.Connection) -> None:
        """Close the connection."""
        with suppress(sqlite3.Error):
            connection.close()

    def broken(self, connection: sqlite3.Connection) -> bool:
        """Return False: there is no server that could end the session."""
        return False

    def begin(self, connection: sqlite3.Connection) -> None:
        """Begin a transaction, with the lock of writers from the start: a reader could not become one later."""
        connection.execute("BEGIN IMMEDIATE")

    def rollback(self, connection: sqlite3.Connection) -> None:
        """Roll back the transaction. SQLite may have done so."""
        with suppress(sqlite3.Error):
            connection.rollback()

    @contextmanager
    def transaction(self, connection: sqlite3.Connection) -> Generator[Run]:
        """Yield `Run` in a transaction, when no other of this process writes."""
        if not self._writing.acquire(timeout=self._busy_timeout):
            raise Retryable(f"{self.address}: other writers held the lock for {self._busy_timeout:g} s; try again")
        try:
            with super().transaction(connection) as run:
                yield run
        finally:
            self._writing.release()

    @contextmanager
    def exclusive(self) -> Generator[Run]:
        """Yield `Run` in one transaction, which includes the changes of the schema."""
        with self.connection(writes=True) as connection, self.transaction(connection) as run:
            yield run

    def already(self, error: Exception) -> bool:
        """Return False: a migration is a transaction, of which a crash leaves nothing."""
        return False

    def translated(self, error: Exception, *, writes: bool) -> StorageError | None:
        """Return the package's error."""
        if not isinstance(error, sqlite3.Error):
            return None
        code, text = getattr(error, "sqlite_errorcode", 0), str(error)
        match code:
            case sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY:
                kind, text = AlreadyExists, "a row with the same id exists; choose another id"
            case sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY:
                kind, text = MissingReference, "parent_id refers to a row that does not exist; create it first"
            case _:
                kind = _BY_CODE.get(code & 0xFF, StorageError)
        if "no such table" in text or "no such column" in text:
            kind, text = SchemaMismatch, f"{text}; call initialize() to apply the pending migrations"
        if kind in (Retryable, Unavailable):
            return kind(f"{self.address}: {text}")
        return kind(f"checkpoints: {text}", table="checkpoints")


_BY_CODE: dict[int, type[StorageError]] = {
    sqlite3.SQLITE_BUSY: Retryable,
    sqlite3.SQLITE_LOCKED: Retryable,
    sqlite3.SQLITE_CONSTRAINT: InvalidValue,
    sqlite3.SQLITE_TOOBIG: InvalidValue,
    **dict.fromkeys(
        (
            sqlite3.SQLITE_CANTOPEN,
            sqlite3.SQLITE_CORRUPT,
            sqlite3.SQLITE_FULL,
            sqlite3.SQLITE_IOERR,
            sqlite3.SQLITE_NOTADB,
            sqlite3.SQLITE_PERM,
            sqlite3.SQLITE_READONLY,
        ),
        Unavailable,
    ),
}


def _matches(text: str | None, pattern: str, insensitive: int) -> bool | None:
    return None if text is None else _pattern(pattern, bool(insensitive)).fullmatch(text) is not None


@lru_cache(100)
def _pattern(pattern: str, insensitive: bool) -> re.Pattern[str]:
    """The pattern of LIKE, which distinguishes upper and lower case as in PostgreSQL."""
    parts = re.findall(r"\\.|.", pattern, re.DOTALL)
    meant = {"%": ".*", "_": "."}
    text = "".join(meant.get(part) or re.escape(part[-1]) for part in parts)
    return re.compile(text, re.DOTALL | (re.IGNORECASE if insensitive else 0))
