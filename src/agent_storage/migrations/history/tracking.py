"""The tracking tables: those of yoyo, and `_storage_migration`.

yoyo's table records whether a migration is applied. It is authoritative, because stock yoyo may have changed it.
`_storage_migration` records the SQL that was applied, its checksum, and the progress of a run without a transaction.
A row of it is valid only if its `applied_at` equals yoyo's, so changes by stock yoyo make it stale and not wrong.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import class_row, scalar_row

from agent_storage import __version__
from agent_storage.migrations.errors import InvalidRequest
from agent_storage.migrations.files.file import MigrationFile, SqlText
from agent_storage.migrations.history.provenance import git_commit, user_name
from agent_storage.migrations.history.yoyo import TABLES, Backend
from agent_storage.migrations.results import Direction, HistoryEntry
from agent_storage.search_path import OF_SESSION

TABLE = "_storage_migration"
ALL_TABLES = (*TABLES, TABLE)

_CREATE = """
CREATE TABLE IF NOT EXISTS {table} (
    migration_id     text PRIMARY KEY,
    position         bigint GENERATED ALWAYS AS IDENTITY,
    state            text NOT NULL CHECK (state IN ('applied', 'running', 'failed')),
    direction        text NOT NULL CHECK (direction IN ('up', 'down')),
    origin           text NOT NULL CHECK (origin IN ('run', 'adopted', 'baseline', 'resolved', 'squash')),
    checksum         text NOT NULL,
    up_sql           text NOT NULL,
    down_sql         text,
    done_statements  integer NOT NULL,
    total_statements integer NOT NULL,
    duration_ms      bigint,
    error            text,
    applied_at       timestamp,
    changed_at       timestamptz NOT NULL DEFAULT now(),
    applied_by       text,
    tool_version     text,
    git_commit       text
)
"""
_COMMENT = "COMMENT ON TABLE {table} IS 'Written by storage migrate: what was applied, and how to roll it back'"

_STATE = """
SELECT coalesce(y.migration_id, l.migration_id) AS id, y.applied_at_utc IS NOT NULL AS applied,
       y.applied_at_utc AS applied_at, l.checksum, l.state, l.direction, l.done_statements, l.total_statements,
       l.duration_ms, l.error, l.applied_by, l.origin, md5(l.up_sql) AS text_md5
  FROM {yoyo} y
  FULL JOIN {table} l ON l.migration_id = y.migration_id AND l.applied_at = y.applied_at_utc
 WHERE y.migration_id IS NOT NULL OR l.state <> 'applied'
 ORDER BY l.position NULLS FIRST, y.applied_at_utc, id
"""
_STATE_OF_STOCK_YOYO = """
SELECT migration_id AS id, TRUE AS applied, applied_at_utc AS applied_at, NULL AS checksum, NULL AS state,
       NULL AS direction, 0 AS done_statements, 0 AS total_statements, NULL AS duration_ms, NULL AS error,
       NULL AS applied_by, NULL AS origin, NULL AS text_md5
  FROM {yoyo}
 ORDER BY applied_at_utc, migration_id
"""

_RECORD = """
INSERT INTO {table} (migration_id, state, direction, origin, checksum, up_sql, down_sql, done_statements,
                     total_statements, duration_ms, error, applied_at, applied_by, tool_version, git_commit)
VALUES (%(id)s, %(state)s, %(direction)s, %(origin)s, %(checksum)s, %(up_sql)s, %(down_sql)s, %(done)s,
        %(total)s, %(duration_ms)s, NULL, (SELECT applied_at_utc FROM {yoyo} WHERE migration_id = %(id)s),
        %(user)s, %(version)s, %(commit)s)
    ON CONFLICT (migration_id) DO UPDATE
   SET state = excluded.state, direction = excluded.direction, origin = excluded.origin, error = NULL,
       checksum = excluded.checksum, up_sql = excluded.up_sql, down_sql = excluded.down_sql,
       done_statements = excluded.done_statements, total_statements = excluded.total_statements,
       duration_ms = excluded.duration_ms, applied_at = excluded.applied_at, changed_at = now(),
       applied_by = excluded.applied_by, tool_version = excluded.tool_version, git_commit = excluded.git_commit
