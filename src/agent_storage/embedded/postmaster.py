"""The PostgreSQL processes of one data folder: create the cluster, start or join the server, stop it.

Every process of the server has the log file as its output, and with it the lock on that file. So a free lock proves
that none of them is running, and a held one that some are, without relying on process ids, which are reused. All of
this runs under the start lock of the data folder.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from agent_storage.embedded.account import Account
from agent_storage.embedded.binaries import program_folder
from agent_storage.embedded.folders import prepare_socket_folder, remove_socket_folder, socket_folder, socket_path
from agent_storage.embedded.identity import PidFile, server_process, verified
from agent_storage.embedded.locks import LockFile, polls
from agent_storage.errors import InvalidSettings, Unavailable

#: Seconds: a start may recover from a crash, a stop writes a checkpoint, and a server whose status is "ready" rejects
#: connections only briefly.
START_TIMEOUT = 300.0
STOP_TIMEOUT = 60.0
REFUSAL_TIMEOUT = 15.0
CONNECT_TIMEOUT = 10

_LARGEST_LOG = 10 * 1024 * 1024
_FIRST_LINE = "starting PostgreSQL"

_DEFAULTS = {
    "max_connections": "200",
    "shared_buffers": "128MB",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "lc_messages": "C",
    "log_checkpoints": "off",
    "log_startup_progress_interval": "5s",
    "cluster_name": "agent-storage",
}


#: The folder of a copied cluster, until the old one has been renamed.
UPGRADED = "cluster.upgraded"


class _Server(subprocess.Popen[bytes]):
    """A child that may outlive this process, so that deleting the object must not give a ResourceWarning."""

    def __del__(self) -> None:
        pass


_children: list[_Server] = []


def _reap() -> None:
    """Reap children that have ended, which would remain zombies until this process ends."""
    _children[:] = [child for child in _children if child.poll() is None]


class Postmaster:
    """Start, join and stop the server of `data_dir`. `settings` apply to a server that this object starts."""

    def __init__(
        self,
        data_dir: Path,
        account: Account,
        settings: Mapping[str, str],
        progress: Callable[[str], None],
        programs: Path | None = None,
    ) -> None:
        self._programs = programs
        self._data_dir = data_dir
        self._account = account
        self._settings = settings
        self._progress = progress
        self._cluster = data_dir / "cluster"
        self._log = data_dir / "server.log"
        self._launched = False

    def run(self, users: LockFile) -> Path:
        """Start the server or join the running one, wait until it accepts connections, and return its socket folder.

        Raises `Unavailable` if it does not start. A server that is still recovering continues to run.
        """
        for _ in polls(START_TIMEOUT, self._report):
            with LockFile(self._log, self._account) as log:
                if log.claim():
                    self._launch(log)
                    continue
            folder = self._serving(users)
            if folder is not None:
                return folder
        raise Unavailable(
            f"the embedded PostgreSQL in {self._data_dir} does not accept connections after {START_TIMEOUT:.0f} s; "
            f"it may still be recovering, or processes of an earlier server have not ended: see {self._log}"
        )

    def stop(self) -> None:
        """Stop the server, if it runs, by a fast shutdown, which closes connections and loses no committed data.

        Waits for at most `STOP_TIMEOUT` seconds; a slower server ends later.
        """
        asked = False
        with LockFile(self._log, self._account) as log:
            for _ in polls(STOP_TIMEOUT, lambda: self._progress("stopping the embedded PostgreSQL…")):
                if log.claim():
                    _reap()
                    with suppress(OSError, InvalidSettings):  # removing the folder is optional
                        remove_socket_folder(socket_folder(self._cluster, self._account), self._account)
                    return
                asked = asked or self._ask_to_stop()

    def _ask_to_stop(self) -> bool:
        import psutil

        process = server_process(self._cluster)
        if process is not None:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGINT)  # psutil checks that the id was not reused
        return process is not None

    # Joining

    def _serving(self, users: LockFile) -> Path | None:
        """Return the socket folder if the server accepts connections, else `None`."""
        import psycopg

        error: Exception | None = None
        for _ in polls(REFUSAL_TIMEOUT, self._report):
            note = PidFile.read(self._cluster)
            if note is None or note.status != "ready" or server_process(self._cluster) is None:
                return None
            if not socket_path(note.socket_folder).exists():
                self._stop_unreachable(note, users)
                return None
            try:
                psycopg.connect(
                    connection_string(note.socket_folder, "postgres"), connect_timeout=CONNECT_TIMEOUT
                ).close()
                return note.socket_folder
            except psycopg.OperationalError as refused:
                error = refused
        raise Unavailable(f"the embedded PostgreSQL in {self._data_dir} refuses connections: {error}") from error

    def _stop_unreachable(self, note: PidFile, users: LockFile) -> None:
        """Stop a server whose socket was removed, unless other processes use it."""
        alone = users.claim()
        if alone:
            self.stop()
        users.share()
        if not alone:
            raise Unavailable(
                f"the embedded PostgreSQL in {self._data_dir} runs (process {note.pid}), but its socket folder "
                f"{note.socket_folder} was removed or is private to the service that started it; stop the other "
                "programs that use it and try again"
            )

    # Starting

    def _launch(self, log: LockFile) -> None:
        if self._launched:
            raise Unavailable(f"the embedded PostgreSQL did not start; the end of {self._log}:\n{self._last_run()}")
        self._forget_dead_server()
        if os.fstat(log.fd).st_size > _LARGEST_LOG:
            os.ftruncate(log.fd, 0)
        programs = self._programs or program_folder(self._account)
        self._check_version(programs)
        if not self._cluster.exists():
            self._create_cluster(programs, log)
        self._write_access_rules()
        self._spawn([programs / "postgres", "-D", self._cluster, *self._options()], log)
        self._launched = True

    def _check_version(self, programs: Path) -> None:
        """Raise `InvalidSettings` for a cluster of another major version, which these programs cannot open."""
        made_by = cluster_version(self._data_dir)
        if made_by is not None and made_by != (installed := program_version(programs)):
            raise InvalidSettings(
                f"the data folder {self._data_dir} was made by PostgreSQL {made_by}, and PostgreSQL {installed} is "
                "installed, which cannot open it; nothing was changed. Copy the data, with the programs of "
                f"PostgreSQL {made_by}: python -m agent_storage.embedded.upgrade {self._data_dir} "
                f"/usr/lib/postgresql/{made_by}/bin; or set STORAGE_DATA_DIR to a new folder"
            )

    def _forget_dead_server(self) -> None:
        """Remove a stale `postmaster.pid`: PostgreSQL trusts its process id, even if another program has it now."""
        import psutil

        pid_file = self._cluster / "postmaster.pid"
        if not pid_file.exists():
            return
        named = [process for process in psutil.process_iter(["name"]) if process.info["name"] == "postgres"]
        for process in named:
            if verified(process, self._cluster):
                raise Unavailable(
                    f"a PostgreSQL that agent-storage did not start (process {process.pid}) uses {self._cluster}; "
                    "stop it and try again"
                )
        pid_file.unlink(missing_ok=True)

    def _create_cluster(self, programs: Path, log: LockFile) -> None:
        """Create the cluster under another name and rename it, so that an interrupted `initdb` leaves no cluster.

        The cluster of an upgrade that was interrupted is put in its place instead.
        """
        if (self._data_dir / UPGRADED).is_dir():
            (self._data_dir / UPGRADED).rename(self._cluster)
            sync_folder(self._data_dir)
            return
        partial = self._data_dir / "cluster.partial"
        shutil.rmtree(partial, ignore_errors=True)
        process = self._spawn([programs / "initdb", "-D", partial, *self._initdb_options()], log)
        try:
            for _ in polls(START_TIMEOUT, lambda: self._progress(f"creating a database cluster in {self._data_dir}…")):
                if process.poll() is not None:
                    break
            if process.returncode != 0:
                raise Unavailable(f"initdb failed in {self._data_dir}; the end of {self._log}:\n{self._last_run()}")
            partial.rename(self._cluster)
            sync_folder(self._data_dir)
        finally:
            process.kill()
            process.wait()

    def _initdb_options(self) -> list[str]:
        locale = ["--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        access = ["--username=postgres", "--auth-local=peer", "--auth-host=reject"]
        durable = [] if self._settings.get("fsync") != "off" else ["--no-sync"]
        return [*locale, *access, *durable, "--no-instructions"]

    def _options(self) -> list[str]:
        folder = socket_folder(self._cluster, self._account)
        # A crash leaves a lock file beside the socket, with a process id that another program may have now.
        remove_socket_folder(folder, self._account)
        prepare_socket_folder(folder, self._account)
        quoted = str(folder).replace('"', '""')
        fixed = {
            "listen_addresses": "",
            "port": "5432",
            "unix_socket_directories": f'"{quoted}"',
            "unix_socket_permissions": "0700",
            "hba_file": str(self._data_dir / "pg_hba.conf"),
            "ident_file": str(self._data_dir / "pg_ident.conf"),
        }
        values = {**_DEFAULTS, **self._settings, **fixed}
        return [argument for name, value in values.items() for argument in ("-c", f"{name}={value}")]

    def _write_access_rules(self) -> None:
        """Write pg_hba.conf and pg_ident.conf: `peer` authentication of the server's account and root."""
        users = dict.fromkeys([self._account.name, "root"])
        rules = {
            "pg_hba.conf": "local all         all peer map=owner\nlocal replication all peer map=owner\n",
            # Before PostgreSQL 16, `all` is not every role but one of that name.
            "pg_ident.conf": "".join(f'owner "{name}" all\nowner "{name}" postgres\n' for name in users),
        }
        for name, text in rules.items():
            with os.fdopen(
                self._account.open(self._data_dir / name, os.O_WRONLY | os.O_TRUNC), "w", encoding="utf-8"
            ) as file:
                file.write(text)

    def _spawn(self, arguments: list[str | Path], log: LockFile) -> _Server:
        """Run a PostgreSQL program as the account, in a new session and with a minimal environment."""
        kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
        _reap()
        try:
            process = _Server(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=log.fd,
                stderr=log.fd,
                cwd="/",
                env={**kept, "LC_ALL": "C", "TZ": "UTC"},
                start_new_session=True,
                user=self._account.user,
                group=self._account.group,
                extra_groups=self._account.extra_groups,
                umask=0o077,
            )
        except OSError as error:
            raise Unavailable(
                f"{arguments[0]} cannot be run as {self._account.name}: {error.strerror}; "
                "run as another user or set STORAGE_DATABASE_URL"
            ) from error
        _children.append(process)
        return process

    # Progress

    def _report(self) -> None:
        text = self._last_run()
        last = text.rpartition("\n")[2].rpartition("LOG:  ")[2]
        if server_process(self._cluster) is None and not self._launched:
            self._progress("waiting for the processes of an ended PostgreSQL server…")
        elif re.search("redo|recovery", text):
            self._progress(f"recovering after a crash… ({last})")
        else:
            self._progress(f"starting PostgreSQL… ({last})")

    def _last_run(self) -> str:
        """Return the end of the log, beginning with the last start."""
        with LockFile(self._log, self._account) as log:
            size = os.fstat(log.fd).st_size
            text = os.pread(log.fd, 16_384, max(0, size - 16_384)).decode(errors="replace").strip()
        return text[max(0, text.rfind(_FIRST_LINE)) :]


def cluster_version(data_dir: Path) -> str | None:
    """Return the major version of PostgreSQL that made the cluster of `data_dir`, or None if there is none."""
    try:
        return (data_dir / "cluster" / "PG_VERSION").read_text().strip()
    except OSError:
        return None


def program_version(programs: Path) -> str:
    """Return the major version of PostgreSQL's programs in a folder. Raises `InvalidSettings` if there are none."""
    try:
        command = [programs / "postgres", "--version"]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout  # noqa: S603
    except (OSError, subprocess.CalledProcessError) as error:
        raise InvalidSettings(f"there is no program `postgres` that runs in {programs}: {error}") from error
    return told.split()[2].split(".")[0]


def sync_folder(folder: Path) -> None:
    """Write the names in a folder to the disk.

    Otherwise a power failure could undo a rename, and the next start would delete the cluster as unfinished.
    """
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def connection_string(folder: Path, dbname: str) -> str:
    """Return the connection string of the database `dbname` through the socket in `folder`."""
    from psycopg.conninfo import make_conninfo

    # The port is named because PGPORT would change it.
    return make_conninfo(host=str(folder), port="5432", user="postgres", dbname=dbname)
