"""Declared schema, migrations and live database: diff, check, baseline, squash."""

from __future__ import annotations

import json
from pathlib import Path

import psycopg
import pytest

from agent_storage.migrations.errors import DriftFound, StatementFailed
from agent_storage.migrations.files.file import read_folder
from agent_storage.migrations.migrator import Migrator
from agent_storage.migrations.verify.declared import load_schema
from agent_storage.migrations.verify.shadow import leftovers

from .conftest import Command, Folder, tables

TABLE_A = "CREATE TABLE a (id int PRIMARY KEY, b_id int REFERENCES b);"
VIEW_AB = "CREATE VIEW ab AS SELECT * FROM a JOIN b USING (id);"
A, B, C = "20260101000000_a", "20260102000000_b", "20260103000000_c"


@pytest.fixture
def declared(tmp_path: Path) -> Path:
    """Two tables of which the first by name refers to the second, and what both share."""
    folder = tmp_path / "declared tables"
    for name, text in {
        "a": f"{TABLE_A}\n{VIEW_AB}",
        "b": "CREATE TABLE b (id int PRIMARY KEY DEFAULT one());",
    }.items():
        (folder / name).mkdir(parents=True)
        (folder / name / "schema.sql").write_text(text)
    (folder / "_shared.sql").write_text("CREATE FUNCTION one() RETURNS int LANGUAGE sql RETURN 1;")
    return folder


@pytest.fixture
def agreeing(folder: Folder) -> Folder:
    """Migrations that make the declared schema."""
    folder.write(
        A,
        "CREATE FUNCTION one() RETURNS int LANGUAGE sql RETURN 1;\nCREATE TABLE b (id int PRIMARY KEY DEFAULT one());",
        "DROP TABLE b;\nDROP FUNCTION one;",
    )
    folder.write(
        B,
        f"{TABLE_A}\n{VIEW_AB}",
        "DROP VIEW ab;\nDROP TABLE a;",
    )
    return folder


def test_schema_files_load_in_whatever_order_they_need(declared: Path, connection: psycopg.Connection) -> None:
    load_schema(connection, declared)
    assert tables(connection) == {"a", "b"}


def test_a_schema_file_that_cannot_load_says_where_and_leaves_nothing(
    declared: Path, connection: psycopg.Connection
) -> None:
    (declared / "b" / "schema.sql").write_text("CREATE TABLE b (id int PRIMARY KEY);\nCREATE TABLE c (x nonsense);")
    with pytest.raises(StatementFailed, match=r'b/schema\.sql:2:19 42704 type "nonsense" does not exist'):
        load_schema(connection, declared)
    assert tables(connection) == set()


def test_no_drift_after_up_and_every_change_by_hand_is_drift(
    migrate: Command, agreeing: Folder, connection: psycopg.Connection
) -> None:
    Migrator(migrate.conninfo, agreeing.path).up()
    quiet = migrate("diff")
    assert (quiet.returncode, quiet.stdout) == (0, "db and applied agree\n")
    connection.execute("ALTER TABLE a ADD COLUMN by_hand text")
    found = migrate("diff")
    assert found.returncode == 4
    assert "by_hand" in found.stdout
    repair = migrate("diff", "--fix-sql").stdout
    connection.execute(repair.replace("-- data loss: ", "").encode())
    assert migrate("diff").returncode == 0


def test_pending_is_not_drift(migrate: Command, agreeing: Folder) -> None:
    Migrator(migrate.conninfo, agreeing.path).up(1)
    assert migrate("diff").returncode == 0


def test_drift_is_measured_against_what_was_applied_not_against_edited_files(
    migrate: Command, agreeing: Folder
) -> None:
    Migrator(migrate.conninfo, agreeing.path).up()
    agreeing.write(A, "CREATE TABLE something_else ();")
    agreeing.remove(B)
    assert migrate("diff").returncode == 0


