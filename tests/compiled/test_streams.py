"""Streams over the compiled path: what is left early, what fails in the middle, and what may not run meanwhile."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import nullcontext
from datetime import datetime
from typing import Any

import psycopg
import pytest

from agent_storage import ConnectionLost, SchemaMismatch, Storage, StorageError, sync
from agent_storage.errors import StatementTimeout
from agent_storage.statement import Shape, Statement
from agent_storage.tables import Conversations
from agent_storage.types import NewConversation

from .test_lanes import terminate

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
                terminate(migrated)
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
            with pytest.raises(StorageError, match="a stream is open on this connection"):
                await tx.conversations.count()
            with pytest.raises(StorageError, match="a stream is open"):
                async with tx.transaction():
                    pass
            with pytest.raises(StorageError, match="a stream is open"):
                async with tx.batch() as batch:
                    batch.add(batch.conversations.count)
            break
        assert await tx.conversations.count() == 200


async def test_a_transactions_stream_that_is_left_early_spoils_nothing(storage: Storage) -> None:
    for wanted in (1, 60, 5000):
        async with storage.transaction() as tx:
            await tx.conversations.create(NewConversation(title=str(wanted)))
            seen = 0
            async for _ in tx.runner.stream(LONG, [50_000]):
                seen += 1
                if seen == wanted:
                    break
            await tx.conversations.create(NewConversation(title=str(wanted)))
    assert await storage.conversations.count() == 6


async def _titles(tx: Any) -> AsyncIterator[str | None]:
    async for one in tx.conversations.stream():
        yield one.title


async def test_a_stream_inside_another_iterator_may_be_left_early_too(storage: Storage) -> None:
    await storage.conversations.create_many([NewConversation() for _ in range(200)])
    async with storage.transaction() as tx:
        async for _ in _titles(tx):
            break
        assert await tx.conversations.count() == 200


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("fails", [False, True])
async def test_a_transaction_ends_though_its_stream_is_still_held(
    storage: Storage, *, nested: bool, fails: bool
) -> None:
    async with asyncio.timeout(20):
        held: list[Any] = []
        try:
            async with storage.transaction() as tx:
                await tx.conversations.create(NewConversation())
                async with tx.transaction() if nested else nullcontext():
                    rows = aiter(tx.runner.stream(LONG, [50_000]))
                    held += [rows, await anext(rows)]
                    if fails:
                        raise KeyError
        except KeyError:
            pass
        assert await storage.conversations.count() == (0 if fails else 1)
        async with storage.transaction() as tx:  # on the same connection
            await tx.conversations.count()
        with pytest.raises(StorageError, match="block in which this stream was begun has ended"):
            await anext(held[0])


async def test_after_a_nested_block_that_held_a_stream_the_outer_one_goes_on(storage: Storage) -> None:
    async with asyncio.timeout(20), storage.transaction() as tx:
        async with tx.transaction():
            rows = aiter(tx.runner.stream(LONG, [50_000]))
            await anext(rows)
        assert await tx.conversations.count() == 0


async def test_another_tasks_stream_is_cut_off_with_an_error_when_the_block_ends(storage: Storage) -> None:
    read = 0
    begun = asyncio.Event()

    async def reader(tx: Any) -> None:
        nonlocal read
        async for _ in tx.runner.stream(LONG, [50_000]):
            read += 1
            begun.set()
            await asyncio.sleep(0.001)

    async with asyncio.timeout(20):
        async with storage.transaction() as tx:
            task = asyncio.create_task(reader(tx))
            await begun.wait()
        with pytest.raises(StorageError, match="has ended"):
            await task
    assert 0 < read < 50_000


async def test_a_stream_whose_first_row_another_task_has_read_does_not_hang_either(storage: Storage) -> None:
    async with asyncio.timeout(20), storage.transaction() as tx:
        rows = aiter(tx.runner.stream(LONG, [50_000]))
        await asyncio.create_task(anext(rows))  # type: ignore[arg-type]
        with pytest.raises(StorageError, match="a stream is open"):
            await tx.conversations.count()


async def test_a_row_that_does_not_fit_its_record_ends_the_stream_and_nothing_hangs(storage: Storage) -> None:
    wrong: Statement[Any] = Statement(
        "test.wrong",
        "SELECT CASE WHEN n < 10 THEN '1' ELSE 'no number' END FROM generate_series(1, 100000) n",
        Shape("stream", int),
        table="test",
    )
    async with asyncio.timeout(20):
        with pytest.raises(SchemaMismatch):
            async for _ in storage.database.stream(wrong, []):
                pass
        with pytest.raises(StorageError, match="was rolled back"):
            async with storage.transaction() as tx:
                with pytest.raises(SchemaMismatch):
                    async for _ in tx.runner.stream(wrong, []):
                        pass
        assert await storage.conversations.count() == 0


@pytest.mark.parametrize("caught", [False, True])
async def test_a_connection_lost_inside_a_block_does_not_pass_for_committed(
    storage: Storage, migrated: str, *, caught: bool
) -> None:
    with pytest.raises(ConnectionLost):
        async with storage.transaction() as tx:
            await tx.conversations.create(NewConversation())
            async for _ in tx.runner.stream(LONG, [50_000]):
                break
            terminate(migrated)
            if caught:
                with pytest.raises(ConnectionLost):
                    await tx.conversations.count()
    assert await storage.conversations.count() == 0


async def test_a_cancelled_stream_inside_a_transaction_rolls_it_back(storage: Storage) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3), storage.transaction() as tx:
            await tx.conversations.create(NewConversation())
            async for _ in tx.runner.stream(LONG, [10_000_000]):
                await asyncio.sleep(0)
    assert await storage.conversations.count() == 0


async def test_a_value_that_cannot_be_loaded_ends_a_stream_at_once(storage: Storage) -> None:
    far: Statement[Any] = Statement(
        "test.far",
        "SELECT CASE n WHEN 10 THEN 'infinity'::timestamptz ELSE now() END FROM generate_series(1, 5000000) n",
        Shape("stream", datetime),
        table="test",
    )
    async with asyncio.timeout(10):
        with pytest.raises(StorageError, match="cannot both express"):
            async for _ in storage.database.stream(far, []):
                pass
    assert await storage.conversations.count() == 0


async def test_two_readers_of_one_transaction_do_not_wait_for_each_other_for_ever(storage: Storage) -> None:
    await storage.conversations.create_many([NewConversation() for _ in range(300)])
    async with asyncio.timeout(20), storage.transaction() as tx:

        async def read() -> int:
            return len([row async for row in tx.conversations.stream()])

        async for _ in tx.conversations.stream():
            other = asyncio.create_task(read())
            await asyncio.sleep(0.01)
            with pytest.raises(StorageError, match="a stream is open"):
                await tx.conversations.count()
            other.cancel()
            await asyncio.gather(other, return_exceptions=True)
            with pytest.raises(StorageError, match="a stream is open"):
                await tx.conversations.count()
            break
        assert await read() == 300


async def test_a_connection_of_ones_own_refuses_too_whichever_repository_asks(migrated: str) -> None:
    async with await psycopg.AsyncConnection.connect(migrated, autocommit=True) as connection:
        one, other = Conversations(connection), Conversations(connection)
        await one.create_many([NewConversation() for _ in range(10)])
        async with asyncio.timeout(20):
            async for _ in one.stream():
                for repository in (one, other):
                    with pytest.raises(StorageError, match="a stream is open"):
                        await repository.create_many([NewConversation() for _ in range(1001)])
                break
            assert await other.count() == 10


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


@pytest.mark.parametrize("pool_max", [1, 3])
async def test_a_changed_schema_costs_a_stream_nothing_however_many_connections_know_it(
    migrated: str, pool_max: int
) -> None:
    async with Storage.open(migrated, pool_max=pool_max, pool_min=pool_max, multiplex=0) as storage:
        await storage.conversations.create(NewConversation(title="t"))

        async def titles() -> list[str | None]:
            return [one.title async for one in storage.conversations.stream()]

        for length in (500, 600):
            assert await asyncio.gather(*(titles() for _ in range(10))) == [["t"]] * 10
            with psycopg.connect(migrated, autocommit=True) as admin:
                admin.execute(f"ALTER TABLE conversations ALTER COLUMN title TYPE varchar({length})")  # type: ignore[arg-type]
        assert await titles() == ["t"]


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
