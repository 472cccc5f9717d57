"""The migration lock: a PostgreSQL advisory lock on the connection that runs the migrations.

It ends with the connection, so a killed migrator leaves no stale lock. It is polled with `pg_try_advisory_lock`,
because a session that waits in `pg_advisory_lock` holds a snapshot, for which CREATE INDEX CONCURRENTLY waits, which is
a deadlock.
"""

# ruff: noqa: S608  (the pieces of these queries are constants)

from __future__ import annotations

import random
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime

import psycopg
from psycopg.rows import class_row, scalar_row

from agent_storage.migrations.errors import LockNotObtained
from agent_storage.search_path import OF_SESSION

#: The key of the lock of the schema `public`. Each schema has a lock, so that migrators of two schemas do not wait.
KEY = 0x53544F52_4D494752

#: The key of the schema of the session. `up` may not have created it yet.
_KEY = f"""(SELECT CASE schema WHEN 'public' THEN {KEY}
                        ELSE ({KEY >> 32}::bigint << 32) | (hashtext(schema)::bigint & 4294967295) END
            FROM (SELECT coalesce({OF_SESSION}, 'public') AS schema) AS of_session)"""

_HOLDER = f"""
SELECT a.pid, a.application_name AS application, a.usename AS role, a.client_addr::text AS client, a.state,
       left(a.query, 200) AS query, coalesce(a.xact_start, a.query_start, a.backend_start) AS since
  FROM pg_catalog.pg_locks l
  JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
 WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
   AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())
   AND l.classid::bigint = {_KEY} >> 32 AND l.objid::bigint = {_KEY} & 4294967295
"""
_BLOCKERS = """
SELECT a.pid, a.application_name AS application, a.usename AS role, a.client_addr::text AS client, a.state,
       left(a.query, 200) AS query, coalesce(a.xact_start, a.query_start, a.backend_start) AS since
  FROM unnest(pg_catalog.pg_blocking_pids(%s)) AS blocker (pid)
  JOIN pg_catalog.pg_stat_activity a ON a.pid = blocker.pid
"""


@dataclass(frozen=True, slots=True)
class Holder:
    """A session that holds a lock for which another waits."""

    pid: int
    application: str | None
    role: str | None
    client: str | None
    state: str | None
    query: str | None
    since: datetime | None

    def __str__(self) -> str:
        name = f" ({self.application})" if self.application else ""
        role = f" as {self.role}" if self.role else ""
        client = f" from {self.client}" if self.client else ""
        since = f", since {self.since:%Y-%m-%d %H:%M:%S %Z}" if self.since else ""
        query = f": {' '.join(self.query.split())}" if self.query else ""
        return f"pid {self.pid}{name}{role}{client}, {self.state or 'state hidden'}{since}{query}"


def holders(connection: psycopg.Connection) -> list[Holder]:
    """Return the sessions that hold the migration lock."""
    with connection.cursor(row_factory=class_row(Holder)) as cursor:
        return cursor.execute(_HOLDER.encode()).fetchall()


def blockers(connection: psycopg.Connection, pid: int) -> list[Holder]:
    """Return the sessions that hold the lock for which the backend `pid` waits."""
    with connection.cursor(row_factory=class_row(Holder)) as cursor:
        return cursor.execute(_BLOCKERS, (pid,)).fetchall()


def pauses(limit: float) -> Iterator[float]:
    """Yield pauses between two tries, 250 ms to 2 s with jitter, until `limit` seconds have passed."""
    end, pause = time.monotonic() + limit, 0.25
    while (left := end - time.monotonic()) > 0:
        yield min(left, pause * random.uniform(0.75, 1.25))  # noqa: S311
        pause = min(2.0, pause * 1.5)


def try_lock(connection: psycopg.Connection, *, transaction: bool = False) -> bool:
    """Take the lock if it is free, for the session or the current transaction. Return whether it was free."""
    function = "pg_try_advisory_xact_lock" if transaction else "pg_try_advisory_lock"
    with connection.cursor(row_factory=scalar_row) as cursor:
        return bool(cursor.execute(f"SELECT {function}({_KEY})".encode()).fetchone())


@contextmanager
def migration_lock(
    connection: psycopg.Connection,
    *,
    wait: float,
    waiting: Callable[[list[Holder]], None],
    needless: Callable[[], bool],
) -> Generator[bool]:
    """Hold the lock inside the block. Yield False, without the lock, if `needless` returns true while waiting."""
    for pause in tries(wait):
        if try_lock(connection):
            break
        if needless():
            yield False
            return
        if pause is None:
            raise not_obtained(holders(connection), wait)
        waiting(holders(connection))
        time.sleep(pause)
    try:
        yield True
    finally:
        # Closing the connection, which follows, releases the lock too; this releases it at once.
        with suppress(psycopg.Error):
            connection.execute(f"SELECT pg_advisory_unlock({_KEY})".encode())


def tries(wait: float) -> Iterator[float | None]:
    """Yield the pause after each try, and None after the last."""
    yield from pauses(wait)
    yield None


def not_obtained(found: list[Holder], wait: float) -> LockNotObtained:
    """Return the error that names the sessions that hold the lock."""
    return LockNotObtained(
        f"another migrator holds the migration lock; waited {wait:g} s",
        lines=[f"held by {holder}" for holder in found] or ["its holder has just ended"],
        hint="wait longer with --wait, or see `storage migrate locks`",
    )
