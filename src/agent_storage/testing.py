"""For services that use this package: a fresh database for every test, and tests of the migrations themselves.

In `conftest.py`:

    pytest_plugins = ["agent_storage.testing"]

The databases have the migrations of all sources that [tool.agent-storage] names, in the pyproject.toml of pytest's
rootdir: your own tables beside the shipped ones.

There are three ways to a fresh database. The first two are fixtures, whose value is a connection string:

- `migrated_database`: a separate database, a copy of one that was migrated once. Everything works there.
- `emptied_database`: one database for all tests, whose tables are emptied before each, your own too. A table that the
  migrations themselves filled is left as it is. Everything works there too, but tests cannot share it at the same time.
- `rolled_back(storage)`: a storage whose statements are all in one transaction, which is rolled back. The fastest:

        @pytest.fixture
        async def shop() -> AsyncIterator[Shop]:
            async with Shop(url) as opened, rolled_back(opened) as shop:
                yield shop

  `transaction()`, `batch()` and `run()` are savepoints there, and after_commit callbacks are called. A commit and
  other connections are missing: `approval_requests.wait`, `stream_events.follow` and `storage.autonomous` raise
  `StorageError`, no other connection sees the rows, and isolation levels have no effect.
  Statements of concurrent tasks take turns. `created_at` is the time at which the test began. `rolled_back_sync` is
  for the sync face.

`empty_database` empties another test database.

Import the tests into any test module:

    from agent_storage.testing import (
        test_declarations_agree_with_the_schema,
        test_every_migration_comes_back,
        test_migrations_make_the_declared_schema,
        test_migrations_are_one_timeline,
    )

Override `storage_sources` for other sources, `storage_schema` for another PostgreSQL schema. The server is that of
`STORAGE_TEST_DATABASE_URL`, whose role needs CREATEDB; else the embedded one.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import AsyncGenerator, Generator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TypeVar

import psycopg
import pytest
from psycopg import sql

import agent_storage
from agent_storage import sync
from agent_storage.database.rolled_back import RolledBack
from agent_storage.errors import StorageError, translate
from agent_storage.migrations import Migrator
from agent_storage.migrations.files import lint
from agent_storage.migrations.files.file import read_folder
from agent_storage.migrations.history.tracking import ALL_TABLES
from agent_storage.migrations.verify.shadow import ShadowServer, open_shadow
from agent_storage.sources import Source, configured
from agent_storage.sync.database.rolled_back import RolledBack as SyncRolledBack
from agent_storage.tables import REPOSITORIES

__all__ = [
    "emptied_database",
    "emptied_for_all",
    "empty_database",
    "migrated_database",
    "migrated_template",
    "rolled_back",
    "rolled_back_sync",
    "storage_schema",
    "storage_shadows",
    "storage_sources",
    "storage_test_server",
    "test_declarations_agree_with_the_schema",
    "test_every_migration_comes_back",
    "test_migrations_are_one_timeline",
    "test_migrations_make_the_declared_schema",
]


S = TypeVar("S", bound=agent_storage.Storage)
T = TypeVar("T", bound=sync.Storage)

#: How long `empty_database` waits for another session's transaction.
_PATIENCE = "10s"
#: The tables of a test database without those of the system, of extensions and of the migration manager.
_TABLES = """
    SELECT n.nspname, c.relname
      FROM pg_catalog.pg_class c
      JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
     WHERE c.relkind IN ('r', 'p') AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
       AND c.relname <> ALL (%s)
       AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend WHERE objid = c.oid AND deptype = 'e')
"""


@asynccontextmanager
async def rolled_back(storage: S) -> AsyncGenerator[S, None]:
    """Yield `storage` in one transaction, which is rolled back when the block ends; see above for what works."""
    async with RolledBack.within(storage.database) as database:
        yield storage._on(database)  # pyright: ignore[reportPrivateUsage]


@contextmanager
def rolled_back_sync(storage: T) -> Generator[T, None, None]:
    """Yield `storage` in one transaction, which is rolled back when the block ends; see above for what works."""
    with SyncRolledBack.within(storage.database) as database:
        yield storage._on(database)  # pyright: ignore[reportPrivateUsage]


def empty_database(conninfo: str, *, name: str, tables: Sequence[str] = ()) -> None:
    """Delete all rows of the shipped tables and of `tables`, and restart their sequences.

    It destroys data, so `name` has to be the name of the database, and that has to contain "test". Raises
    `StorageError` otherwise, and for a table that refers to these and is not named.
    """
    with psycopg.connect(conninfo, autocommit=True) as connection:
        actual = connection.execute("SELECT current_database()").fetchone()
        if actual != (name,) or "test" not in name.lower():
            raise StorageError(
                f"the database {actual and actual[0]!r} was not emptied: name={name!r} is not its name, or does not "
                'contain "test"; give the name of a test database'
            )
        known = (
            name for name in REPOSITORIES if connection.execute("SELECT to_regclass(%s)", (name,)).fetchone() != (None,)
        )
        _empty(connection, [sql.Identifier(*name.split(".")) for name in [*known, *tables]])


def _empty(connection: psycopg.Connection, tables: Iterable[sql.Identifier]) -> None:
    """Empty the tables, unless all of them are empty: TRUNCATE takes its time for each."""
    known = list(tables)
    try:
        if any(_filled(connection, known)):
            connection.execute(f"SET lock_timeout = '{_PATIENCE}'")
            connection.execute(sql.SQL("TRUNCATE {} RESTART IDENTITY").format(sql.SQL(", ").join(known)))
    except psycopg.errors.FeatureNotSupported as error:
        raise StorageError(f"{error.diag.message_detail} Name that table too, in tables=[…]") from error
    except psycopg.Error as error:
        raise translate(error, statement="TRUNCATE") from error


def _filled(connection: psycopg.Connection, tables: Sequence[sql.Identifier]) -> list[bool]:
    """Return for each table whether it holds rows."""
    if not tables:
        return []
    each = sql.SQL(", ").join(sql.SQL("EXISTS (SELECT FROM {})").format(table) for table in tables)
    return list(connection.execute(sql.SQL("SELECT {}").format(each)).fetchone() or ())


@pytest.fixture(scope="session")
def storage_sources(pytestconfig: pytest.Config) -> Sequence[Source]:
    """Return the sources under test: those of the pyproject.toml of pytest's rootdir. Override it for others."""
    return configured(pytestconfig.rootpath).sources


