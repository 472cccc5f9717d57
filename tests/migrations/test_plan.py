"""`up --dry-run --locks`, which runs pending migrations in a shadow database."""

from __future__ import annotations

import json

import psycopg
import pytest

from agent_storage.migrations.migrator import Migrator

from .conftest import Command, Folder

A, B, C = "20260101000000_a", "20260102000000_b", "20260103000000_c"


@pytest.fixture
def planned(migrate: Command, folder: Folder, connection: psycopg.Connection) -> dict[str, object]:
    folder.write(
        A, "CREATE TABLE a (id int PRIMARY KEY, n int, t text); CREATE TABLE r (id int PRIMARY KEY);", "SELECT 1"
    )
    Migrator(migrate.conninfo, folder.path).up()
    connection.execute("INSERT INTO a SELECT n, n, 'x' FROM generate_series(1, 1000) n")
    connection.execute("ANALYZE a")
    folder.write(
        B,
        """
        ALTER TABLE a ADD COLUMN plain int;
        ALTER TABLE a ALTER COLUMN n TYPE bigint;
        CREATE INDEX a_t ON a (t);
        CREATE TABLE fresh (id int REFERENCES r);
        ALTER TABLE fresh ADD COLUMN x int;
        UPDATE a SET n = n + 1;
        """,
    )
    folder.write(C, "-- transactional: false\nCREATE INDEX CONCURRENTLY a_n ON a (n);")
    ended = migrate("up", "--dry-run", "--locks", "--json")
    assert ended.returncode == 0, ended.stderr
    return {
        statement["text"].split("(")[0].strip(): statement["locks"]
        for migration in json.loads(ended.stdout)["migrations"]
        for statement in migration["statements"]
    }


def test_locks_and_rewrites_are_seen_with_the_rows_they_concern(planned: dict[str, list[dict[str, object]]]) -> None:
    added = planned["ALTER TABLE a ADD COLUMN plain int"]
    assert [(one["table"], one["mode"], one["rewrite"]) for one in added] == [
        ("public.a", "AccessExclusiveLock", False)
    ]
    assert added[0]["rows"] == 1000
    assert added[0]["effect"] == "blocks reads and writes"
    (retyped,) = planned["ALTER TABLE a ALTER COLUMN n TYPE bigint"]
    assert retyped["rewrite"] is True


def test_only_new_locks_on_tables_that_were_there_are_named(planned: dict[str, list[dict[str, object]]]) -> None:
    assert planned["CREATE INDEX a_t ON a"] == []
    assert [one["table"] for one in planned["CREATE TABLE fresh"]] == ["public.r"]
    assert planned["ALTER TABLE fresh ADD COLUMN x int"] == []


def test_a_concurrent_build_is_known_to_let_readers_and_writers_be(planned: dict[str, list[dict[str, object]]]) -> None:
    (built,) = planned["CREATE INDEX CONCURRENTLY a_n ON a"]
    assert (built["table"], built["mode"]) == ("public.a", "ShareUpdateExclusiveLock")


def test_the_plan_for_people(migrate: Command, folder: Folder, connection: psycopg.Connection) -> None:
    folder.write(A, "CREATE TABLE a (id int);")
    Migrator(migrate.conninfo, folder.path).up()
    folder.write(B, "ALTER TABLE a ADD COLUMN x int;")
    assert "AccessExclusiveLock on public.a (about 0 rows" in migrate("up", "--dry-run", "--locks").stdout
    assert "1  ALTER TABLE a ADD COLUMN x int" in migrate("up", "--dry-run").stdout
    assert Migrator(migrate.conninfo, folder.path).status().pending == [B]
    names = connection.execute("SELECT datname FROM pg_database WHERE datname LIKE 'storage_shadow%'").fetchall()
    assert names == []


def test_a_plan_is_refused_where_up_would_be(migrate: Command, folder: Folder) -> None:
    folder.write(B, "-- only a comment yet\n")
    for command in (["--dry-run"], ["--dry-run", "--locks"]):
        refused = migrate("up", *command)
        assert (refused.returncode, f"{B}.sql:1:1 error [empty]" in refused.stderr) == (7, True)
    folder.table(B, "b")
    Migrator(migrate.conninfo, folder.path).up()
    folder.table(A, "a")
    assert f"{A} is older than {B}" in migrate("up", "--dry-run").stderr
    assert migrate("up", "--dry-run", "--allow-out-of-order").returncode == 0


def test_a_plan_is_limited_as_up_is(migrate: Command, folder: Folder) -> None:
    folder.table(A, "a")
    folder.table(B, "b")
    for options in ([], ["--locks"]):
        planned = json.loads(migrate("up", "1", "--dry-run", *options, "--json").stdout)
        assert [one["id"] for one in planned["migrations"]] == [A]


def test_locks_are_traced_in_a_dry_run_only(migrate: Command, folder: Folder) -> None:
    folder.table(A, "a")
    refused = migrate("up", "--locks")
    assert (refused.returncode, "needs --dry-run" in refused.stderr) == (2, True)
    assert Migrator(migrate.conninfo, folder.path).status().pending == [A]
