"""Transactions: explicit, atomic, retried; and connections that die."""

from __future__ import annotations

import asyncio
import os
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from agent_storage import (
    Conflict,
    ConnectionLost,
    PoolTimeout,
    PoolUsedInTransaction,
    Retryable,
    Storage,
    StorageError,
    Unavailable,
    sync,
)
from agent_storage.types import NewConversation, NewProvider


async def test_leaving_the_block_commits_and_an_exception_rolls_back(storage: Storage) -> None:
    async with storage.transaction() as tx:
        kept = await tx.conversations.create(NewConversation(title="kept"))
        assert tx.runner.name == "test_leaving_the_block_commits_and_an_exception_rolls_back"
    with pytest.raises(RuntimeError):
        async with storage.transaction() as tx:
            await tx.conversations.create(NewConversation(title="lost"))
            raise RuntimeError
    assert [row.id for row in await storage.conversations.find()] == [kept.id]


def test_the_sync_face_does_the_same(sync_storage: sync.Storage) -> None:
    with pytest.raises(RuntimeError), sync_storage.transaction() as tx:
        tx.conversations.create(NewConversation(title="lost"))
        raise RuntimeError
    assert sync_storage.conversations.count() == 0
    with sync_storage.transaction() as tx:
        tx.conversations.create(NewConversation())
        with pytest.raises(PoolUsedInTransaction):
            sync_storage.conversations.count()
    assert sync_storage.run(lambda tx: tx.conversations.count()) == 1


async def test_a_savepoint_undoes_its_block_alone(storage: Storage) -> None:
    called: list[str] = []

    async def note(name: str) -> None:
        called.append(name)

    async with storage.transaction() as tx:
        await tx.conversations.create(NewConversation(title="outer"))
        tx.after_commit(lambda: note("outer"))
        with pytest.raises(RuntimeError):
            async with tx.transaction() as inner:
                await inner.conversations.create(NewConversation(title="inner"))
                inner.after_commit(lambda: note("inner"))
                raise RuntimeError
        assert called == []
    assert [row.title for row in await storage.conversations.find()] == ["outer"]
    assert called == ["outer"]


async def test_the_pool_inside_a_block_is_a_mistake_unless_meant(storage: Storage) -> None:
    async with storage.transaction() as tx:
        made = await tx.conversations.create(NewConversation())
        for call in (storage.conversations.get(made.id), asyncio.create_task(storage.conversations.count())):
            with pytest.raises(PoolUsedInTransaction, match=r"storage\.autonomous"):
                await call
        with pytest.raises(PoolUsedInTransaction):
            async with storage.transaction():
                pass
        assert await storage.autonomous.conversations.get(made.id) is None
    assert await storage.conversations.get(made.id) == made


async def test_run_repeats_what_lost_a_race(storage: Storage) -> None:
    made = await storage.conversations.create(NewConversation(metadata={"n": 0}))

    async def add_one(tx: Any) -> None:
        row = await tx.conversations.require(made.id)
        await asyncio.sleep(0)
        await tx.conversations.update(made.id, metadata={"n": row.metadata["n"] + 1})

    await asyncio.gather(*(storage.run(add_one, isolation="serializable", attempts=200) for _ in range(10)))
    assert (await storage.conversations.require(made.id)).metadata == {"n": 10}

    async def never(tx: Any) -> None:
        raise Retryable("again")

    with pytest.raises(Retryable):
        await storage.run(never, attempts=3)


async def test_read_only_and_isolation_are_told_to_the_server(storage: Storage) -> None:
    with pytest.raises(StorageError, match="read-only"):
        async with storage.transaction(read_only=True) as tx:
            await tx.conversations.create(NewConversation())
    async with storage.transaction("repeatable read") as tx:
        assert await tx.conversations.count() == 0
        await storage.autonomous.conversations.create(NewConversation())
        assert await tx.conversations.count() == 0


def terminate(conninfo: str) -> int:
    with psycopg.connect(conninfo, autocommit=True) as admin:
        rows = admin.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            " WHERE datname = current_database() AND application_name = 'agent-storage'"
        ).fetchall()
    return len(rows)


async def test_dead_idle_connections_cost_no_error(migrated: str) -> None:
    async with Storage(migrated, pool_min=10, pool_max=10) as storage:
        await asyncio.gather(*(storage.conversations.count() for _ in range(50)))
        assert terminate(migrated) >= 5
        await asyncio.gather(*(storage.conversations.create(NewConversation()) for _ in range(30)))
        assert await storage.conversations.count() == 30