def test_status_and_drift_need_only_a_role_that_may_read(
    migrate: Command, agreeing: Folder, connection: psycopg.Connection, server_conninfo: str, role: str
) -> None:
    Migrator(migrate.conninfo, agreeing.path).up()
    connection.execute(f"GRANT pg_read_all_data TO {role}")
    migrate.conninfo = psycopg.conninfo.make_conninfo(migrate.conninfo, user=role)
    assert migrate("status", "--check").returncode == 0
    drift = migrate("diff", "--shadow-url", server_conninfo)
    assert drift.returncode == 0, drift.stderr
    assert migrate("down", "--yes").returncode == 8


def test_diff_of_any_two(migrate: Command, agreeing: Folder, declared: Path) -> None:
    same = migrate("diff", "migrations", "schema", "--tables", str(declared))
    assert (same.returncode, same.stdout) == (0, "migrations and schema agree\n")
    (declared / "b" / "schema.sql").write_text("CREATE TABLE b (id int PRIMARY KEY DEFAULT one(), forgotten text);")
    found = migrate("diff", "migrations", "schema", "--tables", str(declared))
    assert found.returncode == 4
    assert "forgotten" in found.stdout
    assert migrate("diff", "db", "migrations").returncode == 4, "nothing is applied yet"
    assert migrate("diff", "db", "nonsense").returncode == 2


def test_test_proves_the_way_back(migrate: Command, agreeing: Folder) -> None:
    good = migrate("check", "--only", "test")
    assert (good.returncode, good.stdout) == (0, "ok      test\n")
    agreeing.write(C, "CREATE TABLE c (); CREATE INDEX a_b ON a (b_id);", "DROP TABLE c;")
    bad = migrate("check", "--only", "test")
    assert bad.returncode == 7
    assert f'{C}.sql:1:20 42P07 relation "a_b" already exists' in bad.stdout
    agreeing.write(C, "CREATE TABLE c (); CREATE INDEX IF NOT EXISTS a_b ON a (b_id);", "DROP TABLE c;")
    bad = migrate("check", "--only", "test")
    assert bad.returncode == 7
    assert "after down:" in bad.stdout
    assert "a_b" in bad.stdout


def test_test_takes_migrations_without_a_transaction_and_without_a_way_back(migrate: Command, agreeing: Folder) -> None:
    agreeing.write(
        C,
        "-- transactional: false\nCREATE INDEX CONCURRENTLY a_b ON a (b_id);",
        "DROP INDEX CONCURRENTLY a_b;",
    )
    agreeing.write("20260104000000_d", "-- irreversible: sent\nSELECT 1;", down=None)
    good = migrate("check", "--only", "test")
    assert good.stdout.splitlines() == ["ok      test", "  20260104000000_d: irreversible, up only"]


def test_check_is_the_whole_truth(migrate: Command, agreeing: Folder, declared: Path) -> None:
    def check(*options: str) -> tuple[int, dict[str, int]]:
        ended = migrate("check", "--json", "--tables", str(declared), *options)
        report = json.loads(ended.stdout)
        return ended.returncode, {part["name"]: part["exit_code"] for part in report["parts"]}

    assert check() == (
        3,
        {"lint": 0, "history": 3, "test": 0, "schema": 0, "drift": 0},
    )
    assert check("--no-db") == (0, {"lint": 0, "test": 0, "schema": 0})
    Migrator(migrate.conninfo, agreeing.path).up()
    assert check()[0] == 0
    (declared / "a" / "schema.sql").write_text("CREATE TABLE a (id int PRIMARY KEY);")
    assert check() == (4, {"lint": 0, "history": 0, "test": 0, "schema": 4, "drift": 0})
    assert check("--no-schema")[0] == 0
    assert check("--only", "drift", "--only", "history") == (0, {"history": 0, "drift": 0})
    assert check("--only", "schema") == (4, {"schema": 4})
    assert migrate("check", "--only", "drift", "--no-db").returncode == 2


def test_the_library_checks_and_measures_drift_too(database: str, agreeing: Folder, declared: Path) -> None:
    migrator = Migrator(database, agreeing.path)
    migrator.up()
    assert migrator.check(tables=declared).exit_code == 0
    assert migrator.drift().drift == []


