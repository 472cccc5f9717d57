"""Plan `up`: the pending statements and, on request, the locks they take and the tables they rewrite.

Locks are not guessed from the text: each statement runs in a shadow database with the schema of the live one, and
`pg_locks` shows the locks it took. The number of rows comes from the statistics of the live database.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import psycopg

from agent_storage.migrations.files.file import MigrationFile
from agent_storage.migrations.files.report import statement_failed
from agent_storage.migrations.files.splitter import SqlStatement, tokens
from agent_storage.migrations.run.replay import replay

#: Lock modes from weak to strong, and their effect on other sessions.
MODES = {
    "AccessShareLock": "",
    "RowShareLock": "",
    "RowExclusiveLock": "",
    "ShareUpdateExclusiveLock": "blocks other schema changes and VACUUM",
    "ShareLock": "blocks writes",
    "ShareRowExclusiveLock": "blocks writes",
    "ExclusiveLock": "blocks writes",
    "AccessExclusiveLock": "blocks reads and writes",
}
_STRENGTH = {mode: strength for strength, mode in enumerate(MODES)}

_LOCKS = """
SELECT l.relation::bigint AS oid, l.mode
  FROM pg_catalog.pg_locks l
 WHERE l.pid = pg_backend_pid() AND l.locktype = 'relation' AND l.granted
   AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())
"""
_TABLES = """
SELECT c.oid::bigint, format('%I.%I', n.nspname, c.relname), coalesce(pg_relation_filenode(c.oid), 0)::bigint
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'p', 'm') AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')
"""
_SIZES = """
SELECT format('%I.%I', n.nspname, c.relname), greatest(c.reltuples, 0)::bigint, pg_total_relation_size(c.oid)
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'p', 'm') AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')
"""


@dataclass(frozen=True, slots=True)
class LockTaken:
    """A lock on a table that existed before. `rows` and `bytes` are those of the live table, from its statistics."""

    table: str
    mode: str
    effect: str
    rewrite: bool
    rows: int | None = None
    bytes: int | None = None


@dataclass(frozen=True, slots=True)
class PlannedStatement:
    """A statement and the strongest new lock that it takes on each table."""

    line: int
    text: str
    locks: list[LockTaken] = field(default_factory=list[LockTaken])


@dataclass(frozen=True, slots=True)
class PlannedMigration:
    """A pending migration."""

    id: str
    source: str
    name: str
    transactional: bool
    statements: list[PlannedStatement]


@dataclass(frozen=True, slots=True)
class Plan:
    """The migrations that `up` would run, in order."""

    migrations: list[PlannedMigration]


def without_locks(files: Sequence[MigrationFile]) -> Plan:
    """Return the plan without locks, from the files alone."""
    return Plan([_planned(file, [[] for _ in file.up.statements]) for file in files])


def with_locks(
    shadow: psycopg.Connection,
    live: psycopg.Connection,
    applied: Sequence[MigrationFile],
    pending: Sequence[MigrationFile],
) -> Plan:
    """Return the plan with the locks traced in `shadow`, after applying the migrations of `live` there."""
    replay(shadow, applied)
    sizes = {name: (rows, size) for name, rows, size in live.execute(_SIZES)}
    return Plan([_planned(file, _traced(shadow, file, sizes)) for file in pending])


def _planned(file: MigrationFile, locks: Sequence[list[LockTaken]]) -> PlannedMigration:
    statements = [
        PlannedStatement(file.up.place(statement.offset)[0], statement.text, taken)
        for statement, taken in zip(file.up.statements, locks, strict=True)
    ]
    return PlannedMigration(file.id, file.source, file.name, file.transactional, statements)


def _traced(
    shadow: psycopg.Connection, file: MigrationFile, sizes: dict[str, tuple[int, int]]
) -> list[list[LockTaken]]:
    """Run a migration and return the new locks of each statement."""
    shadow.execute("RESET SESSION AUTHORIZATION; RESET ROLE; RESET ALL")
    found: list[list[LockTaken]] = []
    statement = None
    try:
        if file.transactional:
            with shadow.transaction():
                before = _tables(shadow)
                held: dict[int, str] = {}
                for statement in file.up.statements:
                    shadow.execute(statement.text.encode())
                    found.append(_new_locks(shadow, before, held, sizes))
        else:
            for statement in file.up.statements:
                before = _tables(shadow)
                shadow.execute(statement.text.encode())
                found.append(_known_locks(statement, before, sizes))
    except psycopg.Error as error:
        raise statement_failed(error, file.path, file.up, statement) from error
    return found


def _tables(shadow: psycopg.Connection) -> dict[int, tuple[str, int]]:
    return {oid: (name, filenode) for oid, name, filenode in shadow.execute(_TABLES)}


def _new_locks(
    shadow: psycopg.Connection,
    before: dict[int, tuple[str, int]],
    held: dict[int, str],
    sizes: dict[str, tuple[int, int]],
) -> list[LockTaken]:
    """Return the locks on tables visible to others that are stronger than those the transaction held."""
    strongest: dict[int, str] = {}
    for oid, mode in shadow.execute(_LOCKS):
        if oid in before and _STRENGTH.get(mode, 0) > _STRENGTH.get(strongest.get(oid, ""), -1):
            strongest[oid] = mode
    filenodes = {oid: filenode for oid, (_, filenode) in _tables(shadow).items()}
    taken: list[LockTaken] = []
    for oid, mode in strongest.items():
        name, filenode = before[oid]
        rewrite = filenodes.get(oid, filenode) != filenode
        if rewrite:
            before[oid] = (name, filenodes[oid])
        if rewrite or _STRENGTH[mode] > _STRENGTH.get(held.get(oid, ""), -1):
            rows, size = sizes.get(name, (None, None))
            taken.append(LockTaken(name, mode, MODES[mode], rewrite, rows, size))
        held[oid] = mode
    return sorted(taken, key=lambda lock: lock.table)


def _known_locks(
    statement: SqlStatement, before: dict[int, tuple[str, int]], sizes: dict[str, tuple[int, int]]
) -> list[LockTaken]:
    """Return the locks of a CONCURRENTLY statement: without a transaction they end with the statement."""
    if "CONCURRENTLY" not in statement.words:
        return []
    names = {token.text.strip('"') for token in tokens(statement.text) if token.kind in {"word", "quoted"}}
    tables = sorted(name for name, _ in before.values() if name.rpartition(".")[2].strip('"') in names)
    mode = "ShareUpdateExclusiveLock"
    return [LockTaken(name, mode, MODES[mode], False, *sizes.get(name, (None, None))) for name in tables]
