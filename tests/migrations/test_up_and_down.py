"""Applying and rolling back: the database and the tracking tables afterwards."""

from __future__ import annotations

import json
import sysconfig
from pathlib import Path

import psycopg
import pytest
from typer.testing import CliRunner

from agent_storage.cli import app
from agent_storage.migrations.errors import (
    CannotConnect,
    HistoryProblem,
    InvalidRequest,
    LintFailed,
    NotReversible,
    Pending,
    StatementFailed,
)
from agent_storage.migrations.migrator import Migrator
from agent_storage.migrations.results import Event

from .conftest import Command, Folder, tables

A, B, C = "20260101000000_a", "20260102000000_b", "20260103000000_c"


@pytest.fixture
def three(folder: Folder) -> Folder:
    folder.table(A, "a")
    folder.table(B, "b")
    folder.table(C, "c")
    return folder


@pytest.fixture
def migrator(database: str, three: Folder) -> Migrator:
    return Migrator(database, three.path, wait=10)


def test_up_applies_everything_once(migrator: Migrator, connection: psycopg.Connection) -> None:
    assert [done.id for done in migrator.up().done] == [A, B, C]
    assert tables(connection) == {"a", "b", "c"}
    assert not migrator.up().changed
    assert migrator.status().at_head


def test_up_stops_after_a_count_or_at_an_id(migrator: Migrator) -> None:
    assert [done.id for done in migrator.up(1).done] == [A]
    result = migrator.up(to="b")
    assert [done.id for done in result.done] == [B]
    assert result.pending == [C]


def test_down_takes_back_in_the_reverse_of_the_order_applied(database: str, folder: Folder) -> None:
    folder.table(A, "a")
    folder.table(C, "c")
    migrator = Migrator(database, folder.path)
    migrator.up()
    folder.write(B, "-- out-of-order: ok\nCREATE TABLE b ();", "DROP TABLE b;")
    migrator.up()
    assert [done.id for done in migrator.down(2).done] == [B, C]


def test_down_to_an_id_keeps_it_and_all_takes_everything(migrator: Migrator, connection: psycopg.Connection) -> None:
    migrator.up()
    assert [done.id for done in migrator.down(to=A).done] == [C, B]
    assert [done.id for done in migrator.down(all=True).done] == [A]
    assert tables(connection) == set()


def test_down_works_when_the_files_are_gone(migrator: Migrator, three: Folder, connection: psycopg.Connection) -> None:
    migrator.up()
    three.remove(C)
    assert [done.id for done in migrator.down().done] == [C]
    assert tables(connection) == {"a", "b"}


def test_down_uses_the_mended_rollback_file(database: str, folder: Folder) -> None:
    folder.write(A, "CREATE TABLE a ();", "DROP TABLE wrong;")
    migrator = Migrator(database, folder.path)
    migrator.up()
    with pytest.raises(StatementFailed, match=r'rollback\.sql:1:1 42P01 table "wrong" does not exist'):
        migrator.down()
    folder.write(A, "CREATE TABLE a ();", "DROP TABLE a;")
    assert migrator.down().changed


def test_down_works_when_only_the_rollback_file_is_gone(migrator: Migrator, three: Folder) -> None:
    migrator.up()
    (three.path / f"{C}.rollback.sql").unlink()
    assert [done.id for done in migrator.down().done] == [C]


def test_a_redo_that_fails_says_what_is_missing_now(database: str, folder: Folder) -> None:
    folder.table(A, "a")
    migrator = Migrator(database, folder.path)
    assert not migrator.redo().changed
    migrator.up()
    folder.write(A, "CREATE TABLE a (id nonsense);", "DROP TABLE a;")
    with pytest.raises(StatementFailed) as caught:
        migrator.redo()
    assert f"rolled back and not applied again: {A}" in caught.value.lines


def test_redo_applies_the_file_as_it_is_now(database: str, folder: Folder, connection: psycopg.Connection) -> None:
    folder.table(A, "a")
    migrator = Migrator(database, folder.path)
    migrator.up()
    folder.write(A, "CREATE TABLE renamed ();", "DROP TABLE renamed;")
    migrator.redo()
    assert tables(connection) == {"renamed"}


def test_a_failing_statement_undoes_its_migration_and_says_where(
    database: str, folder: Folder, connection: psycopg.Connection
) -> None:
    folder.table(A, "a")
    folder.write(B, "CREATE TABLE b (id int);\n\nINSERT INTO b\nVALUES (1, 2);\n")
    folder.table(C, "c")
    with pytest.raises(StatementFailed) as caught:
        Migrator(database, folder.path).up()
    error = caught.value
    assert error.exit_code == 1
    assert error.message.endswith(f"{B}.sql:4:12 42601 INSERT has more expressions than target columns")
    assert error.lines[:2] == ["    VALUES (1, 2);", "               ^"]
    assert f"{B} was rolled back" in error.lines
    assert f"applied in this run: {A}" in error.lines
    assert f"not applied: {B}, {C}" in error.lines
    assert tables(connection) == {"a"}


