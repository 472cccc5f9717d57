"""Putting right what branches, renames and merges do to a timeline: repair, rebase, sync, show, seed."""

from __future__ import annotations

import json

import psycopg
import pytest

from agent_storage.migrations.commands.amend import repair
from agent_storage.migrations.commands.rearrange import rebase
from agent_storage.migrations.commands.seed import seed, seed_files
from agent_storage.migrations.commands.show import show
from agent_storage.migrations.commands.sync import not_in_folder, sync
from agent_storage.migrations.errors import InvalidRequest, LintFailed, Pending
from agent_storage.migrations.files import lockfile
from agent_storage.migrations.files.file import read_folder
from agent_storage.migrations.migrator import Migrator

from .conftest import Command, Folder, tables

A, B, C = "20260101000000_a", "20260102000000_b", "20260103000000_c"


@pytest.fixture
def migrator(database: str, folder: Folder) -> Migrator:
    folder.table(A, "a")
    folder.table(B, "b")
    migrator = Migrator(database, folder.path)
    migrator.up()
    return migrator


def test_repair_accepts_an_edit(migrator: Migrator, folder: Folder) -> None:
    folder.write(A, "CREATE TABLE a (id integer PRIMARY KEY);", "DROP TABLE a;")
    assert repair(migrator).changes == [f"accept {A} as its file is now"]
    assert migrator.status().at_head
    assert repair(migrator).changes == []


def test_repair_accepts_a_new_name_and_keeps_the_order(migrator: Migrator, folder: Folder) -> None:
    folder.remove(A)
    folder.table("20260101000000_better", "a")
    assert repair(migrator).changes == [f"rename {A} to 20260101000000_better"]
    assert migrator.status().at_head
    assert [done.id for done in migrator.down(2).done] == [B, "20260101000000_better"]


def test_repair_removes_the_lock_of_a_dead_stock_yoyo(migrate: Command, migrator: Migrator) -> None:
    with psycopg.connect(migrate.conninfo, autocommit=True) as connection:
        connection.execute("INSERT INTO yoyo_lock (locked, ctime, pid) VALUES (1, now(), 4711)")
    assert migrate("repair").returncode == 2, "nobody there to say yes"
    done = migrate("repair", "--yes")
    assert "done: remove stock yoyo's lock of process 4711" in done.stdout
    assert migrate("up").returncode == 0


def test_rebase_gives_late_files_a_date_after_all_others(migrator: Migrator, folder: Folder) -> None:
    folder.table("20260101120000_late", "late")
    folder.write("20260101130000_later", "-- depends: 20260101120000_late\nCREATE TABLE later ();", "DROP TABLE later;")
    lockfile.write(folder.path, read_folder(folder.path))
    renamed = rebase(migrator)
    assert [one.old for one in renamed] == ["20260101120000_late", "20260101130000_later"]
    assert all(one.new > B for one in renamed)
    assert [done.id for done in migrator.up().done] == [one.new for one in renamed]
    assert lockfile.differences(folder.path, read_folder(folder.path)) == []
    assert rebase(migrator) == []


def test_sync_brings_the_database_to_the_branch(
    migrator: Migrator, folder: Folder, connection: psycopg.Connection
) -> None:
    folder.remove(B)
    folder.table("20260101120000_other", "other")
    result = sync(migrator, not_in_folder(migrator))
    assert [(done.id, done.direction) for done in result.done] == [(B, "down"), ("20260101120000_other", "up")]
    assert tables(connection) == {"a", "other"}
    assert migrator.status().at_head


def test_sync_asks_before_it_takes_anything_back(migrate: Command, migrator: Migrator, folder: Folder) -> None:
    folder.remove(B)
    ended = migrate("sync")
    assert (ended.returncode, f"roll back {B}?" in ended.stderr) == (2, True)
    assert migrate("sync", "--yes").returncode == 0


def test_show_knows_what_the_folder_has_forgotten(migrate: Command, migrator: Migrator, folder: Folder) -> None:
    folder.remove(B)
    found = show(migrator, "b")
    assert (found.state, found.origin) == ("missing", "from the database's copy")
    assert "CREATE TABLE b" in migrate("show", B).stdout
    assert "DROP TABLE b" in migrate("show", "b", "--down").stdout
    assert json.loads(migrate("show", "a", "--json").stdout)["origin"] == "from its file"


def test_seeds_run_every_time_in_a_transaction_each(
    migrator: Migrator, folder: Folder, connection: psycopg.Connection
) -> None:
    seeds = folder.path.parent / "seeds"
    seeds.mkdir()
    (seeds / "1_a.sql").write_text("INSERT INTO a VALUES (1) ON CONFLICT DO NOTHING;")
    (seeds / "2_b.sql").write_text("INSERT INTO b SELECT id FROM a ON CONFLICT DO NOTHING;")
    for _ in range(2):
        assert [done.id for done in seed(migrator, seed_files(seeds)).done] == ["1_a", "2_b"]
    assert connection.execute("SELECT count(*) FROM b").fetchone() == (1,)


def test_seeds_want_a_database_at_head_and_no_transaction_of_their_own(migrator: Migrator, folder: Folder) -> None:
    path = folder.path.parent / "seed.sql"
    path.write_text("BEGIN; INSERT INTO a VALUES (1);")
    with pytest.raises(LintFailed, match="transaction-control"):
        seed(migrator, [path])
    path.write_text("INSERT INTO a VALUES (1);")
    folder.table(C, "c")
    with pytest.raises(Pending):
        seed(migrator, [path])
    with pytest.raises(InvalidRequest, match="contains no seed files"):
        seed_files(folder.path.parent / "nowhere")
