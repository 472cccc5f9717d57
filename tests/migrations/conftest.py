"""Fixtures for the tests of the migration manager: a folder to write migrations into, and the command line."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import pytest
from typer.testing import CliRunner

from agent_storage.cli import app

COMMAND = [sys.executable, "-m", "agent_storage.cli", "migrate"]


@dataclass
class Folder:
    """A folder of migrations."""

    path: Path

    def write(self, name: str, up: str, down: str | None = "SELECT 1;") -> str:
        """A migration; without `down` it gets no rollback file."""
        (self.path / f"{name}.sql").write_text(up, "utf-8")
        if down is not None:
            (self.path / f"{name}.rollback.sql").write_text(down, "utf-8")
        return name

    def table(self, name: str, table: str) -> str:
        """A migration that makes a table and takes it back."""
        return self.write(name, f"CREATE TABLE {table} (id int PRIMARY KEY);\n", f"DROP TABLE {table};\n")

    def remove(self, name: str) -> None:
        (self.path / f"{name}.sql").unlink()
        (self.path / f"{name}.rollback.sql").unlink(missing_ok=True)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    path = tmp_path / "my migrations"
    path.mkdir()
    return Folder(path)


@pytest.fixture
def connection(database: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(database, autocommit=True) as opened:
        yield opened


def _heed_interrupts() -> None:
    """A test run in the background of a shell ignores SIGINT, and hands that down."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@dataclass
class Command:
    """`storage migrate …` on one database and folder."""

    conninfo: str
    folder: Path
    _running: list[subprocess.Popen[str]] = field(default_factory=list)

    def start(self, command: str, *arguments: str) -> subprocess.Popen[str]:
        """Start it as a process of its own and go on."""
        process = subprocess.Popen(
            [*COMMAND, command, *arguments, "--db", self.conninfo, "--folder", str(self.folder)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
            preexec_fn=_heed_interrupts,
        )
        self._running.append(process)
        return process

    def __call__(self, command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run it to its end, in this process."""
        call = ["migrate", command, *arguments, "--db", self.conninfo, "--folder", str(self.folder)]
        ended = CliRunner().invoke(app, call, prog_name="storage")
        if ended.exception is not None and not isinstance(ended.exception, SystemExit):
            raise ended.exception
        return subprocess.CompletedProcess(call, ended.exit_code, ended.stdout, ended.stderr)

    def stop(self) -> None:
        for process in self._running:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
            process.communicate()


@pytest.fixture
def migrate(database: str, folder: Folder) -> Iterator[Command]:
    command = Command(database, folder.path)
    yield command
    command.stop()


def until(condition: Callable[[], object], seconds: float = 20) -> None:
    """Wait for a condition."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition did not come true"
        time.sleep(0.01)


def tables(connection: psycopg.Connection) -> set[str]:
    """The tables that migrations have made."""
    rows = connection.execute(
        "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'"
        " AND relname !~ '^(_yoyo|yoyo_lock|_storage)'"
    )
    return {row[0] for row in rows}


@pytest.fixture
def role(database: str, connection: psycopg.Connection) -> Iterator[str]:
    """A role that may log in and nothing else; gone at the end, with what it owns."""
    name = f"role_{uuid.uuid4().hex[:12]}"
    connection.execute(f"CREATE ROLE {name} LOGIN")
    yield name
    connection.execute(f"REASSIGN OWNED BY {name} TO CURRENT_USER; DROP OWNED BY {name}; DROP ROLE {name}")
