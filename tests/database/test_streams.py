"""Streams: rows one at a time in bounded memory, what leaves one early, what fails in its middle, and what may run
meanwhile. Outside a transaction a stream has a connection of its own; inside, it is a cursor on the transaction's.
"""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, nullcontext
from datetime import datetime
from typing import Any

import psycopg
import pytest

from agent_storage import ConnectionLost, Storage, StorageError, Unreadable, sync
from agent_storage.errors import StatementTimeout
from agent_storage.statements.statement import Shape, Statement
from agent_storage.tables import Conversations
from agent_storage.types import NewConversation, NewProvider

from .test_executor import ask, pid, terminate

#: It fails at its 30,000th row, long after the first ones have come.
FAILS: Statement[Any] = Statement(
    "test.fails", "SELECT 1 / (30000 - n) FROM generate_series(1, $1::int) n", Shape("stream", int), table="test"
)
LONG: Statement[Any] = Statement(
    "test.long", "SELECT repeat('x', 1000) FROM generate_series(1, $1::int)", Shape("stream", str), table="test"
)
SLOW: Statement[Any] = Statement("test.slow", "SELECT pg_sleep(60)::text", Shape("stream", str), table="test")
#: Their 10th row does not fit what was declared.
WRONG: Statement[Any] = Statement(
    "test.wrong",
    "SELECT CASE WHEN n < 10 THEN '1' ELSE 'no number' END FROM generate_series(1, 100000) n",
    Shape("stream", int),
    table="test",
)
FAR: Statement[Any] = Statement(
    "test.far",
    "SELECT CASE n WHEN 10 THEN 'infinity'::timestamptz ELSE now() END FROM generate_series(1, 5000000) n",
    Shape("stream", datetime),
    table="test",
)


@pytest.fixture(params=["prepared", "unprepared"])
async def storage(migrated: str, request: pytest.FixtureRequest) -> AsyncIterator[Storage]:
    """One connection, so that what a stream does to it meets the next statement."""
    prepare = request.param == "prepared"
    async with Storage(migrated, pool_max=1, multiplex=0, prepare=prepare) as opened:
        yield opened


@pytest.fixture(params=["outside", "in a transaction"])
def place(storage: Storage, request: pytest.FixtureRequest) -> Any:
    """A block that gives what has repositories: the storage itself, or a transaction."""
    return storage.transaction if request.param == "in a transaction" else lambda: nullcontext(storage)


async def some(storage: Any, count: int) -> None:
    await storage.conversations.create_many([NewConversation(title=str(n)) for n in range(count)])


# ---- the rows ----


@pytest.mark.parametrize("count", [0, 1, 49, 50, 51, 100, 499, 500, 501, 1234])
async def test_every_row_comes_once_and_in_order(storage: Storage, place: Any, count: int) -> None:
    made = await storage.conversations.create_many([NewConversation(title=str(n)) for n in range(count)])
    async with place() as here:
        async with here.conversations.stream(order_by="id") as rows:
            assert [one async for one in rows] == sorted(made, key=lambda one: one.id)
        assert await here.conversations.count() == count


async def test_a_filter_is_that_of_find(storage: Storage, place: Any) -> None:
    await some(storage, 200)
    async with place() as here, here.conversations.stream({"title__like": "1%"}, order_by="-title") as rows:
        titles = [one.title async for one in rows]
    assert titles == sorted((str(n) for n in range(200) if str(n).startswith("1")), reverse=True)


async def test_memory_does_not_grow_with_the_rows(storage: Storage, place: Any) -> None:
    async def read(count: int) -> int:
        tracemalloc.reset_peak()
        async with place() as here, here.runner.stream(LONG, [count]) as rows:
            async for _ in rows:
                pass
        return tracemalloc.get_traced_memory()[1]

    tracemalloc.start()
    try:
        few, many = await read(2_000), await read(10_000)
    finally:
        tracemalloc.stop()
    assert many < few + 1_000_000


def test_the_sync_face_streams_and_can_be_left_early(migrated: str) -> None:
    with sync.Storage(migrated, pool_max=1) as storage:
        storage.conversations.create_many([NewConversation() for _ in range(500)])
        for wanted in (1, 70, 1000):
            with storage.conversations.stream() as rows:
                for place, _ in enumerate(rows, start=1):
                    if place == wanted:
                        break
            assert storage.conversations.count() == 500
        with storage.transaction() as tx:
            with tx.conversations.stream() as rows:
                for _ in rows:
                    assert tx.conversations.count() == 500
                    break
            assert tx.conversations.count() == 500
        with storage.conversations.stream() as rows:
            next(rows)
        with pytest.raises(StorageError, match="has ended"):
            list(rows)


# ---- left early ----


