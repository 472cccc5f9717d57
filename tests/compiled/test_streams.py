"""Streams over the compiled path: what is left early, what fails in the middle, and what may not run meanwhile."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest

from agent_storage import ConnectionLost, Storage, StorageError, sync
from agent_storage.errors import StatementTimeout
from agent_storage.statement import Shape, Statement
from agent_storage.types import NewConversation

#: It fails at its 30,000th row, long after the first ones have come.
FAILS: Statement[Any] = Statement(
    "test.fails", "SELECT 1 / (30000 - n) FROM generate_series(1, $1::int) n", Shape("stream", int), table="test"
)
LONG: Statement[Any] = Statement(
    "test.long", "SELECT repeat('x', 1000) FROM generate_series(1, $1::int)", Shape("stream", str), table="test"
)


@pytest.fixture(params=["wire", "cursor"])
async def storage(migrated: str, request: pytest.FixtureRequest) -> AsyncIterator[Storage]:
    compiled = request.param == "wire"
    async with Storage.open(migrated, pool_max=1, multiplex=0, compiled=compiled) as opened:
        yield opened


async def pid(storage: Storage) -> int:
    async with storage.database.connection() as connection:
        return connection.info.backend_pid


@pytest.mark.parametrize("count", [0, 1, 49, 50, 51, 100, 1234])
async def test_every_row_comes_once_and_in_order(storage: Storage, count: int) -> None:
    made = await storage.conversations.create_many([NewConversation(title=str(n)) for n in range(count)])
    assert [one async for one in storage.conversations.stream(order_by="id")] == sorted(made, key=lambda one: one.id)
    assert await storage.conversations.count() == count


async def test_a_stream_that_is_left_early_leaves_the_connection_fit(storage: Storage) -> None:
    before = await pid(storage)
    for wanted in (1, 50, 60, 5000):
        seen = 0
        async for _ in storage.database.stream(LONG, [200_000]):
            seen += 1
            if seen == wanted:
                break
        assert await storage.conversations.count() == 0
    assert await pid(storage) == before


async def test_an_error_after_the_first_rows_is_raised_there_and_the_connection_goes_on(storage: Storage) -> None:
    seen = 0
    with pytest.raises(StorageError, match="22012"):
        async for _ in storage.database.stream(FAILS, [60_000]):
            seen += 1
    assert seen >= 20_000
    assert await storage.conversations.count() == 0


async def test_a_cancelled_reader_leaves_the_connection_fit(storage: Storage) -> None:
    async def read() -> None:
        async for _ in storage.database.stream(LONG, [10_000_000]):
            await asyncio.sleep(0)

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await read()
    assert await storage.conversations.count() == 0


async def test_a_lost_connection_ends_a_stream_with_its_error(storage: Storage, migrated: str) -> None:
    with pytest.raises(ConnectionLost):
        async for place, _ in _numbered(storage.database.stream(LONG, [1_000_000])):
            if place == 10:
                with psycopg.connect(migrated, autocommit=True) as admin:
                    admin.execute(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                        " WHERE application_name = 'agent-storage' AND datname = current_database()"
                    )
    assert await storage.conversations.count() == 0


async def _numbered(rows: AsyncIterator[Any]) -> AsyncIterator[tuple[int, Any]]:
    place = 0
    async for row in rows:
        yield place, row
        place += 1


async def test_a_statement_inside_the_loop_of_a_transactions_stream_is_refused_and_does_not_hang(
    storage: Storage,
) -> None:
    await storage.conversations.create_many([NewConversation() for _ in range(200)])
    async with asyncio.timeout(20), storage.transaction() as tx:
        async for _ in tx.conversations.stream():
            with pytest.raises(StorageError, match="a stream is open on this transaction"):
                await tx.conversations.count()
            with pytest.raises(StorageError, match="a stream is open"):
                async with tx.transaction():
                    pass
            with pytest.raises(StorageError, match="a stream is open"):
                async with tx.batch() as batch:
                    batch.add(batch.conversations.count)
            break
        assert await tx.conversations.count() == 200


async def test_another_task_waits_for_the_end_of_a_transactions_stream(storage: Storage) -> None:
    await storage.conversations.create_many([NewConversation() for _ in range(300)])
    async with asyncio.timeout(20), storage.transaction() as tx:
        waiting: list[asyncio.Task[int]] = []
        async for _ in tx.conversations.stream():
            waiting = waiting or [asyncio.create_task(tx.conversations.count())]
            await asyncio.sleep(0)
        assert await waiting[0] == 300


async def test_a_transactions_stream_has_the_time_limit_of_its_transaction(migrated: str) -> None:
    async with Storage.open(migrated, statement_timeout=0.3) as storage:
        slow: Statement[Any] = Statement(
            "test.slow", "SELECT pg_sleep(0.01)::text FROM generate_series(1, 1000)", Shape("stream", str), table="test"
        )
        with pytest.raises(StatementTimeout):
            async with storage.transaction() as tx:
                async for _ in tx.runner.stream(slow, []):
                    pass


async def test_a_changed_schema_under_a_prepared_stream_says_what_to_do(storage: Storage, migrated: str) -> None:
    await storage.conversations.create(NewConversation(title="t"))
    assert [one.title async for one in storage.conversations.stream()] == ["t"]
    with psycopg.connect(migrated, autocommit=True) as admin:
        admin.execute("ALTER TABLE conversations ALTER COLUMN title TYPE varchar(500)")
    assert [one.title async for one in storage.conversations.stream()] == ["t"]


async def test_memory_does_not_grow_with_the_rows(storage: Storage) -> None:
    async def read(count: int) -> int:
        tracemalloc.reset_peak()
        async for _ in storage.database.stream(LONG, [count]):
            pass
        return tracemalloc.get_traced_memory()[1]

    tracemalloc.start()
    try:
        few, many = await read(2_000), await read(20_000)
    finally:
        tracemalloc.stop()
    assert many < few + 1_000_000


def test_the_sync_face_streams_and_can_be_left_early(migrated: str) -> None:
    with sync.Storage.open(migrated, pool_max=1) as storage:
        storage.conversations.create_many([NewConversation() for _ in range(500)])
        for wanted in (1, 70):
            for place, _ in enumerate(storage.conversations.stream(), start=1):
                if place == wanted:
                    break
            assert storage.conversations.count() == 500
        with storage.transaction() as tx:
            for _ in tx.conversations.stream():
                with pytest.raises(StorageError, match="a stream is open"):
                    tx.conversations.count()
                break
            assert tx.conversations.count() == 500
