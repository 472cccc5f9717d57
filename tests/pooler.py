"""A real PgBouncer before the server of the tests, in session, transaction or statement mode."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

PGBOUNCER = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
#: Time limits of a start, in seconds.
PATIENCE = 30.0


class PgBouncer:
    """One PgBouncer, on the same port whenever it is started. `conninfo` leads through it."""

    def __init__(self, folder: Path, conninfo: str, mode: str, settings: str = "") -> None:
        server = {name: str(value) for name, value in conninfo_to_dict(conninfo).items()}
        self._account = _account_of(server.get("host", ""))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self._ini = folder / "pgbouncer.ini"
        target = make_conninfo("", **{name: server[name] for name in ("host", "port", "password") if name in server})
        user = server.get("user", "postgres")
        self._ini.write_text(
            f"[databases]\n* = {target} user={user}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n"
            f"unix_socket_dir =\nauth_type = any\npool_mode = {mode}\nlogfile = {folder}/log\n"
            f"default_pool_size = 5\nserver_lifetime = 60\n{settings}\n"
        )
        folder.chmod(0o777)  # PgBouncer writes its log there, as another account
        self._ini.chmod(0o644)
        self.conninfo = make_conninfo(
            "", host="127.0.0.1", port=port, user=user, dbname=server.get("dbname", "postgres"), sslmode="disable"
        )
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until a query passes. Skips the test if PgBouncer does not reach the server."""
        assert PGBOUNCER is not None
        self._process = process = subprocess.Popen(
            [PGBOUNCER, str(self._ini)], user=self._account, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + PATIENCE
        while not self._answers():
            if process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                pytest.skip("pgbouncer cannot reach this server")
            time.sleep(0.02)

    def _answers(self) -> bool:
        try:
            with psycopg.connect(self.conninfo, connect_timeout=3, autocommit=True) as connection:
                return connection.execute("SELECT 1").fetchone() == (1,)
        except psycopg.OperationalError:
            return False

    def kill(self) -> None:
        """End it with SIGKILL. Idempotent."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@contextmanager
def pgbouncer(conninfo: str, mode: str = "transaction", settings: str = "") -> Iterator[PgBouncer]:
    """A running PgBouncer. Skips the test where the program is not installed."""
    if PGBOUNCER is None:
        pytest.skip("the program pgbouncer is not installed")
    with tempfile.TemporaryDirectory(prefix="bouncer") as folder:
        pooler = PgBouncer(Path(folder), conninfo, mode, settings)
        try:
            pooler.start()
            yield pooler
        finally:
            pooler.kill()


def _account_of(folder: str) -> int | None:
    """The account of the server, which can reach its socket: PgBouncer refuses to run as root."""
    if os.getuid() != 0:
        return None
    sockets = list(Path(folder).glob(".s.PGSQL.*[0-9]")) if folder.startswith("/") else []
    return (sockets[0].stat().st_uid if sockets else 0) or 65534
