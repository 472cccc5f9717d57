"""Many migrators at once, and statements that wait for other sessions' locks."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from agent_storage.migrations.errors import LockNotObtained
from agent_storage.migrations.migrator import Migrator
from agent_storage.migrations.results import Event
from agent_storage.migrations.run import lock

from .conftest import Command, Folder, tables, until

A, B, C = "20260101000000_a", "20260102000000_b", "20260103000000_c"


@pytest.fixture
def racing(folder: Folder) -> Folder:
    folder.write(A, "CREATE TABLE a (id int); INSERT INTO a SELECT generate_series(1, 20000);", "DROP TABLE a;")
    folder.write(B, "-- transactional: false\nCREATE INDEX CONCURRENTLY a_id ON a (id);", "DROP INDEX a_id;")
    folder.table(C, "c")
    return folder


@pytest.mark.parametrize("count", [6, 20])
def test_migrators_at_once_apply_each_migration_once(
    count: int, migrate: Command, racing: Folder, connection: psycopg.Connection
) -> None:
    processes = [migrate.start("up") for _ in range(count)]
    ends = [(process.communicate(timeout=60)[1], process.returncode) for process in processes]
    assert {code for _, code in ends} == {0}, ends
    log = connection.execute("SELECT migration_id, count(*) FROM _yoyo_log GROUP BY 1 ORDER BY 1").fetchall()
    assert log == [(A, 1), (B, 1), (C, 1)]
    assert Migrator(migrate.conninfo, racing.path).status().at_head


def test_twenty_migrators_at_head_never_touch_the_lock(
    database: str, racing: Folder, connection: psycopg.Connection
) -> None:
    Migrator(database, racing.path).up()
    connection.execute("SELECT pg_advisory_lock(%s)", (lock.KEY,))
    with ThreadPoolExecutor(20) as threads:
        runs = [threads.submit(Migrator(database, racing.path, wait=0).up) for _ in range(20)]
        assert not any(run.result().changed for run in runs)


def test_the_fast_path_is_read_only(database: str, racing: Folder) -> None:
    Migrator(database, racing.path).up()
    read_only = psycopg.conninfo.make_conninfo(database, options="-c default_transaction_read_only=on")
    assert not Migrator(read_only, racing.path).up().changed


def test_a_waiter_leaves_as_soon_as_somebody_else_has_finished(
    migrate: Command, racing: Folder, connection: psycopg.Connection
) -> None:
    connection.execute("SELECT pg_advisory_lock(%s)", (lock.KEY,))
    waiter = migrate.start("up")
    assert waiter.stderr is not None
    assert "waiting for the migration lock" in waiter.stderr.readline()
    with psycopg.connect(migrate.conninfo, autocommit=True) as other:
        other.execute("SET client_min_messages = warning")
    connection.execute("SELECT pg_advisory_unlock_all()")
    Migrator(migrate.conninfo, racing.path).up()
    waiter.communicate(timeout=20)
    assert waiter.returncode == 0


def test_a_lock_that_is_not_given_up_is_exit_6_with_its_holder(
    migrate: Command, racing: Folder, connection: psycopg.Connection
) -> None:
    connection.execute("SET application_name = 'nightly import'")
    connection.execute("SELECT pg_advisory_lock(%s)", (lock.KEY,))
    ended = migrate("up", "--wait", "300ms")
    assert ended.returncode == 6
    assert "another migrator holds the migration lock; waited 0.3 s" in ended.stderr
    assert f"held by pid {connection.info.backend_pid} (nightly import) as postgres" in ended.stderr


def test_a_blocked_statement_is_rolled_back_retried_and_succeeds_when_the_blocker_leaves(
    database: str, folder: Folder, connection: psycopg.Connection
) -> None:
    connection.execute("CREATE TABLE busy (id int)")
    folder.write(A, "CREATE TABLE before (); ALTER TABLE busy ADD COLUMN x int;")
    blocker = psycopg.connect(database, application_name="long report")
    blocker.execute("SELECT * FROM busy")
    events: list[Event] = []

    def on_event(event: Event) -> None:
        events.append(event)
        if event.kind == "retry":
            assert tables(connection) == {"busy"}, "what was done before is rolled back while we wait"
            blocker.close()

    done = Migrator(database, folder.path, on_event=on_event, lock_timeout=1).up().done
    assert done[0].attempts == 2
    assert any(event.kind == "blocked" and "(long report)" in event.message for event in events)
    assert tables(connection) == {"busy", "before"}


def test_a_statement_that_stays_blocked_is_exit_6_with_the_blockers_name(
    migrate: Command, folder: Folder, connection: psycopg.Connection
) -> None:
    connection.execute("CREATE TABLE busy (id int)")
    folder.write(A, "CREATE TABLE before ();\nALTER TABLE busy ADD COLUMN x int;")
    with psycopg.connect(migrate.conninfo, application_name="long report") as blocker:
        blocker.execute("SELECT * FROM busy")
        pid = blocker.info.backend_pid
        ended = migrate("up", "--retries", "1", "--lock-timeout", "300ms")
    assert ended.returncode == 6
    assert f"{A}.sql:2:1 55P03 canceling statement due to lock timeout; gave up after 2 attempts" in ended.stderr
    assert f"held by pid {pid} (long report)" in ended.stderr
    assert f"not applied: {A}" in ended.stderr
    assert tables(connection) == {"busy"}


def test_a_file_may_set_its_own_lock_timeout(migrate: Command, folder: Folder, connection: psycopg.Connection) -> None:
    connection.execute("CREATE TABLE busy (id int)")
    folder.write(A, "-- lock-timeout: 50ms\nALTER TABLE busy ADD COLUMN x int;")
    with psycopg.connect(migrate.conninfo) as blocker:
        blocker.execute("SELECT * FROM busy")
        assert migrate("up", "--retries", "0", "--lock-timeout", "1h").returncode == 6


def test_a_file_may_set_its_own_statement_timeout(migrate: Command, folder: Folder) -> None:
    folder.write(A, "-- statement-timeout: 50ms\nSELECT pg_sleep(60);")
    ended = migrate("up")
    assert ended.returncode == 1
    assert "57014 canceling statement due to statement timeout" in ended.stderr


def test_a_dead_lock_victim_runs_again(database: str, folder: Folder, connection: psycopg.Connection) -> None:
    connection.execute("CREATE TABLE one (); CREATE TABLE two ()")
    connection.execute("ALTER DATABASE " + connection.info.dbname + " SET deadlock_timeout = '100ms'")
    folder.write(A, "LOCK one; LOCK two;")
    with psycopg.connect(database, options="-c deadlock_timeout=60s") as other, ThreadPoolExecutor(1) as threads:
        other.execute("LOCK two")
        run = threads.submit(Migrator(database, folder.path, lock_timeout=30).up)
        until(lambda: connection.execute("SELECT 1 FROM pg_locks WHERE NOT granted").fetchone())
        other.execute("LOCK one")
        other.commit()
        assert run.result().done[0].attempts == 2


def test_a_slow_statement_says_that_it_is_still_running(database: str, folder: Folder) -> None:
    folder.write(A, "SELECT pg_sleep(5.8);")
    events: list[Event] = []
    Migrator(database, folder.path, on_event=events.append).up()
    assert any(event.kind == "progress" and "running for 5 s" in event.message for event in events)


def test_without_waiting_nobody_is_asked(database: str, racing: Folder, connection: psycopg.Connection) -> None:
    connection.execute("SELECT pg_advisory_lock(%s)", (lock.KEY,))
    with pytest.raises(LockNotObtained):
        Migrator(database, racing.path, wait=0).up()