async def test_a_stream_that_is_left_early_leaves_the_connection_fit(storage: Storage) -> None:
    before = await pid(storage)
    for wanted in (0, 1, 50, 60, 5000):
        async with storage.database.stream(LONG, [200_000]) as rows:
            for _ in range(wanted):
                await anext(rows)
        assert await storage.conversations.count() == 0
    assert await pid(storage) == before


async def test_a_transactions_stream_that_is_left_early_spoils_nothing(storage: Storage) -> None:
    for wanted in (0, 1, 60, 500, 5000):
        async with storage.transaction() as tx:
            await tx.conversations.create(NewConversation())
            async with tx.runner.stream(LONG, [50_000]) as rows:
                for _ in range(wanted):
                    await anext(rows)
            await tx.conversations.create(NewConversation())
    assert await storage.conversations.count() == 10


async def test_an_exception_of_the_callers_leaves_the_connection_fit(storage: Storage, place: Any) -> None:
    with pytest.raises(ZeroDivisionError):
        async with place() as here, here.runner.stream(LONG, [200_000]) as rows:
            async for _ in rows:
                raise ZeroDivisionError
    assert await storage.conversations.count() == 0


async def test_a_stream_inside_another_iterator_may_be_left_early_too(storage: Storage, place: Any) -> None:
    async def titles(here: Any) -> AsyncIterator[str | None]:
        async with here.conversations.stream() as rows:
            async for one in rows:
                yield one.title

    await some(storage, 200)
    async with asyncio.timeout(20), place() as here:
        iterator = titles(here)
        async for _ in iterator:
            break
        await iterator.aclose()  # type: ignore[attr-defined]
        assert await here.conversations.count() == 200


async def test_a_cancelled_reader_leaves_the_connection_fit(storage: Storage) -> None:
    begun = asyncio.Event()

    async def read() -> None:
        async with storage.database.stream(LONG, [1_000_000]) as rows:
            async for _ in rows:
                begun.set()
                await asyncio.sleep(0)

    async with asyncio.timeout(60):
        for _ in range(3):
            begun.clear()
            reader = asyncio.create_task(read())
            await begun.wait()
            reader.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reader
            assert await storage.conversations.count() == 0


async def test_a_cancelled_stream_inside_a_transaction_rolls_it_back(storage: Storage) -> None:
    begun = asyncio.Event()

    async def read() -> None:
        async with storage.transaction() as tx:
            await tx.conversations.create(NewConversation())
            async with tx.runner.stream(LONG, [1_000_000]) as rows:
                async for _ in rows:
                    begun.set()
                    await asyncio.sleep(0)

    async with asyncio.timeout(60):
        reader = asyncio.create_task(read())
        await begun.wait()
        reader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader
        assert await storage.conversations.count() == 0


# ---- a stream outside its block ----


async def test_after_its_block_a_stream_gives_an_error_instead_of_the_rows_that_are_missing(
    storage: Storage, place: Any
) -> None:
    async with place() as here:
        async with here.runner.stream(LONG, [50_000]) as rows:
            await anext(rows)
        with pytest.raises(StorageError, match="the block of this stream has ended"):
            async for _ in rows:
                pass
        assert await here.conversations.count() == 0


async def test_after_its_block_a_stream_gives_no_rows_of_the_next_one(storage: Storage, place: Any) -> None:
    async with place() as here:
        async with here.runner.stream(LONG, [50_000]) as rows:
            await anext(rows)
        await some(here, 2000)
        async with here.conversations.stream(order_by="id") as others:
            seen = [await anext(others)]
            with pytest.raises(StorageError, match="the block of this stream has ended"):
                async for row in rows:
                    assert set(row) == {"x"}
            seen += [one async for one in others]
        assert [one.title for one in seen] == [str(n) for n in range(2000)]


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("fails", [False, True])
async def test_a_transaction_ends_though_its_stream_is_still_held(
    storage: Storage, *, nested: bool, fails: bool
) -> None:
    async with asyncio.timeout(20), AsyncExitStack() as held:
        with pytest.raises(KeyError) if fails else nullcontext():
            async with storage.transaction() as tx:
                await tx.conversations.create(NewConversation())
                async with tx.transaction() if nested else nullcontext(tx) as inner:
                    rows = await held.enter_async_context(inner.runner.stream(LONG, [50_000]))
                    await anext(rows)
                    if fails:
                        raise KeyError
        assert await storage.conversations.count() == (0 if fails else 1)
        async with storage.transaction() as other:  # on the same connection
            await other.conversations.count()
            with pytest.raises(StorageError, match="has ended"):
                async for _ in rows:
                    pass


