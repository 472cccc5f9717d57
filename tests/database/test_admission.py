"""Admission: a hiccup stays a hiccup. Waiting is bounded by `pool_timeout` alone, on every path and for every call."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import psycopg
import pytest

import agent_storage
from agent_storage import PoolTimeout, StorageError, sync
from agent_storage.database import multiplexed
from agent_storage.database.fastpath.multiplexer import DEPTH, LIMIT
from agent_storage.statements.records import Input, Record

from .test_whole_or_nothing import PATHS, Waited, opened, own_database, plain

EVERY_PATH = pytest.mark.parametrize("path", PATHS)
EVERY_ASYNC_PATH = pytest.mark.parametrize("path", [path for path in PATHS if path.startswith("async")])

TABLE = """
CREATE TABLE points (
    id          uuid PRIMARY KEY DEFAULT uuid_v7(),
    name        text NOT NULL,
    number      integer NOT NULL DEFAULT 0,
    created_at  timestamptz NOT NULL DEFAULT now(),
    updated_at  timestamptz NOT NULL DEFAULT now()
)
"""


class NewPoint(Input):
    name: str
    number: int = 0


class Point(Record, NewPoint):
    pass


def declare(repository: Any, sql: Any) -> Any:
    """The repository of `points` on one face."""

    class Points(repository[Point, NewPoint]):
        """Points."""

        table = "points"

        @sql("SELECT pg_sleep(%(seconds)s)::text")
        async def sleep(self, seconds: float) -> str:
            """Keeps a connection busy."""
            ...

    return Points


ASYNC, SYNC = declare(agent_storage.Repository, agent_storage.sql), declare(sync.Repository, sync.sql)


def points_on(runner: Any) -> Any:
    return Waited(SYNC(plain(runner))) if isinstance(runner, Waited) else ASYNC(runner)


@pytest.fixture(scope="module")
def conninfo(server_conninfo: str) -> Iterator[str]:
    with own_database(server_conninfo, TABLE) as made:
        yield made


@pytest.fixture
def admin(conninfo: str) -> Iterator[psycopg.Connection]:
    """A connection beside the storage; the table is empty."""
    with psycopg.connect(conninfo, autocommit=True) as connection:
        yield connection
        connection.execute("TRUNCATE points")


async def burst(calls: list[Any]) -> Counter[str]:
    """How the calls ended, by the name of their error."""
    told = await asyncio.gather(*calls, return_exceptions=True)
    return Counter(type(error).__name__ if isinstance(error, BaseException) else "done" for error in told)


@asynccontextmanager
async def table_locked(conninfo: str, seconds: float) -> AsyncIterator[None]:
    """The table is locked when the block begins, and for so long; the block's end waits for that."""
    locker = await psycopg.AsyncConnection.connect(conninfo)
    await locker.execute("LOCK TABLE points IN ACCESS EXCLUSIVE MODE")

    async def unlock() -> None:
        await asyncio.sleep(seconds)
        await locker.close()

    unlocking = asyncio.create_task(unlock())
    try:
        yield
    finally:
        await unlocking


# ---- 9: a lock, and an event loop that stands still ----


@EVERY_ASYNC_PATH
async def test_two_thousand_gets_survive_a_lock_on_the_table(
    conninfo: str, admin: psycopg.Connection, path: str
) -> None:
    async with opened(conninfo, path) as storage:
        points = points_on(storage)
        made = await points.create(NewPoint(name="a"))
        assert await points.get(made.id) == made
        async with table_locked(conninfo, 0.15):
            assert await burst([points.get(made.id) for _ in range(2000)]) == {"done": 2000}
        assert await burst([points.get(made.id) for _ in range(2000)]) == {"done": 2000}