@pytest.fixture(scope="session")
def storage_schema(pytestconfig: pytest.Config) -> str | None:
    """Return the PostgreSQL schema of the tables: that of the same pyproject.toml. Override it for another."""
    return configured(pytestconfig.rootpath).schema


@pytest.fixture(scope="session")
def storage_test_server() -> Iterator[str]:
    """Yield the connection string of a server on which databases may be made."""
    url = os.environ.get("STORAGE_TEST_DATABASE_URL")
    if url:
        yield url
        return
    from agent_storage.embedded import EmbeddedServer

    with tempfile.TemporaryDirectory(prefix="storage-test-") as folder:
        # Started by root, the server runs under another account, which has to get to its own folder inside.
        Path(folder).chmod(0o711)
        with EmbeddedServer(Path(folder) / "data") as server:
            yield server.conninfo("postgres")


@pytest.fixture(scope="session")
def storage_shadows(storage_test_server: str, storage_schema: str | None) -> ShadowServer:
    """Return the maker of the test databases, each with the schema."""
    return ShadowServer(storage_test_server, like=None, schema=storage_schema)


@pytest.fixture(scope="session")
def migrated_template(storage_shadows: ShadowServer, storage_sources: Sequence[Source]) -> Iterator[str]:
    """Yield the connection string of a database migrated to head, made once, to be copied.

    While a session is connected to it, no copy can be made.
    """
    with storage_shadows.database() as conninfo:
        Migrator(conninfo, sources=storage_sources).up()
        yield conninfo


@pytest.fixture
def migrated_database(storage_shadows: ShadowServer, migrated_template: str) -> Iterator[str]:
    """Yield the connection string of a migrated database for one test alone."""
    with storage_shadows.database(migrated_template) as conninfo:
        yield conninfo


@pytest.fixture(scope="session")
def emptied_for_all(
    storage_shadows: ShadowServer, migrated_template: str
) -> Iterator[tuple[str, list[sql.Identifier]]]:
    """Yield the connection string of the database that `emptied_database` empties, and its tables without rows."""
    with storage_shadows.database(migrated_template) as conninfo:
        with psycopg.connect(conninfo, autocommit=True) as connection:
            every = [sql.Identifier(*names) for names in connection.execute(_TABLES, (list(ALL_TABLES),))]
            tables = [table for table, filled in zip(every, _filled(connection, every), strict=True) if not filled]
        yield conninfo, tables


@pytest.fixture
def emptied_database(emptied_for_all: tuple[str, list[sql.Identifier]]) -> str:
    """Return the connection string of a migrated database without rows, the same for all tests."""
    conninfo, tables = emptied_for_all
    with psycopg.connect(conninfo, autocommit=True) as connection:
        _empty(connection, tables)
    return conninfo


def test_every_migration_comes_back(storage_shadows: ShadowServer, storage_sources: Sequence[Source]) -> None:
    """Check that each migration goes up, down and up again, with the same catalog after each step."""
    from agent_storage.migrations.verify.trial import up_down_up

    tried = up_down_up(Migrator("", sources=storage_sources), storage_shadows)
    _report(f"{one.name}: {fault}" for one in tried for fault in one.faults)


def test_migrations_make_the_declared_schema(storage_shadows: ShadowServer, storage_sources: Sequence[Source]) -> None:
    """Check that migrations, run from nothing, make what the `schema.sql` files declare."""
    from agent_storage.migrations.verify.declared import declares
    from agent_storage.migrations.verify.drift import diff, line

    if not any(map(declares, storage_sources)):
        pytest.skip("there is no declared schema")
    migrator = Migrator("", sources=storage_sources)
    _report(map(line, diff(migrator, storage_shadows, "migrations", "schema").drift))


def test_declarations_agree_with_the_schema(storage_shadows: ShadowServer, storage_sources: Sequence[Source]) -> None:
    """Check every declared statement, record and rule as `storage check` does."""
    from agent_storage.maintenance.sources import build, check_declarations

    with storage_shadows.database() as conninfo, open_shadow(conninfo) as connection:
        origins = build(connection, Migrator(conninfo, sources=storage_sources).files())
        _report(map(str, check_declarations(connection, storage_sources, origins)))


def test_migrations_are_one_timeline(storage_sources: Sequence[Source]) -> None:
    """Check that no file comes too late, differs from `migrations.lock`, or breaks a rule of `check --only lint`."""
    found = [
        finding
        for source in storage_sources
        for finding in lint.lint_folder(source.migrations, read_folder(source.migrations))
    ]
    _report(str(finding) for finding in found if finding.severity == "error")


def _report(faults: Iterable[str]) -> None:
    """Fail the test with these lines, if there are any."""
    if lines := "\n".join(faults):
        pytest.fail(lines, pytrace=False)
