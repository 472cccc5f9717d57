"""SQLite and MySQL below the provider: migrations, rules of the schema, plans, lost connections, locks, forks."""

from __future__ import annotations

import asyncio
import os
import re
import sqlite3
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import pytest

from agent_storage import InvalidSettings, OutcomeUnknown, PoolTimeout, Retryable, StorageError, Unavailable
from agent_storage.adapters.checkpoints import checkpoint_provider
from agent_storage.adapters.checkpoints.engines.migrating import FOLDER, EngineMigrations
from agent_storage.adapters.checkpoints.engines.mysql import Mysql
from agent_storage.adapters.checkpoints.engines.sqlite import Sqlite
from agent_storage.errors import MigrationError
from agent_storage.sync.adapters import checkpoints as sync_adapters
from agent_storage.types import NewCheckpoint

from .test_contract import checkpoint


def engine_of(url: str, **settings: Any) -> Any:
    return Mysql(url, **settings) if url.startswith("mysql") else Sqlite(url.removeprefix("sqlite:///"), **settings)


def normal(text: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"--[^\n]*\n", "", text)).strip().rstrip(";")


def schema(engine: Any) -> list[str]:
    """The declared objects, as the database describes them."""
    if engine.name == "sqlite":
        rows = engine.read("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL AND tbl_name = 'checkpoints'", ())
        return sorted(normal(sql) for (sql,) in rows)
    names = [name for (name,) in engine.read("SHOW TABLES", ())]
    return [engine.read("SHOW CREATE TABLE checkpoints", ())[0][1]] if "checkpoints" in names else []


# ---- migrations ------------------------------------------------------------------------------------------------------


def test_the_migrations_make_the_declared_schema_and_undo_it(other_url: str) -> None:
    engine = engine_of(other_url)
    engine.open()
    migrations = EngineMigrations(engine)
    ids = migrations.pending()
    assert migrations.up() == ids and migrations.up() == [] == migrations.pending()
    made = schema(engine)
    assert migrations.down(len(ids)) == ids[::-1] and schema(engine) == []
    declared = (FOLDER / f"schema.{engine.name}.sql").read_text()
    with engine.exclusive() as run:
        for statement in declared.split(";\n"):
            if normal(statement):
                run(statement, ())
    assert schema(engine) == made
    with engine.exclusive() as run:
        run("DROP TABLE checkpoints", ())
    assert migrations.up() == ids and schema(engine) == made
    engine.close()


async def test_the_provider_rolls_back_and_migrates_again(other_url: str) -> None:
    async with checkpoint_provider(other_url) as provider:
        await provider.store_checkpoint(checkpoint())
        assert await provider.roll_back() and not await provider.roll_back()  # pyright: ignore
        await provider.initialize()
        assert len(await provider.list_checkpoints()) == 0


async def test_a_database_that_a_newer_release_has_migrated_is_left_as_it_is(other_url: str) -> None:
    async with checkpoint_provider(other_url) as provider:
        await provider.store_checkpoint(checkpoint())
    engine = engine_of(other_url)
    engine.open()
    with engine.exclusive() as run:
        run("INSERT INTO checkpoint_migrations VALUES ('29991231235959_newer', 'up', 3, 3, 1)", ())
    async with checkpoint_provider(other_url) as provider:
        assert len(await provider.list_checkpoints()) == 1
    assert len(engine.read("SELECT id FROM checkpoint_migrations", ())) == 2
    engine.close()


def test_a_migration_that_fails_is_reported_and_leaves_the_history_as_it_was(other_url: str, tmp_path: Path) -> None:
    folder = tmp_path / "migrations"
    folder.mkdir()
    (folder / "20260101000000_good.sql").write_text("CREATE TABLE good (id INT);\n")
    (folder / "20260102000000_bad.sql").write_text("CREATE TABLE bad (id INT);\nCREATE NONSENSE;\n")
    engine = engine_of(other_url)
    engine.open()
    migrations = EngineMigrations(engine, folder)
    with pytest.raises(MigrationError, match="20260102000000_bad failed"):
        migrations.up()
    # SQLite has undone all; MySQL kept the first file and continues at the statement that failed.
    assert len(migrations.pending()) == (2 if engine.name == "sqlite" else 1)
    (folder / "20260102000000_bad.sql").write_text("CREATE TABLE bad (id INT);\nCREATE TABLE worse (id INT);\n")
    assert migrations.up() and not migrations.pending()
    engine.read("SELECT good.id, bad.id, worse.id FROM good, bad, worse", ())
    with pytest.raises(MigrationError, match="no rollback file"):
        migrations.down()
    engine.close()