@EVERY_ASYNC_PATH
async def test_two_thousand_gets_survive_an_event_loop_that_stands_still(
    conninfo: str, admin: psycopg.Connection, path: str
) -> None:
    async with opened(conninfo, path) as storage:
        points = points_on(storage)
        made = await points.create(NewPoint(name="a"))

        async def block() -> None:
            time.sleep(0.06)  # as a computation does

        for _ in range(2):
            calls = [points.get(made.id) for _ in range(2000)]
            assert await burst([*calls[:1000], block(), *calls[1000:]]) == {"done": 2001}
        asyncio.get_running_loop().call_later(0.005, time.sleep, 0.06)
        assert await burst([points.get(made.id) for _ in range(2000)]) == {"done": 2000}
        assert await burst([points.get(made.id) for _ in range(2000)]) == {"done": 2000}


@EVERY_ASYNC_PATH
async def test_a_thousand_writes_survive_a_lock_and_each_is_made_once(
    conninfo: str, admin: psycopg.Connection, path: str
) -> None:
    async with opened(conninfo, path) as storage:
        points = points_on(storage)
        await points.create(NewPoint(name="warm"))
        async with table_locked(conninfo, 0.15):
            assert await burst([points.create(NewPoint(name=str(n))) for n in range(1000)]) == {"done": 1000}
        rows = admin.execute("SELECT name FROM points WHERE name <> 'warm'").fetchall()
        assert sorted(int(name) for (name,) in rows) == list(range(1000))


@EVERY_ASYNC_PATH
async def test_all_kinds_of_calls_are_admitted_alike(conninfo: str, admin: psycopg.Connection, path: str) -> None:
    async with opened(conninfo, path, pool_max=3) as storage:
        points = points_on(storage)
        made = await points.create(NewPoint(name="a"))

        async def transaction() -> None:
            async with storage.transaction() as tx:
                await points_on(tx).get(made.id)

        async def batch() -> None:
            async with storage.batch() as asked:
                asked.add(points_on(asked).get, made.id)

        async def stream() -> None:
            async with points.stream() as rows:
                async for _ in rows:
                    pass

        kinds: list[Callable[[], Any]] = [transaction, batch, stream, lambda: points.get(made.id), points.count]
        async with table_locked(conninfo, 0.1):
            assert await burst([kinds[n % 5]() for n in range(600)]) == {"done": 600}


async def test_who_does_not_need_the_locked_table_is_not_held_up(conninfo: str, admin: psycopg.Connection) -> None:
    async with opened(conninfo, "async shared", multiplex=2) as storage:
        points = points_on(storage)
        made = await points.create(NewPoint(name="a"))
        for _ in range(3):
            await points.get(made.id)
            await points.sleep(0.0)
        async with table_locked(conninfo, 0.6):
            waiting = [asyncio.create_task(points.get(made.id)) for _ in range(8)]
            await asyncio.sleep(6 * LIMIT)  # the shared connections have got rid of them, four in each at their limit
            started = time.monotonic()
            for _ in range(20):
                await points.sleep(0.0)
            assert time.monotonic() - started < 0.2
            assert not any(task.done() for task in waiting)
        assert await asyncio.gather(*waiting) == [made] * 8


# ---- only pool_timeout ends a wait, and it does ----


async def timed(call: Any, waited: list[float]) -> str:
    """How the call ended; how long it waited when that was with `PoolTimeout`."""
    started = time.monotonic()
    try:
        await call
    except PoolTimeout as error:
        waited.append(time.monotonic() - started)
        assert error.outcome == "not kept"
        return "late"
    return "done"


@EVERY_ASYNC_PATH
async def test_pool_timeout_comes_when_it_is_due_and_not_before(
    conninfo: str, admin: psycopg.Connection, path: str
) -> None:
    # what was sent on a shared connection stands behind at most so many others, each cancelled at its limit
    sent = DEPTH * LIMIT if "shared" in path else 0.0
    async with opened(conninfo, path, pool_timeout=0.2, pool_max=2) as storage:
        points = points_on(storage)
        made = await points.create(NewPoint(name="a"))
        for _ in range(3):
            await points.get(made.id)
        waited: list[float] = []
        async with table_locked(conninfo, sent + 1.0):
            calls = [asyncio.create_task(timed(points.get(made.id), waited)) for _ in range(200)]
            _, pending = await asyncio.wait(calls, timeout=sent + 0.8)
            assert len(pending) <= 2  # those that the server has begun, on connections of the pool, wait for the lock
        told = Counter(await asyncio.gather(*calls))
        assert told["done"] <= 2
        assert told["done"] + told["late"] == 200
        assert min(waited) >= 0.19
        assert max(waited) < 0.2 + sent + 0.7
        assert await burst([points.get(made.id) for _ in range(50)]) == {"done": 50}


