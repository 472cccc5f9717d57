"""Migrations without a transaction: how they stop, what they leave, and how they go on."""

from __future__ import annotations

import psycopg
import pytest

from agent_storage.migrations.commands.amend import resolve
from agent_storage.migrations.errors import HistoryProblem, InvalidRequest, StatementFailed
from agent_storage.migrations.migrator import Migrator

from .conftest import Command, Folder, tables, until

A, B = "20260101000000_a", "20260102000000_b"


@pytest.fixture
def stopped(database: str, folder: Folder) -> Migrator:
    """A migration that stopped at its second statement."""
    folder.write(
        A,
        "-- transactional: false\nCREATE TABLE a (id int);\nCREATE TABLE bad (id nonsense);\nCREATE TABLE c ();\n",
        "DROP TABLE c;\nDROP TABLE IF EXISTS bad;\nDROP TABLE a;\n",
    )
    folder.table(B, "b")
    migrator = Migrator(database, folder.path)
    with pytest.raises(StatementFailed) as caught:
        migrator.up()
    assert f"{A}.sql:3:22 42704" in caught.value.message
    assert f"statements 1 to 1 of {A} are committed" in caught.value.lines
    assert caught.value.hint == f"correct the cause, then `storage migrate resolve {A} --resume`"
    return migrator


def mend(folder: Folder) -> None:
    path = folder.path / f"{A}.sql"
    path.write_text(path.read_text().replace("nonsense", "int"))


def test_the_next_up_is_refused_and_status_says_why(stopped: Migrator) -> None:
    with pytest.raises(HistoryProblem, match=rf'{A} stopped after statement 1 of 3: .*type "nonsense" does not exist'):
        stopped.up()
    assert [(one.id, one.state) for one in stopped.status().migrations] == [(A, "failed"), (B, "pending")]


def test_resume_goes_on_at_the_statement_that_failed(
    stopped: Migrator, folder: Folder, connection: psycopg.Connection
) -> None:
    mend(folder)
    assert resolve(stopped, A, "resume").pending == [B]
    assert tables(connection) == {"a", "bad", "c"}
    assert stopped.up().pending == []
    assert stopped.status().at_head


def test_resume_refuses_when_what_is_done_was_changed(stopped: Migrator, folder: Folder) -> None:
    mend(folder)
    path = folder.path / f"{A}.sql"
    path.write_text(path.read_text().replace("TABLE a (id int)", "TABLE a (id bigint)"))
    with pytest.raises(HistoryProblem, match=r"the first 1 statements of .* were changed"):
        resolve(stopped, A, "resume")


def test_it_can_be_declared_applied_or_not(stopped: Migrator, connection: psycopg.Connection) -> None:
    resolve(stopped, A, "not-applied")
    assert stopped.status().pending == [A, B]
    connection.execute("DROP TABLE a")
    with pytest.raises(StatementFailed):
        stopped.up()
    resolve(stopped, A, "applied")
    assert stopped.status().applied == [A]


def test_there_must_be_something_to_resolve(database: str, folder: Folder) -> None:
    folder.table(A, "a")
    with pytest.raises(InvalidRequest, match="no migration has stopped halfway"):
        resolve(Migrator(database, folder.path), A, "resume")


def test_an_invalid_index_is_found_and_never_dropped_by_guessing(
    migrate: Command, folder: Folder, connection: psycopg.Connection
) -> None:
    connection.execute("CREATE TABLE busy (id int); INSERT INTO busy VALUES (1), (1)")
    folder.write(
        A,
        "-- transactional: false\nCREATE UNIQUE INDEX CONCURRENTLY busy_id ON busy (id);",
        "DROP INDEX CONCURRENTLY busy_id;",
    )
    failed = migrate("up")
    assert failed.returncode == 1
    assert "left an INVALID index, to be dropped by hand: DROP INDEX CONCURRENTLY public.busy_id;" in failed.stderr
    early = migrate("resolve", A, "--resume")
    assert early.returncode == 5
    assert "DROP INDEX CONCURRENTLY public.busy_id;" in early.stderr
    connection.execute("DROP INDEX CONCURRENTLY busy_id")
    connection.execute("DELETE FROM busy WHERE ctid = (SELECT min(ctid) FROM busy)")
    resumed = migrate("resolve", A, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert migrate("status", "--check").returncode == 0
    assert migrate("down", "--yes").returncode == 0


def test_an_index_that_is_invalid_at_the_end_is_no_success(
    migrate: Command, folder: Folder, connection: psycopg.Connection
) -> None:
    connection.execute("CREATE TABLE busy (id int)")
    folder.write(
        A,
        "-- transactional: false\nCREATE INDEX CONCURRENTLY busy_id ON busy (id);\n"
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'busy_id'::regclass;",
    )
    ended = migrate("up")
    assert ended.returncode == 5
    assert f"{A} has left INVALID indexes" in ended.stderr
    assert "INVALID: public.busy_id" in migrate("doctor").stdout
    assert Migrator(migrate.conninfo, folder.path).status().migrations[0].state == "failed"


def test_a_run_under_way_is_no_problem_for_those_who_look(
    migrate: Command, folder: Folder, connection: psycopg.Connection
) -> None:
    folder.write(A, "-- transactional: false\nSELECT pg_advisory_xact_lock(7);", "SELECT 1;")
    connection.execute("SELECT pg_advisory_lock(7)")
    process = migrate.start("up", "--lock-timeout", "60s")
    until(lambda: connection.execute("SELECT 1 FROM pg_locks WHERE NOT granted").fetchone())
    status = Migrator(migrate.conninfo, folder.path).status()
    assert [(one.state, one.problem) for one in status.migrations] == [("running", None)]
    assert status.problems == []
    connection.execute("SELECT pg_advisory_unlock(7)")
    process.communicate(timeout=20)
    assert process.returncode == 0


def test_a_rollback_without_a_transaction_stops_and_resumes_too(
    database: str, folder: Folder, connection: psycopg.Connection
) -> None:
    folder.write(A, "-- transactional: false\nCREATE TABLE a (); CREATE TABLE b ();", "DROP TABLE b; DROP TABLE wrong;")
    migrator = Migrator(database, folder.path)
    migrator.up()
    with pytest.raises(StatementFailed):
        migrator.down()
    with pytest.raises(HistoryProblem, match="stopped during its rollback after statement 1 of 2"):
        migrator.up()
    folder.write(A, "-- transactional: false\nCREATE TABLE a (); CREATE TABLE b ();", "DROP TABLE b; DROP TABLE a;")
    resolve(migrator, A, "resume")
    assert migrator.status().pending == [A]
    assert tables(connection) == set()


def test_the_command_wants_to_be_told_how(migrate: Command, folder: Folder) -> None:
    folder.table(A, "a")
    ended = migrate("resolve", A)
    assert ended.returncode == 2
    assert "one of --resume, --applied, --not-applied" in ended.stderr
