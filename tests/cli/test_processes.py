"""Each command once as a process of its own, and what a process alone can show: signals, pipes, encodings."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest

from agent_storage.migrations.migrator import Migrator
from agent_storage.tables import REPOSITORIES

from .conftest import PLAIN
from .test_arguments import ALL

ROOT = Path(__file__).parent.parent.parent
COMMAND = [sys.executable, "-m", "agent_storage.cli"]
A, B = "20260101000000_a", "20260102000000_b"

#: Each command with its arguments, its exit code, and a word that it prints.
ON_ROWS = {
    "demo": ("", 0, "next: storage status"),
    "status": ("", 0, "0 pending"),
    "tables": ("", 0, "conversations"),
    "seed demo": ("--scale 1", 0, "rows in"),
    "conversation list": ("", 0, "seed demo"),
    "conversation show": ("ffffffff", 1, "ffffffff"),
    "checkpoint list": ("", 0, "no checkpoints yet"),
    "checkpoint show": ("ffffffff", 1, "there is no checkpoint ffffffff"),
    "checkpoint copy": ("", 2, "--from"),
    "session list": ("--status running", 0, "no session matches"),
    "session show": ("ffffffff", 1, "ffffffff"),
    "session tree": ("", 0, "seed demo"),
    "workflow list": ("", 0, "seed demo"),
    "workflow show": ("ffffffff", 1, "neither a workflow nor a run"),
    "workflow pause": ("ffffffff", 1, "ffffffff"),
    "workflow resume": ("ffffffff", 1, "ffffffff"),
    "workflow retry": ("ffffffff plan", 1, "ffffffff"),
    "approval list": ("", 0, "seed demo"),
    "approval approve": ("ffffffff", 1, "ffffffff"),
    "approval reject": ("ffffffff", 1, "ffffffff"),
    "budget tree": ("", 0, "seed demo"),
    "new table": ("notes", 2, "no source of yours is configured"),
    "generate": ("", 2, "no source of yours is configured"),
    "check": ("", 0, "agree"),
    "reset": ("--yes", 2, "a database is named"),
    "sql": ("messages.latest --explain", 0, "Index Scan"),
    "secrets new-key": ("", 0, "="),
    "secrets rotate": ("", 0, "providers.api_key: 0 rewrapped"),
}
ON_FILES = {
    "new": ("add_note", 0, "add_note.rollback.sql"),
    "up": ("", 0, "1 applied; nothing pending"),
    "down": ("--yes", 0, "1 rolled back; 2 pending"),
    "redo": ("--yes", 0, "1 rolled back, 1 applied; 1 pending"),
    "sync": ("--yes", 0, "1 applied; nothing pending"),
    "seed": ("seeds", 2, "contains no seed files"),
    "status": ("--check", 3, "1 migration is pending"),
    "history": ("-n 1", 0, f"apply  {A}"),
    "show": ("a --down", 0, "DROP TABLE a"),
    "check": ("--only lint --only test", 0, "ok      test"),
    "diff": ("", 0, "db and applied agree"),
    "doctor": ("", 0, "folder and database agree"),
    "locks": ("", 0, "no migrator runs"),
    "resolve": (f"{A} --resume", 2, "no migration has stopped"),
    "repair": ("--yes", 0, "nothing to repair"),
    "rebase": ("", 0, "nothing comes too late"),
    "baseline": (f"--to {A}", 0, "nothing to enter"),
    "squash": (f"--to {B} --yes", 0, "replaces 2 migrations"),
}


def heed_interrupts() -> None:
    """A test run in the background of a shell ignores SIGINT, and hands that down."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments],
        env={**os.environ, **PLAIN, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts a command that goes on while the test does; it is gone at the end."""
    started: list[subprocess.Popen[str]] = []

    def begin(*arguments: str, stdin: int = subprocess.DEVNULL) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*COMMAND, *arguments],
            env={**os.environ, **PLAIN},
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=heed_interrupts,
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def two(tmp_path: Path, database: str) -> Path:
    """A folder of two migrations, the first of which is applied."""
    folder = tmp_path / "migrations"
    folder.mkdir()
    for name, table in ((A, "a"), (B, "b")):
        (folder / f"{name}.sql").write_text(f"CREATE TABLE {table} (id int PRIMARY KEY);")
        (folder / f"{name}.rollback.sql").write_text(f"DROP TABLE {table};")
    Migrator(database, folder).up(1)
    return folder


def test_no_command_is_forgotten_here() -> None:
    assert {*ON_ROWS, *(f"migrate {name}" for name in ON_FILES)} == set(ALL)


@pytest.mark.parametrize("name", ON_ROWS)
def test_a_command_runs_as_a_process(name: str, migrated: str) -> None:
    words, code, word = ON_ROWS[name]
    done = run(*name.split(), *words.split(), STORAGE_DATABASE_URL=migrated)
    assert (done.returncode, word in done.stdout + done.stderr) == (code, True), done.stdout + done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ON_FILES)
def test_a_command_of_migrate_runs_as_a_process(name: str, two: Path, database: str) -> None:
    words, code, word = ON_FILES[name]
    done = run("migrate", name, *words.split(), "--folder", str(two), STORAGE_DATABASE_URL=database)
    assert (done.returncode, word in done.stdout + done.stderr) == (code, True), done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_the_launcher_of_a_checkout_is_the_command() -> None:
    shown = subprocess.run([sys.executable, ROOT / "cli.py", "--version"], capture_output=True, text=True, check=True)
    assert shown.stdout.startswith("agent-storage ")
    wrong = subprocess.run([sys.executable, ROOT / "cli.py", "chekc"], capture_output=True, check=False)
    assert wrong.returncode == 2


# The lock makes each command wait at a place that is known: `seed demo` copies into tool_results amid its transaction.
@pytest.mark.parametrize(
    ("table", "line"),
    [
        ("conversations", "conversation list"),
        ("sessions", "session tree --json"),
        ("boards", "tables"),
        ("providers", "demo"),
        ("tool_results", "seed demo"),
    ],
)
def test_an_interrupt_is_one_sentence_and_leaves_nothing(
    table: str, line: str, migrated: str, start: Callable[..., subprocess.Popen[str]]
) -> None:
    with psycopg.connect(migrated) as blocker, psycopg.connect(migrated, autocommit=True) as watcher:
        blocker.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
        process = start(*line.split(), "--db", migrated)
        wait_until(lambda: watcher.execute("SELECT 1 FROM pg_locks WHERE NOT granted").fetchone(), process)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
        blocker.rollback()
        assert (process.returncode, out, err) == (130, "", "error: interrupted\n")
        for name in REPOSITORIES:
            assert watcher.execute(f"SELECT count(*) FROM {name}").fetchone() == (0,)


@pytest.mark.parametrize(
    ("answer", "code", "sentence"), [("n", 1, "nothing was changed"), (None, 130, "error: interrupted")]
)
def test_a_question_may_be_declined_or_interrupted(
    answer: str | None, code: int, sentence: str, two: Path, database: str, start: Callable[..., subprocess.Popen[str]]
) -> None:
    (two / f"{A}.sql").unlink()
    (two / f"{A}.rollback.sql").unlink()
    controller, terminal = pty.openpty()
    try:
        process = start("migrate", "sync", "--folder", str(two), "--db", database, stdin=terminal)
        assert process.stderr is not None
        asked = ""
        while not asked.endswith("[y/N]: "):
            asked += process.stderr.read(1)
        if answer is None:
            err = interrupted(process)
        else:
            os.write(controller, f"{answer}\n".encode())
            err = process.communicate(timeout=30)[1]
    finally:
        os.close(controller)
        os.close(terminal)
    assert f"roll back {A}?" in asked
    assert (process.returncode, err.strip()) == (code, sentence)
    assert Migrator(database, two).status().pending == [B]


def interrupted(process: subprocess.Popen[str]) -> str:
    """Interrupt the process until it ends. Python overlooks a signal that comes just before input() begins to read."""
    for _ in range(5):
        process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            return process.communicate(timeout=10)[1]
    raise AssertionError("five interrupts were overlooked")


def wait_until(condition: Callable[[], object], process: subprocess.Popen[str]) -> None:
    """Wait for a condition while the process lives."""
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, "the condition did not come true"
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)  # between two looks; the test does not depend on it


@pytest.mark.parametrize("command", ["session list -n 1000", "tables --json", "sql", "conversation list --json"])
def test_a_pipe_that_closes_is_no_error(seeded_database: str, command: str) -> None:
    process = subprocess.Popen(
        [*COMMAND, *command.split()],
        env={**os.environ, "STORAGE_DATABASE_URL": seeded_database},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    errors = process.stderr.read()
    process.stderr.close()
    assert (process.wait(30), errors) == (0, b"")


def test_a_terminal_without_unicode_gets_question_marks_and_json_stays_whole(seeded_database: str) -> None:
    plain = {"PYTHONIOENCODING": "ascii", "STORAGE_DATABASE_URL": seeded_database}
    assert "? spawned" in run("session", "tree", **plain).stdout
    assert json.loads(run("budget", "tree", "--json", **plain).stdout)["pools"]
