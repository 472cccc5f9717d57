"""A real PostgreSQL for every test: the embedded server, started once, or the one of STORAGE_TEST_DATABASE_URL.

`database` is an empty database of the test's own; `migrated` is a clone of a template that was migrated once, and
`storage` and `sync_storage` are open on it. `face` is both, one after the other, awaited alike.
"""

from __future__ import annotations

import base64
import os
import shutil
import signal
import tempfile
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from pytest_postgresql import factories

import agent_storage
from agent_storage import sync
from agent_storage.embedded import EmbeddedServer
from agent_storage.migrations.migrator import Migrator

SECRET_KEY = base64.b64encode(bytes(range(32))).decode()
#: `STORAGE_TEST_PATH=unprepared` runs the suite without prepared statements, `=pool` without shared connections.
PATH: dict[str, Any] = {"unprepared": {"prepare": False}, "pool": {"multiplex": 0}}.get(
    os.environ.get("STORAGE_TEST_PATH", ""), {}
)
UNSAFE_BUT_FAST = {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off"}


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Tests wait for a server half of their time, so two share a core."""
    return min(8, 2 * (os.cpu_count() or 1))


@pytest.fixture(scope="session", autouse=True)
def _environment() -> Iterator[None]:
    """No setting of the developer's shell reaches a test."""
    patch = pytest.MonkeyPatch()
    for name in [name for name in os.environ if name.startswith("STORAGE_") and name != "STORAGE_TEST_DATABASE_URL"]:
        patch.delenv(name)
    patch.delenv("DATABASE_URL", raising=False)
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as a shell's background jobs have it; Ctrl-C is tested
        signal.signal(signal.SIGINT, signal.default_int_handler)
    patch.setenv("STORAGE_SECRET_KEY", SECRET_KEY)
    yield
    patch.undo()


@pytest.fixture(scope="session")
def server_conninfo(_environment: None) -> Iterator[str]:
    """The maintenance database of a superuser."""
    url = os.environ.get("STORAGE_TEST_DATABASE_URL")
    if url:
        yield make_conninfo(url)
        return
    folder = Path(tempfile.mkdtemp(prefix="storage-tests-"))
    folder.chmod(0o755)  # as root, the server runs under another account, which has to get to its own folder inside
    try:
        with EmbeddedServer(folder / "server", settings=UNSAFE_BUT_FAST) as server:
            yield server.conninfo("postgres")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def fresh_database(server_conninfo: str) -> Iterator[str]:
    """An empty database, dropped at the end."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(server_conninfo, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(sql.Identifier(name)))
    try:
        yield make_conninfo(server_conninfo, dbname=name)
    finally:
        with psycopg.connect(server_conninfo, autocommit=True) as connection:
            connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def database(server_conninfo: str) -> Iterator[str]:
    """An empty database of the test's own."""
    with fresh_database(server_conninfo) as conninfo:
        yield conninfo


@dataclass
class Server:
    """What pytest-postgresql wants to know of a server that is already there."""

    host: str
    port: str
    user: str
    password: str | None
    maintenance_dbname: str
    options: str = ""
    template_dbname: str | None = None


@pytest.fixture(scope="session")
def postgresql_server(server_conninfo: str) -> Server:
    parts = conninfo_to_dict(server_conninfo)
    text = {name: str(value) for name, value in parts.items()}
    return Server(
        text.get("host", ""),
        text.get("port", "5432"),
        text.get("user", "postgres"),
        text.get("password"),
        text.get("dbname", "postgres"),
    )


def migrate(*, host: str, port: str | int, user: str, dbname: str, password: str | None, **_: Any) -> None:
    """Bring the template database to head."""
    Migrator(make_conninfo(host=host, port=port, user=user, dbname=dbname, password=password)).up()


migrated_template = factories.postgresql_noproc(depends_on="postgresql_server", load=[migrate], dbname="storage_tests")
postgresql = factories.postgresql("migrated_template")


@pytest.fixture
def migrated(postgresql: psycopg.Connection, server_conninfo: str) -> Iterator[str]:
    """A database at head, cloned for the test."""
    return make_conninfo(server_conninfo, dbname=postgresql.info.dbname)


@pytest.fixture(scope="session")
def seeded_database(server_conninfo: str) -> Iterator[str]:
    """A database at head with the rows of demo seed 1, for tests that only read."""
    from agent_storage.demo import seed_demo

    with fresh_database(server_conninfo) as conninfo:
        Migrator(conninfo).up()
        with sync.Storage(conninfo) as opened:
            seed_demo(opened)
        yield conninfo


@pytest.fixture
async def storage(migrated: str) -> AsyncIterator[agent_storage.Storage]:
    async with agent_storage.Storage(migrated, pool_max=20, **PATH) as opened:
        yield opened


@pytest.fixture
def sync_storage(migrated: str) -> Iterator[sync.Storage]:
    with sync.Storage(migrated, pool_max=20, **PATH) as opened:
        yield opened


class Awaitable:
    """The sync face behind `await`, so that one test runs on both."""

    def __init__(self, target: Any) -> None:
        self._target = target

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._target, name)
        if not callable(found):
            return Awaitable(found)

        async def call(*args: Any, **kwargs: Any) -> Any:
            return found(*args, **kwargs)

        return call


@pytest.fixture(params=["async", "sync"])
def face(request: pytest.FixtureRequest) -> Any:
    """A storage whose repositories are awaited, on either face."""
    if request.param == "async":
        return request.getfixturevalue("storage")
    return Awaitable(request.getfixturevalue("sync_storage"))
