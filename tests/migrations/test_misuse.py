"""What people do to migration files, and what they are told: an exit code and a sentence each."""

from __future__ import annotations

import psycopg
import pytest

from agent_storage.migrations.migrator import Migrator

from .conftest import Command, Folder, tables

A, B, C = "20260101000000_a", "20260102000000_b", "20260103000000_c"


@pytest.fixture
def applied(migrate: Command, folder: Folder) -> Command:
    """Two migrations, both applied."""
    folder.table(A, "a")
    folder.table(B, "b")
    Migrator(migrate.conninfo, folder.path).up()
    return migrate


def refused(migrate: Command, code: int, *sentences: str) -> None:
    ended = migrate("up")
    assert ended.returncode == code, ended.stderr
    for sentence in sentences:
        assert sentence in ended.stderr


def test_an_edited_file(applied: Command, folder: Folder) -> None:
    folder.write(B, "CREATE TABLE b (id bigint PRIMARY KEY);")
    refused(applied, 5, f"error: {B}.sql was changed after it was applied", "hint: undo the edit and write a new migr")


def test_a_renamed_file(applied: Command, folder: Folder) -> None:
    folder.remove(B)
    folder.table("20260102000000_better_name", "b")
    refused(applied, 5, f"error: {B} is applied, but its file is now called 20260102000000_better_name.sql")


def test_a_deleted_file(applied: Command, folder: Folder) -> None:
    folder.remove(A)
    refused(applied, 5, f"error: {A} is applied, but its file is missing from the folder", "on another branch")


def test_a_file_that_comes_too_late(applied: Command, folder: Folder) -> None:
    folder.table("20260101120000_late", "late")
    refused(applied, 5, f"error: 20260101120000_late is older than {B}, which is already applied")
    assert applied("up", "--allow-out-of-order").returncode == 0


def test_a_late_file_that_says_so(applied: Command, folder: Folder) -> None:
    folder.write("20260101120000_late", "-- out-of-order: ok\nCREATE TABLE late ();", "DROP TABLE late;")
    assert applied("up").returncode == 0


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("-- depend: x", "unknown directive 'depend'"),
        ("-- Transactional: false", "unknown directive 'Transactional'"),
        ("-- transactional: no", "transactional: no is not valid; it takes false or true"),
        ("-- data_loss: ok", "unknown directive 'data_loss'"),
        ("-- lock-timeout: soon", "lock-timeout: 'soon' is not a duration"),
        ("-- irreversible:", "irreversible needs a reason"),
    ],
)
def test_a_misspelt_directive(migrate: Command, folder: Folder, line: str, sentence: str) -> None:
    folder.write(A, f"-- Note: prose with a colon is no directive\n{line}\nSELECT 1;")
    refused(migrate, 7, f"{A}.sql:2:1 error [unknown-directive] {sentence}")


def test_a_directive_below_the_first_statement(migrate: Command, folder: Folder) -> None:
    folder.write(A, "SELECT 1;\n-- transactional: false\n")
    refused(migrate, 7, f"{A}.sql:2:1 error [unknown-directive]", "is below the first statement")


def test_a_missing_rollback_file(migrate: Command, folder: Folder) -> None:
    folder.write(A, "CREATE TABLE a ();", down=None)
    refused(migrate, 7, f"{A}.sql:1:1 error [missing-down] there is no rollback file", "-- irreversible: reason")


def test_an_empty_rollback_file(migrate: Command, folder: Folder) -> None:
    folder.write(A, "CREATE TABLE a ();", down="-- to be done\n")
    refused(migrate, 7, f"{A}.rollback.sql:1:1 error [empty] the file contains no statement")


@pytest.mark.parametrize("control", ["BEGIN", "begin isolation level serializable", "COMMIT", "START TRANSACTION"])
def test_transaction_control(migrate: Command, folder: Folder, control: str, connection: psycopg.Connection) -> None:
    folder.write(A, f"CREATE TABLE a ();\n{control};\n")
    refused(migrate, 7, f"{A}.sql:2:1 error [transaction-control] {control.split()[0].upper()} in a migration")
    assert tables(connection) == set()


