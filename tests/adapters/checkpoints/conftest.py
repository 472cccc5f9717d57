"""Providers on every database: PostgreSQL, an SQLite file, and MariaDB or the MySQL of STORAGE_TEST_MYSQL_URL."""

from __future__ import annotations

import os
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import pytest

from agent_storage import Storage
from agent_storage.adapters.checkpoints import CheckpointProviders, PostgresCheckpoints
from agent_storage.adapters.checkpoints.engines.mysql import Mysql
from agent_storage.sync.adapters import checkpoints as sync_adapters

from ...conftest import Awaitable
from . import mariadb

#: Read here, because the tests run without settings of the developer's shell.
GIVEN = os.environ.get("STORAGE_TEST_MYSQL_URL")

ENGINES = ("postgres", "sqlite", "mysql")
PROVIDERS = ("postgres", "several", "postgres-sync", "sqlite", "sqlite-sync", "mysql", "mysql-sync")


@pytest.fixture(scope="session")
def mysql_server(_environment: None) -> Iterator[str]:
    """The URL of a server, on which the user may create databases."""
    pytest.importorskip("pymysql", reason="PyMySQL is not installed")
    if GIVEN:
        yield GIVEN
        return
    if program := mariadb.missing():
        pytest.skip(f"{program} is not installed; apt install mariadb-server, or set STORAGE_TEST_MYSQL_URL")
    with mariadb.server() as url:
        yield url


@pytest.fixture
def mysql_url(mysql_server: str) -> Iterator[str]:
    """An empty database of the test's own."""
    name = f"test_{uuid4().hex[:12]}"
    server = Mysql(mysql_server)
    server.open()
    server.read(f"CREATE DATABASE {name}", ())
    try:
        yield re.sub(r"/" + re.escape(urlsplit(mysql_server).path.lstrip("/")) + r"(?=\?|$)", f"/{name}", mysql_server)
    finally:
        server.read(f"DROP DATABASE {name}", ())
        server.close()


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'agents.db'}"


@pytest.fixture
def url_of(request: pytest.FixtureRequest) -> Any:
    """Return the URL of an empty database of an engine, or a migrated one of PostgreSQL."""
    names = {"postgres": "migrated", "sqlite": "sqlite_url", "mysql": "mysql_url"}
    return lambda engine: request.getfixturevalue(names[engine])


@pytest.fixture(params=PROVIDERS)
async def provider(request: pytest.FixtureRequest, url_of: Any) -> AsyncIterator[Any]:
    engine, _, face = request.param.partition("-")
    if engine == "postgres" and not face:
        async with Storage(url_of(engine), pool_max=20) as storage:
            yield PostgresCheckpoints(storage)
    elif face:
        with sync_adapters.CheckpointProviders({"main": url_of(engine)}) as providers:
            assert isinstance(providers, sync_adapters.CheckpointProvider)
            yield Awaitable(providers)
    else:
        async with CheckpointProviders({"main": url_of("postgres" if engine == "several" else engine)}) as providers:
            yield providers


@pytest.fixture(params=("sqlite", "mysql"))
def other_url(request: pytest.FixtureRequest, url_of: Any) -> str:
    """An empty database that is not PostgreSQL."""
    return url_of(request.param)