def test_baseline_is_proved(migrate: Command, agreeing: Folder, connection: psycopg.Connection) -> None:
    refused = migrate("baseline", "--to", "b")
    assert refused.returncode == 4
    assert f"the schema of the database differs from that of the migrations up to {B}" in refused.stderr
    for name in (A, B):
        connection.execute((agreeing.path / f"{name}.sql").read_bytes())
    done = migrate("baseline", "--to", "b")
    assert done.returncode == 0, done.stderr
    assert Migrator(migrate.conninfo, agreeing.path).status().at_head
    assert migrate("down", "--all", "--yes").returncode == 0
    assert tables(connection) == set()


def test_squash_is_proved_and_databases_take_it_for_applied(
    migrate: Command, agreeing: Folder, connection: psycopg.Connection
) -> None:
    agreeing.write(
        C, "-- transactional: false\nCREATE INDEX CONCURRENTLY a_b ON a (b_id);", "DROP INDEX CONCURRENTLY a_b;"
    )
    agreeing.table("20260104000000_d", "d")
    migrator = Migrator(migrate.conninfo, agreeing.path)
    migrator.up()
    done = migrate("squash", "--to", C, "--yes")
    assert done.returncode == 0, done.stderr
    assert [file.id for file in read_folder(agreeing.path)] == ["20260103000000_squashed", "20260104000000_d"]
    assert migrator.status().pending == []
    assert not migrator.up().changed
    assert migrator.status().applied == ["20260103000000_squashed", "20260104000000_d"]
    assert migrate("diff").returncode == 0
    migrator.down(all=True)
    assert tables(connection) == set()
    assert len(migrator.up().done) == 2


def test_a_squash_on_half_a_history_is_refused(migrate: Command, agreeing: Folder) -> None:
    migrator = Migrator(migrate.conninfo, agreeing.path)
    migrator.up(1)
    assert migrate("squash", "--to", B, "--yes").returncode == 0
    ended = migrate("up")
    assert ended.returncode == 5
    assert "replaces 2 migrations, of which only 1 are applied" in ended.stderr


def test_a_squash_that_would_change_anything_is_refused(database: str, folder: Folder, server_conninfo: str) -> None:
    from agent_storage.migrations.commands.rearrange import squash
    from agent_storage.migrations.verify.shadow import ShadowServer

    folder.write(A, "CREATE TABLE a (); SET search_path = pg_temp;", "DROP TABLE a;")
    folder.write(B, "CREATE TABLE b ();", "DROP TABLE b;")
    with pytest.raises(DriftFound, match="does not create the same schema"):
        squash(Migrator(database, folder.path), ShadowServer(server_conninfo, like=None), B)
    assert (folder.path / f"{A}.sql").is_file()


def test_shadows_are_gone_even_after_an_error(migrate: Command, folder: Folder, server_conninfo: str) -> None:
    folder.write(A, "SELECT nonsense;")
    assert migrate("check", "--only", "test").returncode == 1
    with psycopg.connect(server_conninfo) as connection:
        assert leftovers(connection) == []


def test_doctor_finds_what_killed_runs_have_left(migrate: Command, folder: Folder, server_conninfo: str) -> None:
    folder.table(A, "a")
    with psycopg.connect(server_conninfo, autocommit=True) as connection:
        connection.execute("CREATE DATABASE storage_shadow_1_1")
        try:
            found = migrate("doctor")
        finally:
            connection.execute("DROP DATABASE storage_shadow_1_1")
    assert found.returncode == 7
    assert "left by killed runs: storage_shadow_1_1" in found.stdout


def test_locks_name_who_waits_for_whom(migrate: Command, folder: Folder, connection: psycopg.Connection) -> None:
    folder.table(A, "a")
    assert "no migrator runs" in migrate("locks").stdout
    connection.execute("SELECT pg_advisory_lock(%s)", (0x53544F52_4D494752,))
    assert f"migrating: pid {connection.info.backend_pid}" in migrate("locks").stdout
