"""For services that use this package: a migrated database for every test, and tests of the migrations themselves.

In `conftest.py`:

    pytest_plugins = ["agent_storage.testing"]

The fixture `migrated_database` is the connection string of a separate database, a copy of one that was migrated once.
Import the tests into any test module:

    from agent_storage.testing import (
        test_every_migration_comes_back,
        test_migrations_make_the_declared_schema,
        test_migrations_are_one_timeline,
    )

Override `storage_migrations_folder` and `storage_tables_folder` for other folders. The server is that of
`STORAGE_TEST_DATABASE_URL`, whose role needs CREATEDB; else the embedded one.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent_storage.migrations import Migrator
from agent_storage.migrations.files import lint
from agent_storage.migrations.files.file import VERSIONS, read_folder
from agent_storage.migrations.verify.declared import TABLES
from agent_storage.migrations.verify.shadow import ShadowServer

__all__ = [
    "migrated_database",
    "migrated_template",
    "storage_migrations_folder",
    "storage_tables_folder",
    "storage_test_server",
    "test_every_migration_comes_back",
    "test_migrations_are_one_timeline",
    "test_migrations_make_the_declared_schema",
]


@pytest.fixture(scope="session")
def storage_migrations_folder() -> Path:
    """Return the folder of the migrations under test. Override it for another folder."""
    return VERSIONS


@pytest.fixture(scope="session")
def storage_tables_folder() -> Path | None:
    """Return the folder of the declared schema (`*/schema.sql`) that the migrations have to make, or None."""
    return TABLES


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
def migrated_template(storage_test_server: str, storage_migrations_folder: Path) -> Iterator[str]:
    """Yield the connection string of a database migrated to head, made once, to be copied.

    While a session is connected to it, no copy can be made.
    """
    with ShadowServer(storage_test_server, like=None).database() as conninfo:
        Migrator(conninfo, storage_migrations_folder).up()
        yield conninfo


@pytest.fixture
def migrated_database(storage_test_server: str, migrated_template: str) -> Iterator[str]:
    """Yield the connection string of a migrated database for one test alone."""
    with ShadowServer(storage_test_server, like=None).database(migrated_template) as conninfo:
        yield conninfo


def test_every_migration_comes_back(storage_test_server: str, storage_migrations_folder: Path) -> None:
    """Check that each migration goes up, down and up again, with the same catalog after each step."""
    from agent_storage.migrations.verify.trial import up_down_up

    migrator = Migrator(storage_test_server, storage_migrations_folder)
    tried = up_down_up(migrator, ShadowServer(storage_test_server, like=None))
    faults = [f"{one.id}: {fault}" for one in tried for fault in one.faults]
    if faults:
        pytest.fail("\n".join(faults), pytrace=False)


def test_migrations_make_the_declared_schema(
    storage_test_server: str, storage_migrations_folder: Path, storage_tables_folder: Path | None
) -> None:
    """Check that migrations, run from nothing, make what the `schema.sql` files declare."""
    from agent_storage.migrations.verify.drift import diff, line

    if storage_tables_folder is None:
        pytest.skip("there is no declared schema")
    migrator = Migrator(storage_test_server, storage_migrations_folder)
    server = ShadowServer(storage_test_server, like=None)
    found = diff(migrator, server, "migrations", "schema", storage_tables_folder)
    if found.drift:
        pytest.fail("\n".join(line(finding) for finding in found.drift), pytrace=False)


def test_migrations_are_one_timeline(storage_migrations_folder: Path) -> None:
    """Check that no file comes too late, differs from `migrations.lock`, or breaks a rule of `check --only lint`."""
    found = lint.lint_folder(storage_migrations_folder, read_folder(storage_migrations_folder))
    errors = [str(finding) for finding in found if finding.severity == "error"]
    if errors:
        pytest.fail("\n".join(errors), pytrace=False)