def test_an_error_at_commit_undoes_everything_too(
    database: str, folder: Folder, connection: psycopg.Connection
) -> None:
    folder.write(
        A,
        "CREATE TABLE a (id int PRIMARY KEY, other int REFERENCES a DEFERRABLE INITIALLY DEFERRED);"
        "INSERT INTO a VALUES (1, 2);",
    )
    with pytest.raises(StatementFailed, match=r"23503 .* \(at COMMIT\)"):
        Migrator(database, folder.path).up()
    assert tables(connection) == set()
    assert Migrator(database, folder.path).status().pending == [A]


def test_an_error_tells_what_depends_but_never_what_is_in_a_row(database: str, folder: Folder) -> None:
    folder.write(A, "CREATE TABLE a (id int PRIMARY KEY); CREATE VIEW v AS SELECT id FROM a; DROP VIEW v CASCADE;")
    folder.write(B, "-- data-loss: ok\nCREATE VIEW v AS SELECT id FROM a;\nDROP TABLE a;")
    with pytest.raises(StatementFailed) as dependent:
        Migrator(database, folder.path).up()
    assert "detail: view v depends on table a" in dependent.value.lines
    folder.write(B, "INSERT INTO a VALUES (4711);\nINSERT INTO a VALUES (4711);")
    with pytest.raises(StatementFailed, match="duplicate key") as duplicate:
        Migrator(database, folder.path).up()
    assert not [line for line in duplicate.value.lines if line.startswith("detail:")]


def test_what_a_migration_sets_does_not_reach_the_next(
    database: str, folder: Folder, connection: psycopg.Connection
) -> None:
    folder.write(A, "CREATE SCHEMA other; SET search_path = other; SET lock_timeout = 0;")
    folder.table(B, "b")
    Migrator(database, folder.path).up()
    assert tables(connection) == {"b"}


def test_the_role_that_a_migration_takes_on_does_not_write_the_books(
    database: str, folder: Folder, connection: psycopg.Connection
) -> None:
    folder.write(A, "SET LOCAL ROLE pg_read_all_data; SELECT 1;")
    assert Migrator(database, folder.path).up().changed


def test_a_schema_in_front_of_the_search_path_has_a_history_of_its_own(
    database: str, three: Folder, connection: psycopg.Connection
) -> None:
    Migrator(database, three.path).up()
    connection.execute("CREATE SCHEMA elsewhere")
    moved = psycopg.conninfo.make_conninfo(database, options="-c search_path=elsewhere,public")
    assert len(Migrator(moved, three.path).up().done) == 3
    assert len(Migrator(moved, three.path).down(all=True).done) == 3
    assert Migrator(database, three.path).status().at_head


def test_dependencies_come_before_names(database: str, folder: Folder) -> None:
    folder.write(A, f"-- depends: {B}\nALTER TABLE b ADD COLUMN x int;", "ALTER TABLE b DROP COLUMN x;")
    folder.table(B, "b")
    assert [done.id for done in Migrator(database, folder.path).up().done] == [B, A]


def test_dependencies_that_make_no_sense_are_refused(database: str, folder: Folder) -> None:
    folder.write(A, "-- depends: nobody\nSELECT 1;")
    with pytest.raises(InvalidRequest, match="depends on nobody, which is not in the folder"):
        Migrator(database, folder.path).up()
    folder.write(A, f"-- depends: {B}\nSELECT 1;")
    folder.write(B, f"-- depends: {A}\nSELECT 1;")
    with pytest.raises(InvalidRequest, match="circular dependencies"):
        Migrator(database, folder.path).up()


def test_an_irreversible_migration_says_why(database: str, folder: Folder) -> None:
    folder.write(A, "-- irreversible: mails were sent\nSELECT 1;", down=None)
    migrator = Migrator(database, folder.path)
    migrator.up()
    with pytest.raises(NotReversible, match="mails were sent"):
        migrator.down()


def test_status_names_what_is_wrong_and_require_current_refuses_it(migrator: Migrator, three: Folder) -> None:
    with pytest.raises(Pending, match="3 migrations are pending"):
        migrator.require_current()
    migrator.up()
    three.write(B, "CREATE TABLE other ();")
    assert [problem.kind for problem in migrator.status().problems] == ["edited"]
    with pytest.raises(HistoryProblem, match="was changed after it was applied"):
        migrator.require_current()


def test_the_database_comes_from_the_settings(
    database: str, three: Folder, monkeypatch: pytest.MonkeyPatch, server_conninfo: str
) -> None:
    def pending() -> int:
        ended = CliRunner().invoke(app, ["migrate", "status", "--json", "--folder", str(three.path)])
        return sum(one["state"] == "pending" for one in json.loads(ended.stdout)["migrations"])

    Migrator(database, three.path).up(1)
    monkeypatch.setenv("STORAGE_DATABASE_URL", server_conninfo)
    assert pending() == 3
    monkeypatch.setenv("STORAGE_MIGRATE_URL", database)
    assert pending() == 2