async def test_a_stream_that_is_left_after_its_transaction_does_nothing_to_the_next_one(storage: Storage) -> None:
    async with asyncio.timeout(20):
        async with AsyncExitStack() as held:
            async with storage.transaction() as tx:
                await anext(await held.enter_async_context(tx.runner.stream(LONG, [50_000])))
            async with storage.transaction() as stranger:  # on the same connection
                await stranger.conversations.create(NewConversation())
                await held.aclose()
                await stranger.conversations.create(NewConversation())
        assert await storage.conversations.count() == 2


@pytest.mark.parametrize("fails", [False, True])
async def test_a_stream_that_is_left_after_its_nested_block_does_nothing_to_the_outer_one(
    storage: Storage, *, fails: bool
) -> None:
    async with asyncio.timeout(20), storage.transaction() as tx:
        async with AsyncExitStack() as held:
            with pytest.raises(KeyError) if fails else nullcontext():
                async with tx.transaction() as inner:
                    await anext(await held.enter_async_context(inner.runner.stream(LONG, [50_000])))
                    if fails:
                        raise KeyError
            await tx.conversations.create(NewConversation())
        await tx.conversations.create(NewConversation())
    assert await storage.conversations.count() == 2


async def test_another_tasks_stream_is_cut_off_with_an_error_when_the_transaction_ends(storage: Storage) -> None:
    read = 0
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def reader(tx: Any) -> None:
        nonlocal read
        async with tx.runner.stream(LONG, [50_000]) as rows:
            async for _ in rows:
                read += 1
                begun.set()
                await go_on.wait()

    async with asyncio.timeout(20):
        async with storage.transaction() as tx:
            task = asyncio.create_task(reader(tx))
            await begun.wait()
        go_on.set()
        with pytest.raises(StorageError, match="has ended"):
            await task
    assert 0 < read < 50_000


# ---- what fails in its middle ----


async def test_an_error_after_the_first_rows_is_raised_there(storage: Storage, place: Any) -> None:
    seen = 0
    with pytest.raises(StorageError, match="22012"):
        async with place() as here, here.runner.stream(FAILS, [60_000]) as rows:
            async for _ in rows:
                seen += 1
    assert seen >= 20_000
    assert await storage.conversations.count() == 0


@pytest.mark.parametrize("statement", [WRONG, FAR], ids=["record", "python"])
async def test_a_row_that_cannot_be_read_ends_the_stream_and_nothing_hangs(
    storage: Storage, place: Any, statement: Statement[Any]
) -> None:
    async with asyncio.timeout(20):
        with pytest.raises(Unreadable):
            async with place() as here, here.runner.stream(statement, []) as rows:
                async for _ in rows:
                    pass
        async with storage.transaction() as tx:
            with pytest.raises(Unreadable):
                async with tx.runner.stream(statement, []) as rows:
                    async for _ in rows:
                        pass
            await tx.conversations.create(NewConversation())  # it was this side that could not read
        assert await storage.conversations.count() == 1


async def test_a_statement_that_fails_at_once_says_so_when_the_block_is_entered(storage: Storage, place: Any) -> None:
    wrong: Statement[Any] = Statement("test.wrong", "SELECT 1 / $1::int", Shape("stream", int), table="test")
    async with asyncio.timeout(20):
        for _ in range(2):
            with pytest.raises(StorageError, match="22012"):
                async with place() as here, here.runner.stream(wrong, [0]) as rows:
                    async for _ in rows:
                        pass
        assert await storage.conversations.count() == 0


async def test_a_lost_connection_ends_a_stream_with_its_error(storage: Storage, place: Any, migrated: str) -> None:
    with pytest.raises(ConnectionLost) as caught:
        async with place() as here, here.runner.stream(LONG, [1_000_000]) as rows:
            for _ in range(10):
                await anext(rows)
            terminate(migrated)
            async for _ in rows:
                pass
    assert type(caught.value) is ConnectionLost
    assert await storage.conversations.count() == 0


@pytest.mark.parametrize("caught", [False, True])
async def test_a_connection_lost_inside_a_block_does_not_pass_for_committed(
    storage: Storage, migrated: str, *, caught: bool
) -> None:
    with pytest.raises(ConnectionLost):
        async with storage.transaction() as tx:
            await tx.conversations.create(NewConversation())
            async with tx.runner.stream(LONG, [50_000]) as rows:
                await anext(rows)
            terminate(migrated)
            if caught:
                with pytest.raises(ConnectionLost):
                    await tx.conversations.count()
    assert await storage.conversations.count() == 0


# ---- what may run meanwhile ----


