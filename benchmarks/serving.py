"""A server for benchmarks: an embedded PostgreSQL in a temporary folder, and a description of the machine."""

from __future__ import annotations

import os
import platform as system
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import psycopg

from agent_storage.embedded import EmbeddedServer
from agent_storage.migrations.migrator import Migrator


@contextmanager
def a_database(settings: Mapping[str, str] | None = None) -> Iterator[str]:
    """The connection string of a migrated database, on a server that ends with the block."""
    with tempfile.TemporaryDirectory(prefix="storage-bench-") as folder:
        Path(folder).chmod(0o755)  # as root, the server runs under another account
        with EmbeddedServer(Path(folder) / "data", settings=settings) as server:
            conninfo = server.conninfo("bench")
            Migrator(conninfo).up()
            yield conninfo


def machine(conninfo: str) -> dict[str, str]:
    """Return the date, the versions, the server's settings and the processor, to be printed with the figures."""
    with psycopg.connect(conninfo) as connection:
        row = connection.execute("SELECT current_setting('server_version'), current_setting('synchronous_commit')")
        server, commit = row.fetchone() or ("?", "?")
    date, *others = platform().items()
    return dict([date, ("postgresql", server), ("synchronous_commit", commit), *others])


def platform() -> dict[str, str]:
    """The same where there is no server yet."""
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "python": system.python_version(),
        "agent-storage": version("agent-storage"),
        "psycopg": f"{version('psycopg')} ({psycopg.pq.__impl__})",
        "pydantic": version("pydantic"),
        "cores": str(os.cpu_count()),
        "system": f"{system.system()} {system.machine()}",
    }
