"""Beside stock yoyo: the same files and tables, in both directions."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest
import yoyo.internalmigrations
from psycopg.conninfo import conninfo_to_dict
from yoyo.backends.core.postgresql import PostgresqlPsycopgBackend
from yoyo.migrations import Migration, MigrationList, default_migration_table, get_migration_hash, topological_sort

from agent_storage.migrations.errors import LockNotObtained
from agent_storage.migrations.migrator import Migrator

from .conftest import Command, Folder, tables

A, B = "20260101000000_a", "20260102000000_b"


@pytest.fixture
def two(folder: Folder) -> Folder:
    folder.table(A, "a")
    folder.write(B, f"-- depends: {A}\nCREATE TABLE b (id int);\nINSERT INTO b VALUES (1);\n", "DROP TABLE b;")
    return folder


def stock(command: str, database: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run stock yoyo."""
    part = conninfo_to_dict(database)
    url = f"postgresql+psycopg://{part['user']}@/{part['dbname']}?host={quote(str(part['host']), safe='')}"
    if part.get("port"):
        url += f"&port={part['port']}"
    call = [sys.executable, "-m", "yoyo", command, "--batch", "--no-config-file", "--database", url]
    call += ["--all"] if command == "rollback" else []
    return subprocess.run([*call, str(folder)], capture_output=True, text=True, check=False, timeout=60)


def test_stock_yoyo_lists_and_rolls_back_what_we_applied(
    database: str, two: Folder, connection: psycopg.Connection
) -> None:
    migrator = Migrator(database, two.path)
    migrator.up()
    listed = stock("list", database, two.path)
    assert listed.returncode == 0, listed.stderr
    assert [line.split()[:2] for line in listed.stdout.splitlines() if line.startswith(("A ", "U "))] == [
        ["A", A],
        ["A", B],
    ]
    back = stock("rollback", database, two.path)
    assert back.returncode == 0, back.stderr
    assert tables(connection) == set()
    assert migrator.status().pending == [A, B]
    assert [done.id for done in migrator.up().done] == [A, B]
    assert migrator.status().at_head


def test_we_adopt_what_stock_yoyo_applied(database: str, two: Folder, connection: psycopg.Connection) -> None:
    applied = stock("apply", database, two.path)
    assert applied.returncode == 0, applied.stderr
    migrator = Migrator(database, two.path)
    assert migrator.status().applied == [A, B]
    two.table("20260103000000_c", "c")
    assert [done.id for done in migrator.up().done] == ["20260103000000_c"]
    two.write(A, "CREATE TABLE other ();")
    assert [problem.kind for problem in migrator.status().problems] == ["edited"]
    assert [done.id for done in migrator.down(3).done] == ["20260103000000_c", B, A]
    assert tables(connection) == set()


def test_what_stock_yoyo_applied_again_counts_anew(database: str, two: Folder) -> None:
    migrator = Migrator(database, two.path)
    migrator.up()
    stock("rollback", database, two.path)
    two.write(A, "CREATE TABLE a (other int);", "DROP TABLE a;")
    stock("apply", database, two.path)
    assert migrator.status().problems == []
    assert not migrator.up().changed
    two.write(A, "CREATE TABLE a ();", "DROP TABLE a;")
    assert [problem.kind for problem in migrator.status().problems] == ["edited"]


def test_a_running_stock_yoyo_is_not_disturbed(migrate: Command, two: Folder, connection: psycopg.Connection) -> None:
    Migrator(migrate.conninfo, two.path).up(1)
    connection.execute("INSERT INTO yoyo_lock (locked, ctime, pid) VALUES (1, now(), 4711)")
    with pytest.raises(LockNotObtained, match="stock yoyo's lock is held by process 4711 since"):
        Migrator(migrate.conninfo, two.path).up()
    assert Migrator(migrate.conninfo, two.path).status().pending == [B]


def test_the_tables_are_those_of_stock_yoyo(database: str, two: Folder, server_conninfo: str) -> None:
    def shape(conninfo: str) -> list[tuple[object, ...]]:
        with psycopg.connect(conninfo) as opened:
            return opened.execute(
                "SELECT table_name, column_name, data_type, character_maximum_length, is_nullable"
                "  FROM information_schema.columns WHERE table_name LIKE '%yoyo%' ORDER BY 1, ordinal_position"
            ).fetchall()

    Migrator(database, two.path).up()
    ours = shape(database)
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("DROP TABLE a, b, _storage_migration, _yoyo_log, _yoyo_version, _yoyo_migration, yoyo_lock")
    stock("apply", database, two.path)
    assert shape(database) == ours


def test_the_names_of_yoyo_that_we_rely_on_are_there() -> None:
    assert default_migration_table == "_yoyo_migration"
    assert len(get_migration_hash(A)) == 64
    assert max(yoyo.internalmigrations.schema_versions) == 2
    assert callable(yoyo.internalmigrations.needs_upgrading)
    assert callable(yoyo.internalmigrations.upgrade)
    assert callable(topological_sort)
    assert callable(MigrationList)
    assert Migration.depends.fget is not None
    for name in (
        "mark_one",
        "unmark_one",
        "log_migration",
        "get_log_data",
        "format_sql",
        "execute",
        "create_lock_table_sql",
        "list_tables",
        "ensure_internal_schema_updated",
        "init_connection",
        "_load_driver_module",
    ):
        assert hasattr(PostgresqlPsycopgBackend, name), name