async def test_a_connection_cut_inside_a_transaction_is_an_error_and_nothing_is_kept(
    storage: Storage, migrated: str
) -> None:
    with pytest.raises(ConnectionLost):
        async with storage.transaction() as tx:
            await tx.conversations.create(NewConversation())
            terminate(migrated)
            await tx.conversations.create(NewConversation())
    assert await storage.conversations.count() == 0


async def test_a_schema_change_under_a_prepared_statement_is_run_anew(storage: Storage, migrated: str) -> None:
    made = await storage.conversations.create(NewConversation())
    for _ in range(3):
        await storage.conversations.get(made.id)
    with psycopg.connect(migrated, autocommit=True) as admin:
        admin.execute("ALTER TABLE conversations ALTER COLUMN title TYPE varchar(500)")
    assert await storage.conversations.get(made.id) == made


async def test_an_exhausted_pool_says_so_in_time(migrated: str) -> None:
    async with Storage(migrated, pool_max=1, pool_timeout=0.2, multiplex=0) as storage, storage.transaction():
        with pytest.raises(PoolTimeout, match="pool_max"):
            await storage.autonomous.conversations.count()


async def test_cancelled_tasks_leave_the_pool_whole(storage: Storage) -> None:
    for _ in range(10):
        tasks = [asyncio.create_task(storage.conversations.count()) for _ in range(100)]
        await asyncio.sleep(0.001)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    assert await storage.conversations.count() == 0


async def test_a_database_that_is_not_there_is_one_sentence_without_the_password() -> None:
    with pytest.raises(Unavailable, match=r"cannot reach PostgreSQL at 127\.0\.0\.1:1") as caught:
        async with Storage("postgresql://u:hush@127.0.0.1:1/db"):
            pass
    assert "hush" not in str(caught.value)


async def test_a_closed_storage_says_so_and_closes_twice(migrated: str) -> None:
    storage = Storage(migrated)
    with pytest.raises(StorageError, match="not open"):
        await storage.conversations.get(uuid4())
    await storage.connect()
    await storage.connect()
    await storage.close()
    await storage.close()


def test_a_child_made_by_fork_gets_a_clear_error(sync_storage: sync.Storage) -> None:
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            sync_storage.conversations.count()
            os.write(write, b"no error")
        except StorageError as error:
            os.write(write, str(error).encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert b"before fork" in os.read(read, 1000)
    os.close(read)
    os.close(write)
    assert sync_storage.conversations.count() == 0


async def test_behind_a_pooler_nothing_is_prepared(migrated: str) -> None:
    async with Storage(migrated, pooler=True, pool_max=1) as storage:
        for _ in range(5):
            await storage.conversations.count()
        async with storage.database.connection() as connection:
            cursor = await connection.execute("SELECT count(*) FROM pg_prepared_statements")
            assert await cursor.fetchone() == (0,)


async def test_a_block_whose_error_was_caught_does_not_pass_for_committed(storage: Any) -> None:
    called: list[str] = []

    async def call() -> None:
        called.append("after commit")

    new = NewProvider(name="p", kind="custom")
    await storage.providers.create(new)
    with pytest.raises(StorageError, match="was rolled back: a statement in its block failed"):
        async with storage.transaction() as tx:
            await tx.conversations.create(NewConversation())
            tx.after_commit(call)
            with pytest.raises(Conflict):
                await tx.providers.create(new)
    assert called == []
    assert await storage.conversations.count() == 0


async def test_a_nested_block_whose_error_was_caught_says_so_and_spoils_itself_alone(storage: Any) -> None:
    called: list[str] = []

    async def call() -> None:
        called.append("after commit")

    new = NewProvider(name="p", kind="custom")
    await storage.providers.create(new)
    async with storage.transaction() as tx:
        await tx.conversations.create(NewConversation())
        with pytest.raises(StorageError, match="the savepoint in"):
            async with tx.transaction() as inner:
                inner.after_commit(call)
                with pytest.raises(Conflict):
                    await inner.providers.create(new)
        with pytest.raises(psycopg.errors.DivisionByZero):  # SQL of the caller's own gives psycopg's errors
            async with tx.transaction() as inner:
                inner.after_commit(call)
                async with storage.database.connection():
                    pass
                await inner.runner.connection.execute("SELECT 1 / 0")
        await tx.conversations.create(NewConversation())
    assert called == []
    assert await storage.conversations.count() == 2