async def test_a_queue_before_the_shared_connections_waits_for_pool_timeout_too(
    conninfo: str, admin: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(multiplexed, "LIMIT", 5.0)  # so that what keeps the connection busy may stay there
    async with opened(conninfo, "async shared", multiplex=1, pool_timeout=0.15) as storage:
        points = points_on(storage)
        made = await points.create(NewPoint(name="a"))
        for _ in range(3):
            await points.get(made.id)
            await points.sleep(0.0)
            await asyncio.sleep(0.01)
        waited: list[float] = []
        sleeping = [asyncio.create_task(points.sleep(0.05)) for _ in range(DEPTH)]
        await asyncio.sleep(0)
        told = Counter(await asyncio.gather(*(timed(points.get(made.id), waited) for _ in range(50))))
        assert told["late"] > 40
        assert told["done"] + told["late"] == 50
        assert min(waited) > 0.14
        assert max(waited) < 0.3
        assert await burst(sleeping) == {"done": DEPTH}
        assert await burst([points.get(made.id) for _ in range(50)]) == {"done": 50}


@EVERY_PATH
async def test_an_exhausted_pool_is_one_sentence_with_the_setting_to_change(
    conninfo: str, admin: psycopg.Connection, path: str
) -> None:
    settings = {"multiplex": 0} if "shared" in path else {}
    async with opened(conninfo, path, pool_max=1, pool_timeout=0.1, **settings) as storage:
        async with storage.database.connection():
            started = time.monotonic()
            with pytest.raises(PoolTimeout, match="pool_max") as caught:
                await points_on(storage).count()
            assert 0.09 < time.monotonic() - started < 0.5
            assert isinstance(caught.value, StorageError)
        assert await points_on(storage).count() == 0


@EVERY_ASYNC_PATH
async def test_cancelling_most_of_a_crowd_leaves_room_for_the_next(
    conninfo: str, admin: psycopg.Connection, path: str
) -> None:
    async with opened(conninfo, path) as storage:
        points = points_on(storage)
        made = await points.create(NewPoint(name="a"))
        async with table_locked(conninfo, 0.1):
            calls = [asyncio.create_task(points.get(made.id)) for _ in range(1000)]
            await asyncio.sleep(0.02)
            for call in calls[:900]:
                call.cancel()
            told = await burst(calls)
            assert told["done"] >= 100
            assert told["done"] + told["CancelledError"] == 1000
        assert await burst([points.get(made.id) for _ in range(1000)]) == {"done": 1000}


@EVERY_ASYNC_PATH
async def test_callers_that_are_cancelled_twice_while_they_wait_lose_no_connection(
    conninfo: str, admin: psycopg.Connection, path: str
) -> None:
    dice = random.Random(7)
    async with opened(conninfo, path, pool_max=3, pool_timeout=5) as storage:
        for _ in range(30):
            crowd = [asyncio.create_task(_borrow(storage.database, dice)) for _ in range(100)]
            for task in dice.sample(crowd, 80):
                for _ in range(3):
                    task.cancel()
                    for _ in range(dice.randrange(3)):
                        await asyncio.sleep(0)
            told = await asyncio.gather(*crowd, return_exceptions=True)
            assert {type(error) for error in told} <= {type(None), asyncio.CancelledError}
        async with AsyncExitStack() as stack:  # each connection of the pool can still be had
            for _ in range(3):
                await stack.enter_async_context(storage.database.connection())


async def _borrow(database: Any, dice: random.Random) -> None:
    async with database.connection():
        await asyncio.sleep(dice.uniform(0, 0.0005))
