"""Killed, cancelled or cut off at any point: the tracking tables are right, the next run finishes.

Four moments, four endings, seven times each: 112 migrators.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from agent_storage.migrations.migrator import Migrator
from agent_storage.migrations.run import lock

from .conftest import Command, Folder, tables, until

A, B, C = "20260101000000_a", "20260102000000_b", "20260103000000_c"
GATE = 7
LOCK_IS_FREE_WITHIN = 1.0  # seconds

POINTS = {
    "before the lock": (None, set()),
    "inside a statement": ("CREATE TABLE b (); SELECT pg_advisory_xact_lock(7); CREATE TABLE b2 ();", {"a"}),
    "before the commit": (
        """
        CREATE TABLE b (id int);
        CREATE FUNCTION gate() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN PERFORM pg_advisory_xact_lock(7); RETURN NULL; END $$;
        CREATE CONSTRAINT TRIGGER gate AFTER INSERT ON b DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW EXECUTE FUNCTION gate();
        INSERT INTO b VALUES (1);
        """,
        {"a"},
    ),
    "after the commit": ("CREATE TABLE b ();", {"a", "b"}),
}


def terminate(process: subprocess.Popen[str], connection: psycopg.Connection) -> None:
    """End the migrator's backend from the server's side."""
    connection.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE application_name = 'storage migrate' AND datname = current_database()"
    )


def send(number: signal.Signals) -> object:
    def send_signal(process: subprocess.Popen[str], connection: psycopg.Connection) -> None:
        os.kill(process.pid, number)

    return send_signal


ENDINGS = {
    "kill -9": (send(signal.SIGKILL), -signal.SIGKILL),
    "SIGTERM": (send(signal.SIGTERM), 130),
    "SIGINT": (send(signal.SIGINT), 130),
    "pg_terminate_backend": (terminate, 8),
}


@pytest.fixture
def gate(database: str) -> Iterator[psycopg.Connection]:
    """A session that holds the lock at which the migrations of these tests stop."""
    with psycopg.connect(database, autocommit=True) as session:
        session.execute("SELECT pg_advisory_lock(%s)", (GATE,))
        yield session


def waits(connection: psycopg.Connection) -> bool:
    """Whether the migrator's backend stands at the gate."""
    row = connection.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'storage migrate'"
        " AND datname = current_database() AND wait_event_type = 'Lock'"
    ).fetchone()
    return row == (1,)


@pytest.mark.parametrize("again", range(7))
@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("point", POINTS)
def test_a_migrator_that_ends_leaves_nothing_half_done(
    point: str, ending: str, again: int, migrate: Command, folder: Folder, gate: psycopg.Connection
) -> None:
    text, expected = POINTS[point]
    folder.table(A, "a")
    folder.write(B, text or "CREATE TABLE b ();")
    folder.write(C, "SELECT pg_advisory_xact_lock(7); CREATE TABLE c ();")
    end, code = ENDINGS[ending]

    if point == "before the lock":
        gate.execute("SELECT pg_advisory_lock(%s)", (lock.KEY,))
    process = migrate.start("up", "--lock-timeout", "60s")
    if point == "before the lock":
        assert process.stderr is not None
        assert "waiting for the migration lock" in process.stderr.readline()
    else:
        until(lambda: waits(gate))
    end(process, gate)
    _, err = process.communicate(timeout=20)

    assert process.returncode == code, err
    until(lambda: {holder.pid for holder in lock.holders(gate)} <= {gate.info.backend_pid}, LOCK_IS_FREE_WITHIN)
    assert tables(gate) == expected
    status = Migrator(migrate.conninfo, folder.path).status()
    assert {one[-1] for one in status.applied} == expected
    assert not status.problems

    gate.execute("SELECT pg_advisory_unlock_all()")
    finished = migrate("up")
    assert finished.returncode == 0, finished.stderr
    assert Migrator(migrate.conninfo, folder.path).status().at_head
    assert {"a", "b", "c"} <= tables(gate)
    assert lock.holders(gate) == []


def test_an_interrupted_run_says_what_it_did(migrate: Command, folder: Folder, gate: psycopg.Connection) -> None:
    folder.table(A, "a")
    folder.write(B, "SELECT pg_advisory_xact_lock(7);")
    process = migrate.start("up", "--lock-timeout", "60s")
    until(lambda: waits(gate))
    os.kill(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert "error: interrupted" in err
    assert f"  {B} was rolled back" in err
    assert f"  applied in this run: {A}" in err


def test_a_killed_migrators_lock_is_free_within_a_second(
    migrate: Command, folder: Folder, gate: psycopg.Connection
) -> None:
    folder.write(A, "SELECT pg_advisory_xact_lock(7);")
    process = migrate.start("up", "--lock-timeout", "60s")
    until(lambda: waits(gate))
    os.kill(process.pid, signal.SIGKILL)
    until(lambda: not lock.holders(gate), LOCK_IS_FREE_WITHIN)


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_run_without_a_transaction_remembers_where_it_stopped(
    ending: str, migrate: Command, folder: Folder, gate: psycopg.Connection
) -> None:
    folder.write(
        A,
        "-- transactional: false\nCREATE TABLE a (); SELECT pg_advisory_xact_lock(7); CREATE TABLE b ();",
        "DROP TABLE a, b;",
    )
    end, code = ENDINGS[ending]
    process = migrate.start("up", "--lock-timeout", "60s")
    until(lambda: waits(gate))
    end(process, gate)
    process.communicate(timeout=20)
    assert process.returncode == code
    until(lambda: not lock.holders(gate), 5)
    refused = migrate("up")
    assert refused.returncode == 5
    assert f"{A} stopped after statement 1 of 3" in refused.stderr
    assert f"storage migrate resolve {A} --resume" in refused.stderr
    assert tables(gate) == {"a"}


def test_a_url_with_a_name_of_its_own_does_not_hide_the_migrator(database: str, folder: Folder) -> None:
    folder.write(A, "CREATE TABLE name AS SELECT current_setting('application_name') AS value;")
    Migrator(make_conninfo(database, application_name="app"), folder.path).up()
    with psycopg.connect(database) as connection:
        assert connection.execute("SELECT value FROM name").fetchone() == ("storage migrate",)
