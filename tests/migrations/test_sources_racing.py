"""Several migrators over several sources at once, and one that is killed between two sources."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import psycopg

from agent_storage.migrations.migrator import Migrator
from agent_storage.sources import at

from .conftest import COMMAND, Folder, tables, until

NAMES = ("first", "second", "third")


def product(path: Path, *, gate: str = "") -> dict[str, str]:
    """Write three sources of three tables each, and return the environment that configures them."""
    for name in NAMES:
        folder = path / name / "migrations"
        folder.mkdir(parents=True)
        for number in range(1, 4):
            Folder(folder).table(f"2026010{number}000000_same_name", f"{name}_{number}")
    if gate:
        id_ = "20260100000000_gate"
        Folder(path / "second" / "migrations").write(
            id_, f"LOCK TABLE {gate};\nCREATE TABLE passed ();", "DROP TABLE passed;"
        )
    places = ",".join(f"{name}={path / name}" for name in NAMES)
    return {**os.environ, "STORAGE_SOURCES": places, "STORAGE_INCLUDE": ""}


def start(database: str, environment: dict[str, str], *arguments: str) -> subprocess.Popen[str]:
    command = [*COMMAND, "up", "--db", database, *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, stdin=subprocess.DEVNULL, text=True)


def of(database: str, path: Path) -> Migrator:
    return Migrator(database, sources=[at(path / name, name) for name in NAMES])


def test_twenty_processes_apply_three_sources_once(
    database: str, tmp_path: Path, connection: psycopg.Connection
) -> None:
    environment = product(tmp_path)
    processes = [start(database, environment, "--wait", "240s") for _ in range(20)]
    ended = [(process.communicate(timeout=300), process.returncode) for process in processes]
    assert [code for _, code in ended] == [0] * 20, ended
    assert sum(out.startswith("9 applied") for (out, _), _ in ended) <= 1
    assert tables(connection) == {f"{name}_{number}" for name in NAMES for number in range(1, 4)}
    log = connection.execute("SELECT comment, count(*) FROM _yoyo_log GROUP BY 1 ORDER BY 1").fetchall()
    assert log == [(f"source {name}", 3) for name in NAMES]
    assert of(database, tmp_path).status().at_head


def test_a_migrator_killed_between_two_sources_leaves_nothing_half_done(
    database: str, tmp_path: Path, connection: psycopg.Connection
) -> None:
    environment = product(tmp_path, gate="gate")
    connection.execute("CREATE TABLE gate ()")
    with psycopg.connect(database) as holding:
        holding.execute("LOCK TABLE gate")
        process = start(database, environment, "--lock-timeout", "60s")
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query ~ 'LOCK TABLE gate'"
        try:
            until(lambda: connection.execute(waiting).fetchone() == (1,), 60)
            assert of(database, tmp_path).status().applied[-1] == "first:20260103000000_same_name"
        finally:
            process.send_signal(signal.SIGKILL)
            process.communicate()
        holding.rollback()
    assert tables(connection) == {"gate", "first_1", "first_2", "first_3"}
    again = start(database, environment)
    out, err = again.communicate(timeout=120)
    assert (again.returncode, out) == (0, "7 applied; nothing pending\n"), err
    assert of(database, tmp_path).status().at_head