def test_progress_can_be_silenced_or_made_complete(migrate: Command, three: Folder) -> None:
    assert migrate("up", "1", "--quiet").stderr == ""
    assert f"{B}: statement 1 of 1" in migrate("up", "1", "-v").stderr
    assert f"{C}: statement 1 of 1" not in migrate("up", "1").stderr


def test_errors_have_no_colour_where_none_is_wanted(
    migrate: Command, three: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    assert migrate("down", "0").stderr.startswith("error: 0 migrations cannot be rolled back\n")


def test_history_is_the_log_newest_first(migrator: Migrator) -> None:
    migrator.up(1)
    migrator.down()
    assert [(entry.operation, entry.id) for entry in migrator.history()] == [("rollback", A), ("apply", A)]


def test_status_on_a_fresh_database_writes_nothing(migrator: Migrator, connection: psycopg.Connection) -> None:
    migrator.status()
    assert connection.execute("SELECT count(*) FROM pg_class WHERE relname ~ 'yoyo|_storage_'").fetchone() == (0,)


def test_events_tell_what_happens(database: str, three: Folder) -> None:
    events: list[Event] = []
    Migrator(database, three.path, on_event=events.append).up(1)
    assert [event.kind for event in events] == ["start", "statement", "done"]


def test_every_pending_file_is_read_before_the_first_statement_runs(
    database: str, folder: Folder, connection: psycopg.Connection
) -> None:
    folder.table(A, "a")
    folder.write(B, "BEGIN; CREATE TABLE b (); COMMIT;")
    with pytest.raises(LintFailed, match=r"b\.sql:1:1 error \[transaction-control\]"):
        Migrator(database, folder.path).up()
    assert tables(connection) == set()


def test_an_unreachable_server_is_one_sentence_without_the_password(three: Folder) -> None:
    with pytest.raises(CannotConnect, match="cannot be reached") as caught:
        Migrator("postgresql://me:geheim@127.0.0.1:1/x", three.path).status()
    assert caught.value.exit_code == 8
    assert "geheim" not in str(caught.value)
    assert caught.value.message.endswith('connection to server at "127.0.0.1", port 1 failed: Connection refused')
    with pytest.raises(InvalidRequest) as wrong:
        Migrator("postgresql://me:geh eim@[/x", three.path).status()
    assert "geh" not in str(wrong.value)


def test_ensure_current_applies_waits_or_fails(migrator: Migrator, database: str, three: Folder) -> None:
    with pytest.raises(Pending):
        migrator.ensure_current("fail")
    with pytest.raises(Pending):
        Migrator(database, three.path, wait=0.1).ensure_current("wait")
    migrator.ensure_current()
    migrator.ensure_current("fail")
    migrator.ensure_current("wait")


def test_ensure_current_accepts_a_database_that_a_newer_version_migrated(migrator: Migrator, three: Folder) -> None:
    migrator.up()
    three.remove(C)
    migrator.ensure_current("fail")
    migrator.ensure_current()


def test_the_command_line_speaks_json(migrate: Command, three: Folder) -> None:
    assert json.loads(migrate("up", "1", "--json").stdout)["done"][0]["id"] == A
    assert [one["state"] for one in json.loads(migrate("status", "--json").stdout)["migrations"]] == [
        "applied",
        "pending",
        "pending",
    ]
    failed = migrate("status", "--check", "--json")
    assert failed.returncode == 3
    assert json.loads(failed.stdout)["error"]["kind"] == "Pending"
    assert json.loads(migrate("down", "--all", "--yes", "--json").stdout)["done"][0]["direction"] == "down"
    assert len(json.loads(migrate("history", "--json").stdout)["history"]) == 2


def test_new_makes_two_files_that_come_last(migrate: Command, folder: Folder) -> None:
    folder.table("20991231235958_future", "f")
    made = migrate("new", "Add orders' note")
    assert made.returncode == 0, made.stderr
    up, down = map(Path, made.stdout.splitlines())
    assert up.name == "20991231235959_add_orders_note.sql"
    assert down.name == "20991231235959_add_orders_note.rollback.sql"
    assert up.stem in (folder.path / "migrations.lock").read_text()


def test_new_puts_nothing_into_an_installed_package() -> None:
    installed = Path(sysconfig.get_path("purelib")) / "agent_storage" / "migrations" / "versions"
    refused = CliRunner().invoke(app, ["migrate", "new", "mine", "--folder", str(installed)])
    assert (refused.exit_code, "an upgrade would remove" in refused.stderr) == (2, True)
    assert not installed.exists()
