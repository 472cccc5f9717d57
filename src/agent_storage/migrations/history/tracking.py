"""The tracking tables: those of yoyo, and `_storage_migration`.

yoyo's table records whether a migration is applied. It is authoritative, because stock yoyo may have changed it.
`_storage_migration` records the source of a migration, the SQL that was applied, its checksum, and the progress of a
run without a transaction. A row of it belongs to the row of yoyo's table with the same id and the same `applied_at`. So
changes by stock yoyo make it stale and not wrong, and two sources may have migrations of the same id: the later of them
has the hash of `SOURCE:ID` in yoyo's table, whose key is the hash.
"""

from __future__ import annotations

import platform
import uuid
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import class_row, scalar_row
from psycopg.types.json import Jsonb

from agent_storage import __version__
from agent_storage.migrations.errors import InvalidRequest
from agent_storage.migrations.files.file import MigrationFile, MigrationKey, SqlText
from agent_storage.migrations.history import tracking_sql as statements
from agent_storage.migrations.history.provenance import git_commit, user_name
from agent_storage.migrations.history.tracking_sql import ALL_TABLES, TABLE
from agent_storage.migrations.history.yoyo import TABLES, Backend, hash_of
from agent_storage.migrations.results import Direction, HistoryEntry
from agent_storage.search_path import OF_SESSION
from agent_storage.sources import SHIPPED


@dataclass(frozen=True, slots=True)
class TrackedMigration:
    """A migration in the tracking tables.

    `checksum` is None if stock yoyo applied it. `source` is None then, and if an older release applied it.
    """

    id: str
    source: str | None
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
    def key(self) -> MigrationKey:
        """The source and the id. Use it only after `assigned` has found the source."""
        return MigrationKey(self.source or "", self.id)

    @property
    def unfinished(self) -> bool:
        """Return whether a run without a transaction stopped halfway."""
        return self.state in {"running", "failed"}


