"""The PostgreSQL that pip installed: started when the first process needs it, stopped when the last has ended.

For development and single-machine use. It listens on a Unix socket only, in a private folder, and knows its users by
what the kernel says of them: there is no password and no port. Linux and macOS.
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

    Each process holds a lock for as long as it uses the server, which even `kill -9` frees, and whoever is last to
    release stops it; if the last one is killed, the server runs on for the next to join. A forked child is not a user
    until it starts the server itself.

        with EmbeddedServer(Path("data")) as server:
            connection = psycopg.connect(server.conninfo())

    `progress` is called with a line for people when something takes more than 2 s, and then each 5 s. `settings` are
    PostgreSQL's, for a server that this object starts; a running one keeps its own.
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
        """Start the server or join the one that runs; idempotent, and starts it again if it has crashed.

        Waits for at most 300 s, because a crash may have left much to recover. Raises `InvalidSettings` when the
        folder, the account or the installation cannot serve, `Unavailable` when the server does not come up.
        """
        self._serve()
        return self

    def conninfo(self, dbname: str = "storage") -> str:
        """The libpq connection string of the database `dbname`, which is created if missing; starts the server.

        Raises what `start` does.
        """
        folder = self._serve()
        _create_database(folder, dbname)
        return connection_string(folder, dbname)

    def release(self) -> None:
        """Stop using the server; the last user ends it, and waits for that. Idempotent.

        Connections that are still open are cut by that; close them before. Called at the process's normal end, too.
        """
        atexit.unregister(self.release)
        users, self._users = self._users, None
        if users is None:
            return
        with users:
            if users.current:
                account = server_account(self.data_dir)
                # Who keeps the start lock for so long waits for a recovery, and will be the one to stop the server.
                with suppress(Unavailable), self._start_lock(account, STOP_TIMEOUT):
                    self._leave(users, account)

    def __enter__(self) -> EmbeddedServer:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.release()

    def _serve(self) -> Path:
        """See that the server runs and that this process is a user of it; gives the socket's folder."""
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
            # A server that is late goes on, so that the next try finds its recovery done; Ctrl-C means to stop it.
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
        """Only one process at a time starts or stops the server; also one thread, as each opens the file anew."""

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
    """This process's server for `data_dir` (default: `default_data_dir()`), started; it ends with the process.

    Raises what `EmbeddedServer.start` does.
    """
    new = EmbeddedServer(data_dir, progress=progress)
    return _shared.setdefault(new.data_dir, new).start()


_shared: dict[Path, EmbeddedServer] = {}


@dataclass(frozen=True)
class ServerStatus:
    """What is known of a data folder without starting its server. `size` is in bytes, `version` PostgreSQL's major."""

    data_dir: Path
    running: bool
    pid: int | None
    version: str | None
    size: int


def server_status(data_dir: Path | None = None) -> ServerStatus:
    """Whether the server of `data_dir` (default: `default_data_dir()`) runs, and what its folder holds."""
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


def _create_database(folder: Path, dbname: str) -> None:
    import psycopg
    from psycopg.errors import DuplicateDatabase, UniqueViolation
    from psycopg.sql import SQL, Identifier

    try:
        with psycopg.connect(
            connection_string(folder, "postgres"), autocommit=True, connect_timeout=CONNECT_TIMEOUT
        ) as connection:
            exists = connection.execute("SELECT FROM pg_database WHERE datname = %s", [dbname]).fetchone()
            if exists is None:
                # Another process may do the same: the server has two ways to say so.
                with suppress(DuplicateDatabase, UniqueViolation):
                    connection.execute(SQL("CREATE DATABASE {}").format(Identifier(dbname)))
    except psycopg.Error as error:
        raise translate(error) from error