def test_a_wrong_folder_and_an_empty_one(migrate: Command, folder: Folder) -> None:
    refused(migrate, 2, f"error: the migrations folder {folder.path} contains no migration")
    migrate.folder = folder.path / "nowhere"
    refused(migrate, 2, "nowhere does not exist")


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("20260101000000_a.up.sql", "would be a forward migration"),
        ("20260101000000_a.py", "migrations must be SQL files, not Python"),
        ("post-apply.sql", "hooks that run after every apply are not supported"),
        ("20260101000000 a.sql", "is not a valid migration name"),
        ("20260101000009_x.rollback.sql", "rolls back a migration that does not exist"),
    ],
)
def test_a_file_that_is_no_migration(migrate: Command, folder: Folder, name: str, sentence: str) -> None:
    folder.table(A, "a")
    (folder.path / name).write_text("SELECT 1;")
    refused(migrate, 2, sentence)


def test_a_file_that_is_not_utf8(migrate: Command, folder: Folder) -> None:
    folder.write(A, "SELECT 1;")
    (folder.path / f"{A}.sql").write_bytes(b"SELECT 1;\nSELECT '\xe9';\n")
    refused(migrate, 7, "[encoding] the file is not UTF-8: byte 0xe9 in line 2")


def test_a_command_of_psql(migrate: Command, folder: Folder) -> None:
    folder.write(A, "SELECT 1;\n\\i other.sql\n")
    refused(migrate, 7, f"{A}.sql:2:1 error [psql-command] \\i is a psql meta-command, not SQL")


def test_data_loss_without_consent(migrate: Command, folder: Folder) -> None:
    folder.write(A, "CREATE TABLE a (x int, y int);\nALTER TABLE a DROP y;")
    refused(migrate, 7, f"{A}.sql:2:1 error [data-loss] DROP COLUMN discards data", "-- data-loss: ok")
    folder.write(A, "-- data-loss: ok\nCREATE TABLE a (x int, y int);\nALTER TABLE a DROP y;")
    assert migrate("up").returncode == 0


def test_concurrently_in_a_transaction(migrate: Command, folder: Folder) -> None:
    folder.write(A, "CREATE INDEX CONCURRENTLY a_id ON a (id);")
    refused(migrate, 7, "[needs-no-transaction] CONCURRENTLY cannot run in a transaction", "-- transactional: false")


@pytest.mark.parametrize(
    ("kind", "edit"),
    [
        ("line ends", lambda text: text.replace(b"\n", b"\r\n")),
        ("a byte order mark", lambda text: b"\xef\xbb\xbf" + text),
        ("comments", lambda text: b"-- why\n/* and /* how */ */" + text.replace(b";", b" -- here\n;")),
        ("white space", lambda text: text.replace(b" ", b"\n\t  ")),
    ],
)
def test_an_edit_that_changes_no_token_is_no_edit(migrate: Command, folder: Folder, kind: str, edit: object) -> None:
    folder.write(A, "CREATE TABLE a (\n    id int DEFAULT 1+1,\n    t text DEFAULT 'x'\n);\n")
    assert migrate("up").returncode == 0
    path = folder.path / f"{A}.sql"
    path.write_bytes(edit(path.read_bytes()))  # type: ignore[operator]
    ended = migrate("up")
    assert (ended.returncode, ended.stdout) == (0, "nothing to do; nothing pending\n"), kind
    assert migrate("status", "--check").returncode == 0


def test_an_unknown_id_and_one_that_fits_two(migrate: Command, folder: Folder) -> None:
    folder.table(A, "a")
    folder.table(B, "b")
    unknown = migrate("up", "--to", "nothing")
    assert (unknown.returncode, "there is no migration 'nothing'" in unknown.stderr) == (2, True)
    several = migrate("up", "--to", "2026")
    assert (several.returncode, "'2026' matches 2 migrations" in several.stderr) == (2, True)
    assert migrate("up", "0").returncode == 2


def test_rolling_back_without_a_rollback_is_refused_and_nothing_is_unmarked(migrate: Command, folder: Folder) -> None:
    folder.table(A, "a")
    with psycopg.connect(migrate.conninfo) as connection:
        connection.execute("CREATE TABLE a (id int PRIMARY KEY)")
    Migrator(migrate.conninfo, folder.path)  # stock yoyo applied it, and kept nothing
    folder.write(A, "-- irreversible: no\nSELECT 1;", down=None)
    migrate("up")
    ended = migrate("down", "--yes")
    assert ended.returncode == 2
    assert Migrator(migrate.conninfo, folder.path).status().applied == [A]