def test_at_head_a_user_without_ddl_initializes_mysql(mysql_url: str) -> None:
    with sync_adapters.checkpoint_provider(mysql_url) as provider:
        provider.store_checkpoint(checkpoint())
    database = urlsplit(mysql_url).path.lstrip("/")
    owner, user = Mysql(mysql_url), f"app_{uuid4().hex[:8]}"
    owner.open()
    owner.read(f"CREATE USER {user}@'%' IDENTIFIED BY 'hush'", ())
    try:
        owner.read(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {database}.* TO {user}@'%'", ())
        limited = re.sub(r"mysql://[^/]*@", f"mysql://{user}:hush@", mysql_url)
        with sync_adapters.checkpoint_provider(limited) as provider:
            provider.store_checkpoint(checkpoint())
            with pytest.raises(StorageError, match="grant it"):
                provider.roll_back()  # pyright: ignore
    finally:
        owner.read(f"DROP USER {user}@'%'", ())
        owner.close()


# ---- rules that raw SQL meets ----------------------------------------------------------------------------------------

BROKEN = {
    "agent_id": "''",
    "owner": "''",
    "id": "'short'",
    "captured_at": "-62135596800000001",
    "created_at": "253402300800000000",
    "updated_at": "253402300800000000",
    "parent_id": "'00000000-0000-7000-8000-000000000000'",
    "state": "NULL",
}


@pytest.mark.parametrize("column", BROKEN)
async def test_raw_sql_cannot_break_a_rule_of_the_table(other_url: str, column: str) -> None:
    async with checkpoint_provider(other_url) as provider:
        id_ = await provider.store_checkpoint(checkpoint())
    engine = engine_of(other_url)
    engine.open()
    with pytest.raises(StorageError):
        engine.write(lambda run: run(f"UPDATE checkpoints SET {column} = {BROKEN[column]}", ()), repeatable=False)
    with pytest.raises(StorageError):  # generated
        engine.write(lambda run: run("UPDATE checkpoints SET size_bytes = 1", ()), repeatable=False)
    assert engine.read("SELECT id, size_bytes FROM checkpoints", ()) == [(id_, 2)]
    engine.close()


@pytest.mark.parametrize("rule", ["state = 'no json'", "captured_at = 'yesterday'", "agent_id = zeroblob(3)"])
async def test_sqlite_keeps_the_types_of_columns(sqlite_url: str, rule: str) -> None:
    async with checkpoint_provider(sqlite_url) as provider:
        await provider.store_checkpoint(checkpoint())
    connection = sqlite3.connect(sqlite_url.removeprefix("sqlite:///"))
    with pytest.raises(sqlite3.IntegrityError):
        connection.execute(f"UPDATE checkpoints SET {rule}")
    connection.close()


# ---- plans -----------------------------------------------------------------------------------------------------------

READS: dict[str, tuple[str, Any]] = {
    "checkpoints_agent_id_idx": ("latest", lambda p: p.latest_checkpoint("agent 7")),
    "checkpoints_agent_id_idx ": ("history", lambda p: p.list_checkpoints("agent 7", limit=10)),
    "checkpoints_session_id_idx": ("session", lambda p: p.list_checkpoints(session_id="s7", limit=10)),
    "checkpoints_session_id_idx ": ("application", lambda p: p.retrieve_checkpoints("s7")),
    "checkpoints_agent_type_idx": ("type", lambda p: p.list_checkpoints(agent_type="t7", limit=10)),
    "checkpoints_owner_idx": ("owner", lambda p: p.list_checkpoints(owner="o7", limit=10)),
    "checkpoints_captured_at_idx": ("newest", lambda p: p.list_checkpoints(limit=10)),
    "checkpoints_captured_at_idx ": ("a further page", lambda p: _second_page(p)),
    "checkpoints_agent_id_idx  ": ("statistics of an agent", lambda p: p.checkpoint_statistics("agent 7")),
}


def _second_page(provider: Any) -> Any:
    cursor = provider.list_checkpoints(limit=10).next_cursor
    return provider.list_checkpoints(limit=10, cursor=cursor)


def _fill(engine: Any) -> None:
    """5,000 rows, written by SQL."""
    if engine.name == "sqlite":
        numbers = "WITH RECURSIVE seq (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM seq WHERE n < 5000)"
        ids, join = "printf('%08x-0000-7000-8000-000000000000', n)", "||"
        texts = {name: f"'{name}' {join} n % 500" for name in ("agent ", "s", "t", "o")}
    else:
        numbers, ids = "", "concat(lpad(hex(seq.seq), 8, '0'), '-0000-7000-8000-000000000000')"
        texts = {name: f"concat('{name}', seq.seq % 500)" for name in ("agent ", "s", "t", "o")}
    source = "seq" if engine.name == "sqlite" else "seq_1_to_5000 AS seq"
    n = "n" if engine.name == "sqlite" else "seq.seq"
    columns = "id, agent_id, session_id, agent_type, owner, captured_at, created_at, updated_at, state"
    select = f"SELECT {ids}, {', '.join(texts.values())}, {n} * 1000, 0, 0, '1' FROM {source}"
    with engine.connection(writes=True) as connection:
        engine.execute(
            connection,
            f"INSERT INTO checkpoints ({columns}) {numbers} {select}",
            (),
        )
        engine.execute(connection, "ANALYZE" if engine.name == "sqlite" else "ANALYZE TABLE checkpoints", ())


def test_every_list_is_read_by_its_index(other_url: str) -> None:
    with sync_adapters.checkpoint_provider(other_url) as provider:
        engine: Any = provider.engine  # pyright: ignore
        if engine.name == "mysql" and not engine.read("SELECT version() LIKE '%MariaDB%'", ())[0][0]:
            pytest.skip("MySQL has no table of sequences")
        _fill(engine)
        for index, (name, read) in READS.items():
            seen: list[tuple[str, Any]] = []
            original = engine.read
            engine.read = lambda text, values, seen=seen, original=original: (
                seen.append((text, values)) or original(text, values)
            )
            read(provider)
            engine.read = original
            text, values = seen[-1]
            explain = "EXPLAIN QUERY PLAN" if engine.name == "sqlite" else "EXPLAIN FORMAT=JSON"
            plan = "\n".join(" ".join(map(str, row)) for row in engine.read(f"{explain} {text}", values))
            assert index.strip() in plan, (name, plan)
            whole = r'(SCAN (c|checkpoints)$)|("table_name": "(c|checkpoints)",\s+"access_type": "ALL")'
            assert not re.search(whole, plan, re.MULTILINE), (name, plan)


# ---- connections and locks -------------------------------------------------------------------------------------------


def test_connections_that_the_server_ended_are_replaced(mysql_url: str) -> None:
    killer = Mysql(mysql_url)
    killer.open()
    with sync_adapters.checkpoint_provider(mysql_url) as provider:
        engine: Any = provider.engine  # pyright: ignore
        for work in (
            lambda: provider.list_checkpoints(),
            lambda: provider.store_checkpoint(checkpoint()),
            lambda: provider.store_checkpoints([checkpoint(), checkpoint("b")]),
        ):
            ((mine,),) = engine.read("SELECT connection_id()", ())
            killer.read(f"KILL {mine}", ())
            assert work() is not None
        assert provider.list_checkpoints(total=True).total == 3
        id_ = provider.store_checkpoint(checkpoint())
        ((mine,),) = engine.read("SELECT connection_id()", ())
        killer.read(f"KILL {mine}", ())
        with pytest.raises(OutcomeUnknown):  # whether there was one is not known any more
            provider.delete_checkpoint(id_)
        assert provider.delete_checkpoint(id_) in (True, False)
    killer.close()


async def test_many_tasks_share_few_connections(other_url: str) -> None:
    kind = {"type": "mysql", "url": other_url} if other_url.startswith("mysql") else {"url": other_url}
    async with checkpoint_provider({**kind, "pool_max": 2}) as provider:
        ids = await asyncio.gather(*(provider.store_checkpoint(checkpoint(minutes=n)) for n in range(200)))
        found = await asyncio.gather(*(provider.retrieve_checkpoint(id_) for id_ in ids))
        assert [str(one.id) for one in found if one] == ids
        assert len(provider.engine._idle) <= 2  # pyright: ignore


def test_a_pool_that_is_exhausted_says_so(other_url: str) -> None:
    engine = engine_of(other_url, pool_max=1, pool_timeout=0.2)
    engine.open()
    with engine.connection(), pytest.raises(PoolTimeout, match="pool_max"):
        engine.read("SELECT 1", ())
    assert engine.read("SELECT 1", ()) == [(1,)]
    engine.close()


def test_another_writer_that_keeps_the_file_locked_is_retryable(sqlite_url: str) -> None:
    with sync_adapters.checkpoint_provider({"url": sqlite_url, "busy_timeout": 0.05}) as provider:
        other = sqlite3.connect(sqlite_url.removeprefix("sqlite:///"), isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        try:
            with pytest.raises(Retryable, match="locked"):
                provider.store_checkpoint(checkpoint())
            assert len(provider.list_checkpoints()) == 0  # readers do not wait
        finally:
            other.execute("ROLLBACK")
            other.close()
        assert provider.store_checkpoint(checkpoint())


def test_threads_write_and_read_at_once(other_url: str) -> None:
    with sync_adapters.checkpoint_provider(other_url) as provider:
        failed: list[BaseException] = []

        def work(number: int) -> None:
            try:
                for n in range(20):
                    id_ = provider.store_checkpoint(checkpoint(f"agent {number}", n, state=n))
                    found = provider.retrieve_checkpoint(id_)
                    assert found and found.state == n
                    latest = provider.latest_checkpoint(f"agent {number}")
                    assert latest and latest.state == n
            except BaseException as error:
                failed.append(error)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failed and provider.list_checkpoints(total=True).total == 160


def test_a_forked_process_is_refused(other_url: str) -> None:
    with sync_adapters.checkpoint_provider(other_url) as provider:
        provider.store_checkpoint(checkpoint())
        process = os.fork()
        if process == 0:
            try:
                provider.list_checkpoints()
            except StorageError as error:
                os._exit(7 if "fork()" in str(error) else 1)
            finally:
                os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 7
        assert len(provider.list_checkpoints()) == 1


async def test_the_event_loop_goes_on_while_the_database_works(other_url: str) -> None:
    async with checkpoint_provider(other_url) as provider:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0)

        ticking = asyncio.create_task(tick())
        await provider.store_checkpoint(checkpoint(state="x" * 4_000_000))
        ticking.cancel()
        assert ticks > 1


@pytest.mark.parametrize(
    ("text", "error"), [("not a database, but a text that is long enough " * 9, Unavailable), (None, Unavailable)]
)
async def test_a_file_that_cannot_be_used_is_unavailable(tmp_path: Path, text: str | None, error: Any) -> None:
    path = tmp_path / "agents.db"
    path.write_text(text) if text else path.mkdir()
    with pytest.raises(error, match=r"agents\.db"):
        await checkpoint_provider({"type": "sqlite", "path": path}).initialize()
    with pytest.raises(Unavailable):
        await checkpoint_provider(f"sqlite:///{tmp_path / 'no folder' / 'agents.db'}").initialize()


async def test_a_mysql_database_that_is_not_there_is_unavailable(mysql_url: str) -> None:
    with pytest.raises(Unavailable, match="check user, password and database"):
        await checkpoint_provider(re.sub(r"/test_\w+", "/not_there", mysql_url)).initialize()


def test_synchronous_is_full_unless_it_was_asked_otherwise(sqlite_url: str) -> None:
    for asked, level in (({}, 2), ({"synchronous": "normal"}, 1)):
        with sync_adapters.checkpoint_provider({"url": sqlite_url, **asked}) as provider:
            engine: Any = provider.engine  # pyright: ignore
            assert engine.read("PRAGMA synchronous", ()) == [(level,)]
            assert engine.read("PRAGMA foreign_keys", ()) == [(1,)]
            assert engine.read("PRAGMA journal_mode", ()) == [("wal",)]
    with pytest.raises(InvalidSettings, match="synchronous"):
        sync_adapters.checkpoint_provider({"url": sqlite_url, "synchronous": "off"})


async def test_states_are_only_filtered_by_postgresql(other_url: str) -> None:
    async with checkpoint_provider(other_url) as provider:
        with pytest.raises(StorageError, match="only PostgreSQL filters by the state"):
            await provider.list_checkpoints(where={"state__step": 3})


async def test_prune_works_in_batches_through_more_than_it_looks_up_at_once(other_url: str) -> None:
    async with checkpoint_provider(other_url) as provider:
        rows = [NewCheckpoint(agent_id=f"agent {n % 20}", state=n) for n in range(11_000)]
        await provider.store_checkpoints(rows)
        assert (await provider.prune_checkpoints(max_per_agent=10)).checkpoints == 10_800
        assert (await provider.prune_checkpoints(timedelta(days=1), 10)).checkpoints == 0
        assert (await provider.list_checkpoints(limit=1, total=True)).total == 200