async def test_between_two_rows_of_a_transactions_stream_anything_may_run(storage: Storage) -> None:
    await some(storage, 1200)
    async with asyncio.timeout(30), storage.transaction() as tx:
        seen = 0
        async with tx.conversations.stream(order_by="id") as rows:
            async for row in rows:
                if seen % 100 == 0:
                    await tx.conversations.update(row.id, title=f"seen {row.title}")
                    async with tx.transaction() as inner:
                        await inner.providers.create(NewProvider(name=str(seen), kind="custom"))
                    with pytest.raises(KeyError):
                        async with tx.transaction() as inner:
                            await inner.providers.create(NewProvider(name=f"undone {seen}", kind="custom"))
                            raise KeyError
                    async with tx.batch() as batch:
                        count = batch.add(batch.conversations.count)
                    assert count.result == 1200
                assert row.title == str(seen), "a stream shows the rows as they were when it began"
                seen += 1
    assert seen == 1200
    assert await storage.conversations.count({"title__like": "seen %"}) == 12
    assert await storage.providers.count() == 12


async def test_several_readers_of_one_transaction_each_get_every_row(storage: Storage) -> None:
    await some(storage, 1200)
    async with asyncio.timeout(30), storage.transaction() as tx:

        async def read() -> list[str | None]:
            async with tx.conversations.stream(order_by="id") as rows:
                return [one.title async for one in rows]

        async with tx.conversations.stream(order_by="id") as rows:
            outer = [(await anext(rows)).title]
            others = await asyncio.gather(read(), read(), read())
            outer += [one.title async for one in rows]
        assert [outer, *others] == [[str(n) for n in range(1200)]] * 4


async def test_tasks_may_share_the_rows_of_a_transactions_stream_with_other_statements(storage: Storage) -> None:
    await some(storage, 600)
    async with asyncio.timeout(30), storage.transaction() as tx, tx.conversations.stream() as rows:
        first = await asyncio.create_task(anext(rows))  # type: ignore[arg-type]
        assert await asyncio.create_task(tx.conversations.count()) == 600
        waiting = [asyncio.create_task(tx.conversations.count()) for _ in range(20)]
        assert len({first.id, *[one.id async for one in rows]}) == 600
        assert await asyncio.gather(*waiting) == [600] * 20


async def test_on_a_connection_of_ones_own_every_repository_may_go_on(migrated: str) -> None:
    async with await psycopg.AsyncConnection.connect(migrated, autocommit=True) as connection:
        one, other = Conversations(connection), Conversations(connection)
        await one.create_many([NewConversation() for _ in range(10)])
        async with asyncio.timeout(20), one.stream() as rows:
            await anext(rows)
            for repository in (one, other):
                await repository.create_many([NewConversation() for _ in range(1001)])
            assert len([row async for row in rows]) == 9
        assert await other.count() == 10 + 2 * 1001


# ---- time limits, schema changes ----


async def test_a_stream_outside_a_transaction_has_no_time_limit_however_slow_its_reader(migrated: str) -> None:
    async with Storage(migrated, statement_timeout=0.2, idle_in_transaction_timeout=0.2, pool_max=1) as storage:
        for count in (3, 20_000):  # all rows are here at once, or the server waits for the reader
            async with storage.database.stream(LONG, [count]) as rows:
                await anext(rows)
                await asyncio.sleep(0.4)
                assert len([row async for row in rows]) == count - 1
        with pytest.raises(StatementTimeout):  # the next on the connection has its limit again
            async with storage.transaction() as tx, tx.runner.stream(SLOW, []) as rows:
                await anext(rows)


async def test_a_transactions_stream_has_the_time_limit_of_its_transaction(migrated: str) -> None:
    async with Storage(migrated, statement_timeout=0.2) as storage:
        with pytest.raises(StatementTimeout):
            async with storage.transaction() as tx, tx.runner.stream(SLOW, []) as rows:
                async for _ in rows:
                    pass


@pytest.mark.parametrize("prepare", [True, False])
@pytest.mark.parametrize("pool_max", [1, 3])
async def test_a_changed_schema_costs_a_stream_nothing_however_many_connections_know_it(
    migrated: str, pool_max: int, *, prepare: bool
) -> None:
    async with Storage(
        migrated, pool_max=pool_max, pool_min=pool_max, multiplex=0, prepare=prepare, pool_timeout=60
    ) as storage:
        await storage.conversations.create(NewConversation(title="t"))

        async def titles() -> list[str | None]:
            async with storage.conversations.stream() as rows:
                return [one.title async for one in rows]

        for length in (500, 600):
            assert await asyncio.gather(*(titles() for _ in range(10))) == [["t"]] * 10
            ask(migrated, f"ALTER TABLE conversations ALTER COLUMN title TYPE varchar({length})")
        assert await titles() == ["t"]
        ask(migrated, "ALTER TABLE conversations ALTER COLUMN title TYPE text")
        async with storage.transaction() as tx, tx.conversations.stream() as rows:  # a cursor has a text of its own
            assert [one.title async for one in rows] == ["t"]