"""


@dataclass(frozen=True, slots=True)
class TrackedMigration:
    """A migration in the tracking tables. `checksum` is None if stock yoyo applied it."""

    id: str
    applied: bool
    applied_at: datetime | None
    checksum: str | None
    state: str | None
    direction: Direction | None
    done_statements: int | None
    total_statements: int | None
    duration_ms: int | None
    error: str | None
    applied_by: str | None
    origin: str | None
    #: MD5 of the applied text, computed by the server.
    text_md5: str | None = None

    @property
    def unfinished(self) -> bool:
        """Return whether a run without a transaction stopped halfway."""
        return self.state in {"running", "failed"}


class TrackingTables:
    """The tracking tables of one schema, read and written on one connection.

    The schema is that of the setting `schema`, else the connection's current one. Those of other schemas are not read.
    """

    def __init__(self, connection: psycopg.Connection) -> None:
        self._connection = connection
        self.schema, self._has_schema, self._present = _locate(connection)
        self._backend = Backend(connection, self.schema)

    @property
    def exists(self) -> bool:
        """Return whether all the tables exist."""
        return self._present >= set(ALL_TABLES)

    def _sql(self, text: str) -> sql.Composed:
        names = {"yoyo": TABLES[0], "log": "_yoyo_log", "lock": "yoyo_lock", "table": TABLE}
        # The texts are constants of this module.
        template = sql.SQL(text)  # pyright: ignore[reportArgumentType]
        return template.format(**{key: sql.Identifier(self.schema, name) for key, name in names.items()})

    def create(self) -> None:
        """Create the missing tables. Call it with the migration lock held."""
        if self.exists:
            return
        with self._connection.transaction():
            if not self._has_schema:
                name = sql.Identifier(self.schema)
                self._connection.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(name))
            self._backend.create_tables()
            self._connection.execute(self._sql(_CREATE))
            self._connection.execute(self._sql(_COMMENT))
        self._has_schema, self._present = True, set(ALL_TABLES)

    def entries(self) -> list[TrackedMigration]:
        """Return the applied and unfinished migrations, in the order of application."""
        if TABLES[0] not in self._present:
            return []
        query = _STATE if TABLE in self._present else _STATE_OF_STOCK_YOYO
        with self._connection.cursor(row_factory=class_row(TrackedMigration)) as cursor:
            return cursor.execute(self._sql(query)).fetchall()

    def is_applied(self, migration_id: str) -> bool:
        """Return whether the id is recorded as applied."""
        query = self._sql("SELECT EXISTS (SELECT FROM {yoyo} WHERE migration_id = %s)")
        with self._connection.cursor(row_factory=scalar_row) as cursor:
            return bool(cursor.execute(query, (migration_id,)).fetchone())

    def stored(self, migration_id: str) -> MigrationFile | None:
        """Return the migration as it was applied, from the SQL in the database, or None."""
        if TABLE not in self._present:
            return None
        query = self._sql("SELECT up_sql, down_sql FROM {table} WHERE migration_id = %s")
        row = self._connection.execute(query, (migration_id,)).fetchone()
        if row is None:
            return None
        down = SqlText(row[1]) if row[1] is not None else None
        return MigrationFile(migration_id, Path(f"{migration_id}.sql"), SqlText(row[0]), down)

    def record_applied(
        self, file: MigrationFile, *, duration_ms: int | None = None, origin: str = "run", operation: str = "apply"
    ) -> None:
        """Record the migration as applied, in the transaction of the caller."""
        self._backend.mark(file.id, operation)
        self._record(file, "applied", "up", origin, len(file.up.statements), duration_ms)

    def record_rolled_back(self, migration_id: str, operation: str = "rollback") -> None:
        """Record the migration as not applied, in the transaction of the caller."""
        self._backend.unmark(migration_id, operation)
        self.forget(migration_id)

    def adopt(self, file: MigrationFile) -> None:
        """Store checksum and SQL of a migration that stock yoyo applied, or replace them."""
        self._record(file, "applied", "up", "adopted", len(file.up.statements), None)

    def rename(self, old: str, file: MigrationFile) -> None:
        """Rename an applied migration to the name of its file. Its time and position do not change."""
        query = self._sql("UPDATE {yoyo} SET migration_id = %s, migration_hash = %s WHERE migration_id = %s")
        self._backend.log(old, "unmark")
        self._connection.execute(query, (file.id, self._backend.hash(file.id), old))
        self._backend.log(file.id, "mark")
        # The row keeps its position, which is the order of `down`.
        query = self._sql("UPDATE {table} SET migration_id = %s WHERE migration_id = %s")
        self._connection.execute(query, (file.id, old))
        self.adopt(file)

    def begin(self, file: MigrationFile, direction: Direction, done: int) -> None:
        """Record that a run without a transaction is in progress."""
        self._record(file, "running", direction, "run", done, None)

    def advance(self, migration_id: str, done: int) -> None:
        """Record the number of completed statements of a run without a transaction."""
        query = self._sql("UPDATE {table} SET done_statements = %s, changed_at = now() WHERE migration_id = %s")
        self._connection.execute(query, (done, migration_id))

    def fail(self, migration_id: str, error: str) -> None:
        """Record that a run without a transaction failed, and its error."""
        query = self._sql("UPDATE {table} SET state = 'failed', error = %s, changed_at = now() WHERE migration_id = %s")
        self._connection.execute(query, (error, migration_id))

    def forget(self, migration_id: str) -> None:
        """Delete the row of `_storage_migration`. That of yoyo is not changed."""
        self._connection.execute(self._sql("DELETE FROM {table} WHERE migration_id = %s"), (migration_id,))

    def forget_stale(self) -> int:
        """Delete rows of `_storage_migration` that contradict yoyo's table. Return their number."""
        query = self._sql(
            "DELETE FROM {table} l WHERE l.state = 'applied' AND NOT EXISTS"
            " (SELECT FROM {yoyo} y WHERE y.migration_id = l.migration_id AND y.applied_at_utc = l.applied_at)"
        )
        return self._connection.execute(query).rowcount

    def stock_lock(self) -> tuple[int, datetime] | None:
        """Return the process that holds stock yoyo's lock, and since when. It may have ended."""
        if "yoyo_lock" not in self._present:
            return None
        row = self._connection.execute(self._sql("SELECT pid, ctime FROM {lock}")).fetchone()
        return (row[0], row[1].replace(tzinfo=UTC)) if row else None

    def break_stock_lock(self) -> None:
        """Delete the row of stock yoyo's lock."""
        self._connection.execute(self._sql("DELETE FROM {lock}"))

    def history(self, limit: int | None = None) -> list[HistoryEntry]:
        """Return the entries of yoyo's log, the newest first."""
        if "_yoyo_log" not in self._present:
            return []
        query = self._sql(
            "SELECT created_at_utc AT TIME ZONE 'UTC', operation, migration_id, username, hostname, comment"
            " FROM {log} ORDER BY created_at_utc DESC, id LIMIT %s"
        )
        return [HistoryEntry(*row) for row in self._connection.execute(query, (limit,))]

    def _record(
        self, file: MigrationFile, state: str, direction: Direction, origin: str, done: int, duration_ms: int | None
    ) -> None:
        text = file.up if direction == "up" else file.down
        values: dict[str, Any] = {
            "id": file.id,
            "state": state,
            "direction": direction,
            "origin": origin,
            "checksum": file.checksum,
            "up_sql": file.up.text,
            "down_sql": file.down.text if file.down else None,
            "done": done,
            "total": len(text.statements) if text else 0,
            "duration_ms": duration_ms,
            "user": user_name(),
            "version": __version__,
            "commit": git_commit(file.path.parent) if file.path.is_absolute() else None,
        }
        self._connection.execute(self._sql(_RECORD), values)


_LOCATE = f"""
SELECT of_session.schema, n.oid IS NOT NULL,
       ARRAY(SELECT c.relname
               FROM pg_catalog.pg_class c
              WHERE c.relnamespace = n.oid AND c.relname = ANY(%s) AND c.relkind IN ('r', 'p'))
  FROM (SELECT {OF_SESSION} AS schema) AS of_session
  LEFT JOIN pg_catalog.pg_namespace n ON n.nspname = of_session.schema
"""  # noqa: S608  # of constants


def _locate(connection: psycopg.Connection) -> tuple[str, bool, set[str]]:
    """Return the schema of the tables, whether it exists, and the tables that exist in it."""
    row = connection.execute(_LOCATE.encode(), (list(ALL_TABLES),)).fetchone()
    if row is None or row[0] is None:
        raise InvalidRequest(
            "no schema of the search_path exists",
            hint="name one with the setting schema, which `up` creates, or set another search_path",
        )
    schema, exists, names = row
    return schema, exists, set(names)
