"""The embedded PostgreSQL, installed by pip: started when the first process uses it, stopped when the last one ends.

For development and single-machine use on Linux and macOS. It listens only on a Unix socket in a private folder, and
authenticates by `peer`: there is no password and no port.
"""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from agent_storage.embedded.account import Account, server_account
from agent_storage.embedded.folders import START_LOCK, default_data_dir, prepare_data_dir
from agent_storage.embedded.identity import server_process
from agent_storage.embedded.locks import LockFile, polls
from agent_storage.embedded.postmaster import (
    CONNECT_TIMEOUT,
    START_TIMEOUT,
    STOP_TIMEOUT,
    Postmaster,
    connection_string,
)
from agent_storage.errors import InvalidSettings, Unavailable, translate

__all__ = ["EmbeddedServer", "ServerStatus", "default_data_dir", "server_status", "shared_server"]


class EmbeddedServer:
    """The server of one data folder, shared by all processes that use it.

    Each process holds a lock while it uses the server, which the kernel releases even after `kill -9`. The last process
    to release stops the server. If the last one is killed, the server continues to run and the next process joins it. A
    forked child is not a user until it starts the server itself.

        with EmbeddedServer(Path("data")) as server:
            connection = psycopg.connect(server.conninfo())

    `progress` is called with a line of text when an operation takes more than 2 s, and then every 5 s. `settings` are
    PostgreSQL parameters for a server that this object starts; a running one keeps its own.
    """

    def __init__(
        self,
        data_dir: Path | None = None,
        *,
        progress: Callable[[str], None] | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        if sys.platform == "win32":
            raise InvalidSettings("the embedded PostgreSQL runs on Linux and macOS only; set STORAGE_DATABASE_URL")
        self.data_dir = _absolute(data_dir)
        self._progress = progress or _say_nothing
        self._settings = dict(settings or {})
        self._users: LockFile | None = None

    def start(self) -> EmbeddedServer:
        """Start the server or join the running one. Idempotent. Restarts a crashed server.

        Waits for at most 300 s, because recovery after a crash may take long. Raises `InvalidSettings` if the folder,
        the account or the installation is unsuitable, `Unavailable` if the server does not start.
        """
        self._serve()
        return self

    def conninfo(self, dbname: str = "storage") -> str:
        """Start the server, create the database `dbname` if it is missing, and return its libpq connection string.

        Raises the errors of `start`.
        """
        folder = self._serve()
        _create_database(folder, dbname)
        return connection_string(folder, dbname)

    def empty_database(self, dbname: str = "storage") -> None:
        """Remove the database `dbname` and create it again, empty. Ends its connections."""
        folder = self._serve()
        _create_database(folder, dbname, empty=True)

    def release(self) -> None:
        """Stop using the server. The last user stops it and waits until it has ended. Idempotent.

        Close connections before, because stopping the server ends them. Called at normal exit of the process, too.
        """
        atexit.unregister(self.release)
        users, self._users = self._users, None
        if users is None:
            return
        with users:
            if users.current:
                account = server_account(self.data_dir)
                # A process that holds the start lock for so long waits for recovery, and will stop the server.
                with suppress(Unavailable), self._start_lock(account, STOP_TIMEOUT):
                    self._leave(users, account)

    def __enter__(self) -> EmbeddedServer:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.release()

    def _serve(self) -> Path:
        """Ensure that the server runs and that this process is a user of it. Return the folder of the socket."""
        account = server_account(self.data_dir)
        prepare_data_dir(self.data_dir, account)
        try:
            with self._start_lock(account, START_TIMEOUT):
                if self._users is not None and self._users.current:
                    return self._postmaster(account).run(self._users)
                return self._join(account)
        except OSError as error:
            raise Unavailable(f"the embedded PostgreSQL in {self.data_dir} cannot be used: {error}") from error

    def _join(self, account: Account) -> Path:
        users = LockFile(self.data_dir / "users", account)
        try:
            users.share()
            folder = self._postmaster(account).run(users)
        except BaseException as error:
            # A slow server keeps running, so that its recovery is complete at the next try; Ctrl-C stops it.
            if not isinstance(error, Unavailable):
                self._leave(users, account)
            users.close()
            raise
        self._users = users
        atexit.register(self.release)
        return folder

    def _leave(self, users: LockFile, account: Account) -> None:
        if users.claim():
            self._postmaster(account).stop()

    def _postmaster(self, account: Account) -> Postmaster:
        return Postmaster(self.data_dir, account, self._settings, self._progress)

    @contextmanager
    def _start_lock(self, account: Account, seconds: float) -> Generator[None]:
        """Let only one process, and only one thread of it, start or stop the server at a time."""

        def report() -> None:
            self._progress("waiting for another process that starts or stops the embedded PostgreSQL…")

        with LockFile(self.data_dir / START_LOCK, account) as lock:
            for _ in polls(seconds, report):
                if lock.claim():
                    yield
                    return
        raise Unavailable(f"another process is still starting or stopping the embedded PostgreSQL in {self.data_dir}")


def _say_nothing(_line: str) -> None: ...


def shared_server(data_dir: Path | None = None, progress: Callable[[str], None] | None = None) -> EmbeddedServer:
    """Start and return the server of this process for `data_dir` (default: `default_data_dir()`).

    It is released at exit of the process. Raises the errors of `EmbeddedServer.start`.
    """
    new = EmbeddedServer(data_dir, progress=progress)
    return _shared.setdefault(new.data_dir, new).start()


_shared: dict[Path, EmbeddedServer] = {}


@dataclass(frozen=True)
class ServerStatus:
    """The state of a data folder. `size` is in bytes, `version` is the major version of PostgreSQL."""

    data_dir: Path
    running: bool
    pid: int | None
    version: str | None
    size: int


def server_status(data_dir: Path | None = None) -> ServerStatus:
    """Return the state of `data_dir` (default: `default_data_dir()`) without starting its server."""
    folder = _absolute(data_dir)
    process = server_process(folder / "cluster")
    version = None
    with suppress(OSError):
        version = (folder / "cluster" / "PG_VERSION").read_text().strip()
    return ServerStatus(
        data_dir=folder,
        running=process is not None,
        pid=process.pid if process else None,
        version=version,
        size=sum(_size(file) for parent, _, files in os.walk(folder) for file in map(Path(parent).joinpath, files)),
    )


def _size(file: Path) -> int:
    try:
        return file.lstat().st_size
    except FileNotFoundError:  # a running server removes files
        return 0


def _absolute(data_dir: Path | None) -> Path:
    return (data_dir or default_data_dir()).expanduser().resolve()


def _create_database(folder: Path, dbname: str, *, empty: bool = False) -> None:
    import psycopg
    from psycopg.errors import DuplicateDatabase, UniqueViolation
    from psycopg.sql import SQL, Identifier

    try:
        with psycopg.connect(
            connection_string(folder, "postgres"), autocommit=True, connect_timeout=CONNECT_TIMEOUT
        ) as connection:
            if empty:
                connection.execute(SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(Identifier(dbname)))
            exists = connection.execute("SELECT FROM pg_database WHERE datname = %s", [dbname]).fetchone()
            if exists is None:
                # Another process may create it at the same time, which gives one of two errors.
                with suppress(DuplicateDatabase, UniqueViolation):
                    connection.execute(SQL("CREATE DATABASE {}").format(Identifier(dbname)))
    except psycopg.Error as error:
        raise translate(error) from error
