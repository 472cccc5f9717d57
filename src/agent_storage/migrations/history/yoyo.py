"""yoyo's tables through yoyo's code, without its unsafe parts.

Only the tables, the log, the hash of an id, `MigrationList` and the topological sort are yoyo's, so that stock
`yoyo list` and `yoyo rollback` work. Executing, locking and recording are not: yoyo records on a second connection
after the commit, locks with a row that a killed process leaves, and takes a savepoint for each statement, which can
exhaust the shared memory of the server.
"""

# yoyo carries no type information.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false, reportMissingTypeStubs=false, reportIncompatibleMethodOverride=false

from __future__ import annotations

import platform
import uuid
from collections.abc import Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from types import ModuleType
from typing import Any, cast

import psycopg
from psycopg import sql
from yoyo import internalmigrations
from yoyo.backends.core.postgresql import PostgresqlPsycopgBackend
from yoyo.migrations import Migration, MigrationList, default_migration_table, get_migration_hash, topological_sort
from yoyo.topologicalsort import CycleError

from agent_storage.migrations.errors import BadMigrationFile
from agent_storage.migrations.files.file import MigrationFile
from agent_storage.migrations.history.provenance import user_name

TABLES = (default_migration_table, "_yoyo_log", "_yoyo_version", "yoyo_lock")
VERSION = max(internalmigrations.schema_versions)


class SqlMigration(Migration):
    """A file as a migration of yoyo, whose own constructor would keep it for the lifetime of the process."""

    def __init__(self, file: MigrationFile) -> None:
        self.id = file.id
        self.hash = get_migration_hash(file.id)
        self.path = str(file.path)
        self.source_dir = str(file.path.parent)
        self.source = file.up.text
        self.use_transactions = file.transactional
        self.module = None
        self.steps = []
        self._depends: set[SqlMigration] = set()

    def load(self) -> None:
        """Do nothing, because the file has been read."""

    def depend_on(self, others: Sequence[SqlMigration]) -> None:
        """Set the value of `depends`."""
        self._depends = set(others)


class Backend(PostgresqlPsycopgBackend):
    """yoyo's tables in one schema, on a given connection in autocommit mode."""

    def __init__(self, connection: psycopg.Connection, schema: str) -> None:
        self._given = connection
        self._schema_name = schema
        super().__init__(None, default_migration_table)

    def _load_driver_module(self) -> ModuleType:
        return psycopg

    def connect(self, dburi: object) -> psycopg.Connection:
        """Return the given connection."""
        return self._given

    def init_connection(self, connection: object) -> None:
        """Leave the search path alone: the tables are always qualified with their schema."""

    def init_database(self) -> None:
        """Do nothing. yoyo would write on every start, even for reads; see `create_tables`."""

    def ensure_internal_schema_updated(self) -> None:
        """Do nothing. yoyo would check before every operation; see `create_tables`."""

    def quote_identifier(self, s: str) -> str:
        """Return the quoted name, qualified with the schema if it is one of the tables."""
        name = sql.Identifier(self._schema_name, s) if s in TABLES else sql.Identifier(s)
        return name.as_string(None)

    def list_tables(self, **_: object) -> list[str]:
        """Return the tables of the schema. information_schema would hide those that the role may not read."""
        rows = self._given.execute(
            "SELECT c.relname FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
            " WHERE n.nspname = %s AND c.relkind IN ('r', 'p')",
            (self._schema_name,),
        )
        return [row[0] for row in rows]

    def transaction(self, rollback_on_exit: bool = False) -> AbstractContextManager[Any]:
        """Return a psycopg transaction, which always commits or rolls back."""
        return self._given.transaction(force_rollback=rollback_on_exit)

    def create_tables(self) -> None:
        """Create or upgrade yoyo's tables. Call it with the migration lock held."""
        with self.transaction():
            if "yoyo_lock" not in self.list_tables():
                self.execute(self.format_sql(self.create_lock_table_sql))
            if internalmigrations.needs_upgrading(self):
                internalmigrations.upgrade(self)

    def mark(self, migration_id: str, operation: str = "apply") -> None:
        """Record an id as applied, and the operation (`apply` or `mark`) in the log."""
        migration = _Named(migration_id)
        self.mark_one(migration, log=False)
        self.log(migration_id, operation)

    def unmark(self, migration_id: str, operation: str = "rollback") -> None:
        """Record an id as not applied, and the operation (`rollback` or `unmark`) in the log."""
        self.unmark_one(_Named(migration_id), log=False)
        self.log(migration_id, operation)

    def hash(self, migration_id: str) -> str:
        """Return the key of an id in yoyo's table."""
        return cast(str, get_migration_hash(migration_id))

    def log(self, migration_id: str, operation: str) -> None:
        """Write an entry to the log."""
        self.log_migration(_Named(migration_id), operation)

    def get_log_data(self, migration: Any = None, operation: str = "apply") -> dict[str, object]:
        """Return an entry for the log. yoyo's own queries DNS for the host name and fails if the user has no name."""
        return {
            "id": str(uuid.uuid4()),
            "migration_id": migration.id if migration else None,
            "migration_hash": migration.hash if migration else None,
            "username": user_name(),
            "hostname": platform.node()[:255],
            "created_at_utc": datetime.now(UTC).replace(tzinfo=None),
            "operation": operation,
        }


class _Named:
    """The attributes of a migration that marking one needs."""

    def __init__(self, migration_id: str) -> None:
        self.id = migration_id
        self.hash = get_migration_hash(migration_id)


def in_order(files: Sequence[MigrationFile]) -> list[MigrationFile]:
    """Return the files in the order in which they run: by name, each after its dependencies."""
    replaced = {old: file.id for file in files for old in file.replaces}
    migrations = {file.id: SqlMigration(file) for file in files}
    for file in files:
        names = [replaced.get(name, name) for name in file.depends]
        unknown = [name for name in names if name not in migrations]
        if unknown:
            raise BadMigrationFile(f"{file.path.name} depends on {unknown[0]}, which is not in the folder")
        migrations[file.id].depend_on([migrations[name] for name in names if name != file.id])
    by_id = {file.id: file for file in files}
    try:
        ordered = list(topological_sort(MigrationList(migrations[file.id] for file in files)))
    except CycleError as error:
        circle = ", ".join(migration.id for migration in error.args[1])
        raise BadMigrationFile(f"migrations have circular dependencies: {circle}") from error
    return [by_id[cast(str, migration.id)] for migration in ordered]
