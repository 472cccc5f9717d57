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
from collections.abc import Collection, Sequence
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
from agent_storage.migrations.files.file import MigrationFile, MigrationKey
from agent_storage.migrations.history.provenance import user_name

TABLES = (default_migration_table, "_yoyo_log", "_yoyo_version", "yoyo_lock")
VERSION = max(internalmigrations.schema_versions)


class SqlMigration(Migration):
    """A file as a migration of yoyo, whose own constructor would keep it for the lifetime of the process."""

    def __init__(self, file: MigrationFile) -> None:
        self.id = str(file.key)
        self.hash = hash_of(self.id)
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

    def get_log_data(self, migration: Any = None, operation: str = "apply") -> dict[str, object]:
        """Return an entry for the log. yoyo's own queries DNS for the host name and fails if the user has no name."""
        return {
            "id": str(uuid.uuid4()),
            "migration_id": None,
            "migration_hash": None,
            "username": user_name(),
            "hostname": platform.node()[:255],
            "created_at_utc": datetime.now(UTC).replace(tzinfo=None),
            "operation": operation,
        }


def hash_of(text: str) -> str:
    """Return the key of a migration in yoyo's table."""
    return cast(str, get_migration_hash(text))


def in_order(files: Sequence[MigrationFile]) -> list[MigrationFile]:
    """Return the files in the order in which they run: as they are given, each after its dependencies."""
    by_key = {file.key: file for file in files}
    replaced = {MigrationKey(file.source, old): file.key for file in files for old in file.replaces}
    migrations = {key: SqlMigration(file) for key, file in by_key.items()}
    for file in files:
        wanted = [replaced.get(key, key) for key in file.depends]
        for key in wanted:
            if key not in migrations:
                raise _unknown(file, key, {known.source for known in by_key})
        migrations[file.key].depend_on([migrations[key] for key in wanted if key != file.key])
    by_name = {str(key): file for key, file in by_key.items()}
    try:
        ordered = list(topological_sort(MigrationList(migrations.values())))
    except CycleError as error:
        circle = ", ".join(by_name[migration.id].name for migration in error.args[1])
        raise BadMigrationFile(f"migrations have circular dependencies: {circle}") from error
    return [by_name[cast(str, migration.id)] for migration in ordered]


def _unknown(file: MigrationFile, key: MigrationKey, sources: Collection[str]) -> BadMigrationFile:
    """Return the error for a dependency that is not there."""
    if key.source == file.source:
        return BadMigrationFile(f"{file.path.name} depends on {key.id}, which is not in the folder")
    start = f"{file.path.name} of {file.source} depends on {key}"
    if key.source in sources:
        return BadMigrationFile(f"{start}, which is not in the folder of {key.source}")
    hint = f"add {key.source} to the sources; configured are: {', '.join(sorted(sources))}"
    return BadMigrationFile(f"{start}, whose source is not configured here", hint=hint)
