"""Migrators killed at random moments: what the tests do at four chosen ones, wherever it happens to hit.

Part of `benchmarks.migrations`. After each kill, what is recorded has to be what is there, and the next run to finish.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psycopg

from agent_storage.migrations.migrator import Migrator
from agent_storage.migrations.run import lock
from agent_storage.migrations.verify.shadow import ShadowServer

ENDINGS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, None)
TABLES = ("a", "b", "c", "d", "e")
ROWS = 1500


@dataclass(frozen=True)
class Killed:
    """One kill: how many migrations it left applied, None if it came too late, and how long the lock stayed taken."""

    ending: str
    left_applied: int | None
    lock_free_after: float
    broken: str = ""


def kills(server: ShadowServer, count: int) -> list[Killed]:
    """Kill `count` migrators, each at a random moment of its run."""
    chance = random.Random(1)
    with tempfile.TemporaryDirectory(prefix="storage-kills-") as name:
        folder = Path(name)
        for number, table in enumerate(TABLES, 1):
            rows = "".join(f"INSERT INTO {table} VALUES ({n});\n" for n in range(ROWS))
            (folder / f"2026010{number}000000_{table}.sql").write_text(f"CREATE TABLE {table} (id int);\n{rows}")
            (folder / f"2026010{number}000000_{table}.rollback.sql").write_text(f"DROP TABLE {table};\n")
        with server.database() as conninfo:
            started = time.monotonic()
            start(conninfo, folder).wait()
            whole = time.monotonic() - started
        return [
            kill(server, folder, ENDINGS[number % len(ENDINGS)], chance.uniform(0.45, 1.0) * whole)
            for number in range(count)
        ]


def start(conninfo: str, folder: Path) -> subprocess.Popen[bytes]:
    command = [str(Path(sys.executable).parent / "storage"), "migrate", "up", "--db", conninfo, "--folder", str(folder)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, preexec_fn=_heed_interrupts)


def _heed_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def kill(server: ShadowServer, folder: Path, ending: signal.Signals | None, after: float) -> Killed:
    name = ending.name if ending else "pg_terminate_backend"
    with server.database() as conninfo, psycopg.connect(conninfo, autocommit=True) as connection:
        process = start(conninfo, folder)
        time.sleep(after)
        if ending is None:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name = 'storage migrate' AND datname = current_database()"
            )
        elif process.poll() is None:
            os.kill(process.pid, ending)
        code = process.wait()
        ended = time.monotonic()
        while lock.holders(connection):
            time.sleep(0.005)
        free = time.monotonic() - ended
        if code == 0:
            return Killed(name, None, free)
        migrator = Migrator(conninfo, folder)
        applied = len(migrator.status().applied)
        return Killed(name, applied, free, fault(migrator, connection, applied))


def fault(migrator: Migrator, connection: psycopg.Connection, applied: int) -> str:
    """Return the contradictions, now and after the next run."""
    if migrator.status().problems or rows(connection) != [ROWS] * applied:
        return f"{applied} applied, but the tables hold {rows(connection)}"
    migrator.up()
    log = connection.execute("SELECT count(*), count(DISTINCT migration_id) FROM _yoyo_log").fetchone()
    if not migrator.status().at_head or rows(connection) != [ROWS] * len(TABLES) or log != (5, 5):
        return f"after the next run: {rows(connection)}, log {log}"
    return ""


def rows(connection: psycopg.Connection) -> list[int]:
    """How many rows each table that is there has."""
    found = connection.execute("SELECT tablename FROM pg_tables WHERE tablename = ANY(%s)", (list(TABLES),)).fetchall()
    counted = (connection.execute(f"SELECT count(*) FROM {table}".encode()).fetchone() for (table,) in found)
    return [row[0] for row in counted if row]


def show_kills(found: Sequence[Killed]) -> None:
    hit = [one for one in found if one.left_applied is not None]
    left = Counter(one.left_applied for one in hit)
    print(f"{len(found)} migrators of {len(TABLES)} migrations killed at random moments, {len(hit)} of them in time")
    print(f"  left applied: {', '.join(f'{many} x {number}' for number, many in sorted(left.items()))}")
    print(f"  the lock was free after {max((one.lock_free_after for one in hit), default=0):.2f} s at most")
    print(f"  {sum(bool(one.broken) for one in found)} broken")
    for one in found:
        if one.broken:
            print(f"  {one.ending}: {one.broken}")
