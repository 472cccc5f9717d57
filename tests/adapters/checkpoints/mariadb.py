"""A MariaDB of Debian's packages in a temporary folder, for the tests and the benchmark of checkpoints.

`python -m tests.adapters.checkpoints.mariadb` starts one until it is interrupted, and prints its URL.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROGRAMS = ("mariadbd", "mariadb-install-db")
#: A test survives no crash of its server.
UNSAFE_BUT_FAST = ["--innodb-flush-log-at-trx-commit=0", "--innodb-flush-method=nosync", "--innodb-doublewrite=0"]
#: Programs of servers are outside the PATH of an ordinary account.
_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"
_STARTS = 60.0


def missing() -> str | None:
    """Return the first program that is not installed, or None."""
    return next((name for name in PROGRAMS if shutil.which(name, path=_PATH) is None), None)


def _account() -> list[str]:
    """As root, the server runs under another account."""
    if os.geteuid() != 0:
        return []
    known = {entry.pw_name for entry in pwd.getpwall()}
    return [f"--user={next(name for name in ('mysql', 'nobody') if name in known)}"]


@contextmanager
def server(*options: str, fast: bool = True) -> Iterator[str]:
    """Yield the URL of the database `test` of a new server, which is stopped and removed at the end."""
    folder = Path(tempfile.mkdtemp(prefix="mariadb-tests-"))
    folder.chmod(0o755)
    data, socket = folder / "data", folder / "sock"
    account = _account()
    data.mkdir()
    if account:
        shutil.chown(folder, account[0].removeprefix("--user="))
        shutil.chown(data, account[0].removeprefix("--user="))
    log = (folder / "log").open("wb")
    install = ["mariadb-install-db", "--no-defaults", f"--datadir={data}", "--auth-root-authentication-method=normal"]
    environment = {**os.environ, "PATH": _PATH}
    process = None
    try:
        subprocess.run(
            [*install, "--skip-test-db", *account], check=True, stdout=log, stderr=log, env=environment, cwd=folder
        )
        start = ["mariadbd", "--no-defaults", f"--datadir={data}", f"--socket={socket}", "--skip-networking"]
        start += [
            f"--pid-file={folder / 'pid'}",
            "--innodb-buffer-pool-size=64M",
            "--innodb-use-native-aio=0",
            *account,
            *options,
        ]
        start += UNSAFE_BUT_FAST if fast else []
        process = subprocess.Popen(start, stdout=log, stderr=log, env=environment, cwd=folder)
        _wait(process, socket, folder / "log")
        url = f"mysql://root@localhost/test?unix_socket={socket}"
        _create(socket, "test")
        yield url
    finally:
        if process is not None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(_STARTS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        log.close()
        shutil.rmtree(folder, ignore_errors=True)


def _wait(process: subprocess.Popen[bytes], socket: Path, log: Path) -> None:
    import pymysql

    until = time.monotonic() + _STARTS
    while not socket.exists() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.05)  # a new server has nothing else to wait for
    while True:
        try:
            pymysql.connect(unix_socket=str(socket), user="root").close()
            return
        except pymysql.err.OperationalError:
            if process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"MariaDB did not start:\n{log.read_text('utf-8', 'replace')[-3000:]}") from None
            time.sleep(0.05)


def _create(socket: Path, name: str) -> None:
    import pymysql

    connection = pymysql.connect(unix_socket=str(socket), user="root")
    with connection, connection.cursor() as cursor:
        cursor.execute(f"CREATE DATABASE {name}")


if __name__ == "__main__":
    with server() as url:
        print(url, flush=True)  # noqa: T201
        signal.pause()
