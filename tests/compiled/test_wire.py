"""The compiled path on a connection of one's own: what goes wrong, and what the connection is good for afterwards."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from agent_storage import Conflict, ConnectionLost, NotFound, Retryable, SchemaMismatch, Storage, StorageError, sync
from agent_storage.errors import StatementTimeout
from agent_storage.statement import Shape, Statement
from agent_storage.types import NewConversation, NewProvider

SLEEP: Statement[Any] = Statement("test.sleep", "SELECT pg_sleep($1)::text", Shape("one", str), table="test")
#: By its text it writes, so that nobody takes it for a read that may be repeated.
WRITE: Statement[Any] = Statement(
    "test.write", "UPDATE conversations SET title = title WHERE pg_sleep($1) IS NULL", Shape("one", int), table="test"
)
MANY: Statement[list[str]] = Statement(
    "test.many", "SELECT repeat('x', 1000) FROM generate_series(1, $1::int)", Shape("many", str), table="test"
)


@pytest.fixture
async def storage(migrated: str) -> AsyncIterator[Storage]:
    """One connection, and no lanes, so that what is done to it meets the next statement."""
    async with Storage.open(migrated, pool_max=1, multiplex=0) as opened:
        yield opened


def others(conninfo: str, do: str) -> int:
    with psycopg.connect(conninfo, autocommit=True) as admin:
        return len(
            admin.execute(
                f"SELECT {do}(pid) FROM pg_stat_activity WHERE application_name = 'agent-storage'"  # type: ignore[arg-type]
                " AND datname = current_database()"
            ).fetchall()
        )


async def pid(storage: Storage) -> int:
    async with storage.database.connection() as connection:
        return connection.info.backend_pid


async def test_a_statement_is_prepared_once_and_found_in_the_servers_list(storage: Storage) -> None:
    for _ in range(5):
        await storage.conversations.get(uuid4())
    async with storage.database.connection() as connection:
        rows = await (await connection.execute("SELECT name, statement FROM pg_prepared_statements")).fetchall()
    assert [(name, text.split("*/")[0]) for name, text in rows] == [("agent_storage_1", "/* conversations.get ")]


async def test_a_cancelled_task_ends_its_statement_and_leaves_the_connection_fit(storage: Storage) -> None:
    before = await pid(storage)
    started = time.perf_counter()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await storage.database.run(SLEEP, [30.0])
    assert time.perf_counter() - started < 10
    assert await storage.conversations.count() == 0
    assert await pid(storage) == before


async def test_a_task_cancelled_while_it_prepares_leaves_the_connection_fit(storage: Storage) -> None:
    for number in range(60):
        text = f"SELECT {number} + $1::int"
        statement: Statement[int] = Statement("test.new", text, Shape("one", int), table="test")
        task = asyncio.create_task(storage.database.run(statement, [1]))
        for _ in range(number % 12):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert await storage.database.run(statement, [1]) == number + 1


def test_ctrl_c_ends_the_statement_and_leaves_the_connection_fit(migrated: str) -> None:
    with sync.Storage.open(migrated, pool_max=1) as storage:
        timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        started = time.perf_counter()
        with pytest.raises(KeyboardInterrupt):
            storage.database.run(SLEEP, [30.0])
        assert time.perf_counter() - started < 10
        timer.join()
        assert storage.conversations.count() == 0


@pytest.mark.parametrize("multiplex", [0, 2])
async def test_the_time_limit_is_the_servers_and_the_connection_goes_on(migrated: str, multiplex: int) -> None:
    async with Storage.open(migrated, statement_timeout=0.3, multiplex=multiplex, pool_max=1) as storage:
        with pytest.raises(StatementTimeout):
            await storage.database.run(SLEEP, [30.0])
        assert await storage.conversations.count() == 0


@pytest.mark.parametrize("multiplex", [0, 2])
async def test_a_connection_lost_under_a_write_leaves_the_outcome_unknown_or_says_that_nothing_was_kept(
    migrated: str, multiplex: int
) -> None:
    async with Storage.open(migrated, multiplex=multiplex) as storage:
        await storage.conversations.create(NewConversation())
        task = asyncio.create_task(storage.database.run(WRITE, [20.0]))
        await asyncio.sleep(0.3)
        assert others(migrated, "pg_terminate_backend") >= 1
        with pytest.raises(ConnectionLost):
            await task
        assert await storage.conversations.count() == 1


async def test_a_connection_lost_under_a_read_costs_nothing(migrated: str) -> None:
    async with Storage.open(migrated, multiplex=0) as storage:
        slow: Statement[int] = Statement(
            "test.slow_read", "SELECT 7 FROM pg_sleep($1)", Shape("one", int), table="test"
        )
        task = asyncio.create_task(storage.database.run(slow, [1.0]))
        await asyncio.sleep(0.3)
        others(migrated, "pg_terminate_backend")
        assert await task == 7


async def test_statements_that_were_discarded_are_prepared_anew(storage: Storage) -> None:
    made = await storage.conversations.create(NewConversation())
    for command in ("DISCARD ALL", "DEALLOCATE ALL"):
        async with storage.database.connection() as connection:
            await connection.execute(command)
        assert await storage.conversations.get(made.id) == made


async def test_in_a_transaction_a_discarded_statement_means_once_more_from_the_start(storage: Storage) -> None:
    await storage.conversations.count()
    attempts = 0

    async def work(tx: Any) -> int:
        nonlocal attempts
        attempts += 1
        if attempts == 1:
            await tx._transaction.connection.execute("DEALLOCATE ALL")
        return await tx.conversations.count()

    with pytest.raises(Retryable):
        async with storage.transaction() as tx:
            await work(tx)
    attempts = 0
    assert await storage.conversations.count() == 0
    assert await storage.run(work) == 0
    assert attempts == 2


async def test_a_result_that_changed_with_the_schema_is_prepared_anew(storage: Storage, migrated: str) -> None:
    made = await storage.conversations.create(NewConversation(title="t"))
    await storage.conversations.get(made.id)
    with psycopg.connect(migrated, autocommit=True) as admin:
        admin.execute("ALTER TABLE conversations ALTER COLUMN title TYPE varchar(500)")
    assert await storage.conversations.get(made.id) == made
    with psycopg.connect(migrated, autocommit=True) as admin:
        admin.execute("ALTER TABLE conversations ALTER COLUMN title TYPE varchar(600)")
    with pytest.raises(Retryable):
        async with storage.transaction() as tx:
            await tx.conversations.get(made.id)
    with psycopg.connect(migrated, autocommit=True) as admin:
        admin.execute("ALTER TABLE conversations RENAME COLUMN title TO heading")
    with pytest.raises(SchemaMismatch, match="title"):
        await storage.conversations.get(made.id)


async def test_an_error_inside_a_transaction_spoils_it_and_a_savepoint_does_not(storage: Storage) -> None:
    new = NewProvider(name="p", kind="custom")
    await storage.providers.create(new)
    with pytest.raises(StorageError, match="aborted"):
        async with storage.transaction() as tx:
            with pytest.raises(Conflict):
                await tx.providers.create(new)
            await tx.conversations.count()
    async with storage.transaction() as tx:
        with pytest.raises(Conflict):
            async with tx.transaction():
                await tx.providers.create(new)
        await tx.conversations.create(NewConversation())
    assert await storage.conversations.count() == 1


async def test_a_rollback_keeps_the_prepared_statements(storage: Storage) -> None:
    for _ in range(4):
        with pytest.raises(NotFound):
            async with storage.transaction("repeatable read") as tx:
                await tx.conversations.require(uuid4())
    assert await storage.conversations.count() == 0


async def test_two_tasks_may_share_a_transaction(storage: Storage) -> None:
    async with storage.transaction() as tx:
        await asyncio.gather(*(tx.conversations.create(NewConversation(title=str(n))) for n in range(50)))
    assert await storage.conversations.count() == 50


def test_two_threads_may_share_a_transaction(sync_storage: sync.Storage) -> None:
    with sync_storage.transaction() as tx:
        threads = [
            threading.Thread(target=lambda n=n: tx.conversations.create(NewConversation(title=str(n))))
            for n in range(20)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert tx.conversations.count() == 20


@pytest.mark.parametrize("multiplex", [0, 2])
async def test_a_result_of_30_megabytes_arrives(migrated: str, multiplex: int) -> None:
    async with Storage.open(migrated, multiplex=multiplex, statement_timeout=60) as storage:
        found = await storage.database.run(MANY, [30_000])
    assert len(found) == 30_000
    assert set(map(len, found)) == {1000}


async def test_behind_a_pooler_and_when_it_is_switched_off_there_is_no_wire(migrated: str) -> None:
    for given in ({"pooler": True}, {"compiled": False}):
        async with Storage.open(migrated, **given) as storage:
            for _ in range(3):
                assert await storage.conversations.count() == 0
            async with storage.database.connection() as connection:
                assert getattr(connection, "wire", None) is None
                cursor = await connection.execute("SELECT name FROM pg_prepared_statements")
                assert not any(name.startswith("agent_storage") for (name,) in await cursor.fetchall())