class TrackingTables:
    """The tracking tables of one schema, read and written on one connection.

    The schema is that of the setting `schema`, else the connection's current one. Those of other schemas are not read.
    """

    def __init__(self, connection: psycopg.Connection, own: str = SHIPPED) -> None:
        self._connection = connection
        self._own = own
        self.schema, self._has_schema, self._present = _locate(connection)
        self._backend = Backend(connection, self.schema)

    @property
    def exists(self) -> bool:
        """Return whether all the tables exist."""
        return self._present >= set(ALL_TABLES)

    def _sql(self, text: str) -> sql.Composed:
        return statements.composed(self.schema, text)

    def create(self, assign: Callable[[Sequence[TrackedMigration]], Sequence[TrackedMigration]]) -> None:
        """Create the missing tables, and take over those of an older release. Call it with the migration lock held.

        `assign` finds the sources of the migrations that the older release has recorded.
        """
        if self.exists and self._knows_sources():
            return
        with self._connection.transaction():
            if self.exists:
                self._take_over(assign(self.entries()))
                return
            if not self._has_schema:
                name = sql.Identifier(self.schema)
                self._connection.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(name))
            self._backend.create_tables()
            self._connection.execute(self._sql(statements.CREATE))
            self._connection.execute(self._sql(statements.COMMENT))
        self._has_schema, self._present = True, set(ALL_TABLES)

    def _knows_sources(self) -> bool:
        name = sql.Identifier(self.schema, TABLE).as_string(None)
        with self._connection.cursor(row_factory=scalar_row) as cursor:
            return bool(cursor.execute(statements.HAS_SOURCE, (name,)).fetchone())

    def _take_over(self, entries: Sequence[TrackedMigration]) -> None:
        owners = [{"migration_id": entry.id, "source": entry.source} for entry in entries]
        rest = next((entry.source for entry in entries if entry.source == SHIPPED), self._own)
        names = {
            "table": sql.Identifier(self.schema, TABLE),
            "key": sql.Identifier(f"{TABLE}_pkey"),
            "owners": sql.Literal(Jsonb(owners)),
            "rest": sql.Literal(rest),
        }
        self._connection.execute(sql.SQL(statements.TAKE_OVER).format(**names))

    def entries(self) -> list[TrackedMigration]:
        """Return the applied and unfinished migrations, in the order of application."""
        if TABLES[0] not in self._present:
            return []
        query = statements.STATE if TABLE in self._present else statements.STATE_OF_STOCK_YOYO
        with self._connection.cursor(row_factory=class_row(TrackedMigration)) as cursor:
            return cursor.execute(self._sql(query)).fetchall()

    def is_applied(self, key: MigrationKey) -> bool:
        """Return whether the migration is recorded as applied."""
        query = self._sql("SELECT EXISTS ({mine})")
        with self._connection.cursor(row_factory=scalar_row) as cursor:
            return bool(cursor.execute(query, key._asdict()).fetchone())

    def texts(self) -> list[SqlText]:
        """Return the SQL of every migration that is applied or was not finished, in the order of application."""
        if TABLE not in self._present:
            return []
        query = self._sql("SELECT up_sql FROM {table} ORDER BY position")
        return [SqlText(text) for (text,) in self._connection.execute(query)]

    def stored(self, key: MigrationKey) -> MigrationFile | None:
        """Return the migration as it was applied, from the SQL in the database, or None."""
        if TABLE not in self._present:
            return None
        row = self._connection.execute(self._sql(statements.STORED), key._asdict()).fetchone()
        if row is None:
            return None
        down = SqlText(row[1]) if row[1] is not None else None
        prefix = key.name(self._own).removesuffix(key.id)
        return MigrationFile(key.id, Path(f"{key.id}.sql"), SqlText(row[0]), down, key.source, prefix)

    def record_applied(
        self, file: MigrationFile, *, duration_ms: int | None = None, origin: str = "run", operation: str = "apply"
    ) -> None:
        """Record the migration as applied, in the transaction of the caller."""
        row = self._connection.execute(self._sql(statements.MARK), _hashed(file.key)).fetchone()
        self._log(file.key, operation)
        self._record(file, "applied", "up", origin, len(file.up.statements), duration_ms, row[0] if row else None)

    def record_rolled_back(self, key: MigrationKey, operation: str = "rollback") -> None:
        """Record the migration as not applied, in the transaction of the caller."""
        self._connection.execute(self._sql(statements.UNMARK), key._asdict())
        self._log(key, operation)
        self.forget(key)

    def adopt(self, file: MigrationFile) -> None:
        """Store checksum and SQL of a migration that stock yoyo applied, or replace them."""
        self._record(file, "applied", "up", "adopted", len(file.up.statements), None)

    def rename(self, old: MigrationKey, file: MigrationFile) -> None:
        """Give an applied migration the id and the source of its file. Its time and position do not change."""
        values = {**_hashed(file.key), "old_id": old.id, "old_source": old.source}
        self._log(old, "unmark")
        self._connection.execute(self._sql(statements.RENAME), values)
        self._log(file.key, "mark")
        # The row keeps its position, which is the order of `down`.
        self._connection.execute(self._sql(statements.RENAME_STORED), values)
        self.adopt(file)

    def begin(self, file: MigrationFile, direction: Direction, done: int) -> None:
        """Record that a run without a transaction is in progress."""
        self._record(file, "running", direction, "run", done, None)

    def advance(self, key: MigrationKey, done: int) -> None:
        """Record the number of completed statements of a run without a transaction."""
        self._change("UPDATE {table} SET done_statements = %(done)s, changed_at = now()", key, done=done)

    def fail(self, key: MigrationKey, error: str) -> None:
        """Record that a run without a transaction failed, and its error."""
        self._change("UPDATE {table} SET state = 'failed', error = %(error)s, changed_at = now()", key, error=error)

    def forget(self, key: MigrationKey) -> None:
        """Delete the row of `_storage_migration`. That of yoyo is not changed."""
        self._change("DELETE FROM {table}", key)

    def _change(self, statement: str, key: MigrationKey, **values: object) -> None:
        query = self._sql(statement + " WHERE source = %(source)s AND migration_id = %(id)s")
        self._connection.execute(query, {**key._asdict(), **values})

    def _log(self, key: MigrationKey, operation: str) -> None:
        # yoyo's own code queries DNS for the host name and fails if the user has no name.
        values = {
            **_hashed(key),
            "log_id": str(uuid.uuid4()),
            "operation": operation,
            "user": user_name(),
            "host": platform.node()[:255],
            "comment": f"{statements.COMMENT_OF_LOG}{key.source}"[:255],
        }
        self._connection.execute(self._sql(statements.LOG), values)

    def forget_stale(self, sources: Collection[str]) -> int:
        """Delete rows of these sources in `_storage_migration` that contradict yoyo's table. Return their number."""
        return self._connection.execute(self._sql(statements.STALE), (list(sources),)).rowcount

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
        values = (f"^{statements.COMMENT_OF_LOG}(.+)$", limit)
        return [HistoryEntry(*row) for row in self._connection.execute(self._sql(statements.HISTORY), values)]

    def _record(
        self,
        file: MigrationFile,
        state: str,
        direction: Direction,
        origin: str,
        done: int,
        duration_ms: int | None,
        applied_at: datetime | None = None,
    ) -> None:
        text = file.up if direction == "up" else file.down
        values: dict[str, Any] = {
            "id": file.id,
            "source": file.source,
            "state": state,
            "direction": direction,
            "origin": origin,
            "checksum": file.checksum,
            "up_sql": file.up.text,
            "down_sql": file.down.text if file.down else None,
            "done": done,
            "total": len(text.statements) if text else 0,
            "duration_ms": duration_ms,
            "at": applied_at,
            "user": user_name(),
            "version": __version__,
            "commit": git_commit(file.path.parent) if file.path.is_absolute() else None,
        }
        self._connection.execute(self._sql(statements.RECORD), values)


def _hashed(key: MigrationKey) -> dict[str, str]:
    """Return the values of a migration: source, id, its hash, and the hash to use if another source has that."""
    return {**key._asdict(), "hash": hash_of(key.id), "other_hash": hash_of(str(key))}


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
