"""Lifetimes: what has ended refuses, callers that share a transaction do not meet, and nothing is shared across a fork
or event loops.
"""

from __future__ import annotations

import asyncio
import contextvars
import gc
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any
from uuid import UUID

import psycopg
import psycopg_pool
import pytest
from psycopg_pool.pool_async import ShrinkPool

import agent_storage
from agent_storage import PoolUsedInTransaction, Retryable, Storage, StorageError, sync
from agent_storage.database import listener as listener_module
from agent_storage.migrations.migrator import Migrator
from agent_storage.tables import Conversations
from agent_storage.types import Conversation, NewConversation

from ..conftest import fresh_database
from .test_whole_or_nothing import PATHS, Waited, opened

EVERY_PATH = pytest.mark.parametrize("path", PATHS)
EVERY_ASYNC_PATH = pytest.mark.parametrize("path", [path for path in PATHS if path.startswith("async")])
EVERY_SYNC_PATH = pytest.mark.parametrize("path", [path for path in PATHS if path.startswith("sync")])


@pytest.fixture(scope="module")
def conninfo(server_conninfo: str) -> Iterator[str]:
    with fresh_database(server_conninfo) as made:
        Migrator(made).up()
        yield made


@pytest.fixture
def admin(conninfo: str) -> Iterator[psycopg.Connection]:
    """A connection beside the storage; the tables are empty."""
    with psycopg.connect(conninfo, autocommit=True) as connection:
        yield connection
        others = "datname = current_database() AND pid <> pg_backend_pid()"  # what a failed test has left open
        connection.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {others}")
        connection.execute("TRUNCATE conversations, event_streams CASCADE")


def titles(admin: psycopg.Connection) -> list[str]:
    return [row[0] for row in admin.execute("SELECT title FROM conversations ORDER BY title")]


def new(title: str) -> NewConversation:
    return NewConversation(title=title)


def backends(admin: psycopg.Connection, name: str = "agent-storage") -> set[int]:
    query = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name = %s"
    return {row[0] for row in admin.execute(query, (name,))}


async def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    """Wait, without blocking the event loop, until something is so."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        await asyncio.sleep(0.002)


# ---- 2: a transaction refuses after its block ----


@EVERY_ASYNC_PATH
@pytest.mark.parametrize("keeps", [False, True], ids=["rolled back", "committed"])
async def test_what_sibling_tasks_write_is_in_the_transaction_or_refused(
    conninfo: str, admin: psycopg.Connection, path: str, keeps: bool
) -> None:
    told: list[UUID] = []
    refused = 0

    async def sibling(tx: Any) -> None:
        nonlocal refused
        with pytest.raises(StorageError, match="has ended"):
            while True:
                told.append((await tx.conversations.create(new("sibling"))).id)
                async with tx.batch() as batch:
                    later = batch.add(batch.conversations.create, new("sibling"))
                told.append(later.result.id)
        refused += 1

    async with opened(conninfo, path, pool_max=1) as storage:
        for number in range(15):
            siblings: list[asyncio.Task[None]] = []
            with suppress(ZeroDivisionError):
                async with storage.transaction() as tx:
                    siblings += [asyncio.create_task(sibling(tx)) for _ in range(4)]
                    await asyncio.sleep(0.0005 * (number % 6))
                    if not keeps:
                        raise ZeroDivisionError
            with suppress(ZeroDivisionError):
                async with storage.transaction() as stranger:  # on the same connection
                    await stranger.conversations.create(new("stranger"))
                    await asyncio.sleep(0.001)
                    raise ZeroDivisionError
            await asyncio.gather(*siblings)
    assert refused == 60
    assert {row[0] for row in admin.execute("SELECT id FROM conversations")} == (set(told) if keeps else set())


@EVERY_SYNC_PATH
@pytest.mark.parametrize("keeps", [False, True], ids=["rolled back", "committed"])
async def test_what_sibling_threads_write_is_in_the_transaction_or_refused(
    conninfo: str, admin: psycopg.Connection, path: str, keeps: bool
) -> None:
    told: list[UUID] = []
    refused: list[str] = []

    def sibling(tx: sync.Storage) -> None:
        try:
            while True:
                told.append(tx.conversations.create(new("sibling")).id)
        except StorageError as error:
            refused.append(str(error))

    async with opened(conninfo, path, pool_max=1) as storage:
        for number in range(15):
            threads: list[threading.Thread] = []
            with suppress(ZeroDivisionError), storage.target.transaction() as tx:
                threads += [threading.Thread(target=sibling, args=(tx,), daemon=True) for _ in range(3)]
                for thread in threads:
                    thread.start()
                time.sleep(0.0005 * (number % 6))
                if not keeps:
                    raise ZeroDivisionError
            with suppress(ZeroDivisionError), storage.target.transaction() as stranger:
                stranger.conversations.create(new("stranger"))
                raise ZeroDivisionError
            for thread in threads:
                thread.join(10)
                assert not thread.is_alive(), "a sibling waits for ever"
    assert len(refused) == 45
    assert all("has ended" in error for error in refused)
    assert {row[0] for row in admin.execute("SELECT id FROM conversations")} == (set(told) if keeps else set())


@EVERY_PATH
async def test_every_use_of_an_ended_transaction_is_refused(
    conninfo: str, admin: psycopg.Connection, path: str
) -> None:
    async with opened(conninfo, path, pool_max=1) as storage:
        for ending in (None, ZeroDivisionError):
            with suppress(ZeroDivisionError):
                async with storage.transaction() as outer:
                    with suppress(ZeroDivisionError):
                        async with outer.transaction() as inner:
                            await inner.conversations.create(new("inner"))
                            if ending:
                                raise ending
                    await self_check_refused(inner)
                    await outer.conversations.create(new("outer"))
                    if ending:
                        raise ending
            async with storage.transaction() as stranger:
                await self_check_refused(outer)
                await self_check_refused(inner)
                assert await stranger.conversations.count({"title": "late"}) == 0
            await self_check_refused(stranger)
        leaked: list[Any] = []

        def leak(tx: Any) -> Any:
            leaked.append(tx)
            return nothing()

        async def nothing() -> None: ...

        if isinstance(storage, Waited):
            storage.target.run(leaked.append)
            leaked = [Waited(leaked[0])]
        else:
            await storage.run(leak)
        await self_check_refused(leaked[0])
    assert titles(admin) == ["inner", "outer"]


async def self_check_refused(tx: Any) -> None:
    """Nothing runs on it any more."""

    async def batch() -> None:
        async with tx.batch() as asked:
            asked.add(asked.conversations.create, new("late"))

    async def nested() -> None:
        async with tx.transaction() as inner:
            await inner.conversations.create(new("late"))

    async def stream() -> None:
        async with tx.conversations.stream() as rows:
            async for _ in rows:
                pass

    async def own_transaction() -> None:
        async with tx.conversations.transaction() as rows:
            await rows.create(new("late"))

    async def single() -> None:
        await tx.conversations.create(new("late"))

    async def many() -> None:
        await tx.conversations.create_many([new("late")] * 1001)

    for use in (single, many, batch, nested, stream, own_transaction):
        with pytest.raises(StorageError, match="has ended"):
            await use()


@EVERY_PATH
async def test_a_stream_and_a_batch_of_a_transaction_end_with_it(
    conninfo: str, admin: psycopg.Connection, path: str
) -> None:
    async with opened(conninfo, path, pool_max=1) as storage:
        await storage.conversations.create_many([new(str(n)) for n in range(1200)])
        async with storage.transaction() as tx:
            async with tx.conversations.stream() as rows:
                iterator = aiter(rows)
                await anext(iterator)
            with pytest.raises(StorageError, match="has ended"):
                async for _ in iterator:
                    pass
            opened_batch = tx.batch()
            batch = await opened_batch.__aenter__()
            batch.add(batch.conversations.create, new("late"))
        with pytest.raises(StorageError, match="has ended"):
            await opened_batch.__aexit__(None, None, None)
    assert "late" not in titles(admin)


# ---- 7: callers that share a transaction ----


@EVERY_SYNC_PATH
async def test_threads_that_share_a_transaction_get_their_own_rows(
    conninfo: str, admin: psycopg.Connection, path: str
) -> None:
    wrong: list[Any] = []
    reads = 0

    def read(tx: sync.Storage, own: list[Conversation], others: UUID) -> None:
        nonlocal reads
        for step in range(250):
            row = own[step % len(own)]
            found: list[Any] = [tx.conversations.require(row.id)]
            if step % 3 == 0:
                with tx.batch() as batch:
                    later = [batch.add(batch.conversations.get, one.id) for one in own[:3]]
                    missing = batch.add(batch.conversations.get, others)
                found += [one.result for one in later]
                expected = [row, *own[:3]]
                if missing.result is not None:
                    wrong.append(missing.result)
            elif step % 3 == 1:
                with tx.conversations.stream({"title": row.title}) as rows:
                    found += rows
                expected = [row, row]
            else:
                found += tx.conversations.find({"title__in": [one.title for one in own]})
                expected = [row, *own]
            reads += len(expected)
            if found != expected:
                wrong.append((found, expected))

    async with opened(conninfo, path, pool_max=1) as storage, asyncio.timeout(60):
        made = storage.target.conversations.create_many([new(f"{n:02}" * (n + 1)) for n in range(40)])
        with storage.target.transaction() as tx:
            work = [asyncio.to_thread(read, tx, made[n * 5 : n * 5 + 5], UUID(int=n)) for n in range(8)]
            await asyncio.gather(*work)
            assert tx.conversations.count() == 40
    assert wrong == []
    assert reads >= 8000


@EVERY_ASYNC_PATH
async def test_tasks_that_share_a_transaction_get_their_own_rows(
    conninfo: str, admin: psycopg.Connection, path: str
) -> None:
    async with opened(conninfo, path, pool_max=1) as storage:
        made = await storage.conversations.create_many([new(f"{n:02}" * (n + 1)) for n in range(40)])

        async def read(tx: Any, row: Conversation) -> None:
            for step in range(25):
                assert await tx.conversations.require(row.id) == row
                async with tx.batch() as batch:
                    later = [batch.add(batch.conversations.get, row.id) for _ in range(1 + step % 3)]
                assert [one.result for one in later] == [row] * len(later)
                async with tx.conversations.stream({"title": row.title}) as rows:
                    assert [one async for one in rows] == [row]

        async with storage.transaction() as tx:
            await asyncio.gather(*(read(tx, row) for row in made))


# ---- 10: the guard, and what happens after the commit ----


@EVERY_PATH
async def test_a_transaction_may_be_entered_and_left_in_different_contexts(
    conninfo: str, admin: psycopg.Connection, path: str
) -> None:
    async with opened(conninfo, path, pool_max=2) as storage:
        for number, error in enumerate([None, ZeroDivisionError()]):
            block = storage.transaction()
            if isinstance(storage, Waited):  # as FastAPI does with a synchronous dependency
                tx = Waited(await asyncio.to_thread(block.target.__enter__))
                await asyncio.to_thread(tx.target.conversations.create, new(str(number)))
            else:
                tx = await asyncio.create_task(block.__aenter__())
                await asyncio.create_task(tx.conversations.create(new(str(number))))
            seen = await storage.conversations.count({"title": str(number)})  # this context is not inside
            assert seen == 0
            with suppress(ZeroDivisionError):
                if isinstance(storage, Waited):
                    await asyncio.to_thread(block.target.__exit__, error and type(error), error, None)
                else:
                    await asyncio.create_task(block.__aexit__(error and type(error), error, None))
            await storage.conversations.create(new("after"))
            async with storage.transaction() as again:
                await again.conversations.count()
    assert titles(admin) == ["0", "after", "after"]


@EVERY_PATH
async def test_who_has_left_a_block_in_another_context_is_not_inside_for_ever(
    conninfo: str, admin: psycopg.Connection, path: str
) -> None:
    async with opened(conninfo, path, pool_max=2) as storage:
        block = storage.transaction()
        await block.__aenter__()
        with pytest.raises(PoolUsedInTransaction):
            await storage.conversations.count()
        if isinstance(storage, Waited):
            contextvars.copy_context().run(block.target.__exit__, None, None, None)
        else:
            await asyncio.create_task(block.__aexit__(None, None, None))
        assert await storage.conversations.count() == 0
        async with storage.transaction() as tx:
            assert await tx.conversations.count() == 0
            with pytest.raises(PoolUsedInTransaction):
                await storage.conversations.count()
        assert await storage.conversations.count() == 0


@EVERY_ASYNC_PATH
async def test_a_task_that_was_made_inside_may_use_the_storage_when_the_block_has_ended(
    conninfo: str, admin: psycopg.Connection, path: str
) -> None:
    ended = asyncio.Event()

    async def worker(storage: Storage) -> None:
        with pytest.raises(PoolUsedInTransaction):
            await storage.conversations.count()
        refused.set()
        await ended.wait()
        await storage.conversations.create(new("worker"))
        async with storage.transaction() as tx:
            await tx.conversations.create(new("worker"))
        async with storage.batch() as batch:
            batch.add(batch.conversations.create, new("worker"))

    async with opened(conninfo, path) as storage:
        refused = asyncio.Event()
        async with storage.transaction() as tx:
            task = asyncio.create_task(worker(storage))
            await refused.wait()
            await tx.conversations.create(new("block"))
        ended.set()
        await task
    assert titles(admin) == ["block", "worker", "worker", "worker"]


@EVERY_SYNC_PATH
async def test_a_thread_that_has_the_context_of_a_block_may_use_the_storage_when_it_has_ended(
    conninfo: str, admin: psycopg.Connection, path: str
) -> None:
    async with opened(conninfo, path) as storage:
        with storage.target.transaction() as tx:
            inside = contextvars.copy_context()
            tx.conversations.create(new("block"))
            with pytest.raises(PoolUsedInTransaction):
                inside.run(storage.target.conversations.count)
        assert inside.run(storage.target.conversations.count) == 1


@EVERY_PATH
async def test_a_callback_after_the_commit_may_use_the_only_connection(
    conninfo: str, admin: psycopg.Connection, path: str
) -> None:
    async with opened(conninfo, path, pool_max=1, pool_timeout=2) as storage:

        def use_sync() -> None:
            face = storage.target
            face.conversations.create(new("callback"))
            with face.transaction() as tx:
                tx.conversations.create(new("callback"))
                tx.after_commit(lambda: face.conversations.create(new("callback of the callback")))
            with face.batch() as batch:
                batch.add(batch.conversations.create, new("callback"))

        async def use() -> None:
            await storage.conversations.create(new("callback"))
            async with storage.transaction() as tx:
                await tx.conversations.create(new("callback"))
                tx.after_commit(lambda: storage.conversations.create(new("callback of the callback")))
            async with storage.batch() as batch:
                batch.add(batch.conversations.create, new("callback"))

        callback: Any = use_sync if isinstance(storage, Waited) else use
        async with storage.transaction() as tx:
            await tx.conversations.create(new("block"))
            tx.after_commit(callback)
        with pytest.raises(ZeroDivisionError):
            async with storage.transaction() as tx:
                tx.after_commit(callback)
                raise ZeroDivisionError
        async with storage.transaction() as tx:
            with suppress(ZeroDivisionError):
                async with tx.transaction() as inner:
                    inner.after_commit(callback)
                    raise ZeroDivisionError
    assert titles(admin) == ["block", *["callback"] * 3, "callback of the callback"]


@EVERY_PATH
async def test_a_callback_that_raises_retryable_repeats_nothing(
    conninfo: str, admin: psycopg.Connection, path: str
) -> None:
    called: list[str] = []

    def fail() -> None:
        called.append("fail")
        raise Retryable("of the callback")

    async def fail_async() -> None:
        fail()

    def also() -> None:
        called.append("also")

    async def also_async() -> None:
        also()

    async with opened(conninfo, path, pool_max=1) as storage:

        def work_sync(tx: sync.Storage) -> None:
            tx.conversations.create(new("once"))
            tx.after_commit(fail)
            tx.after_commit(also)

        async def work(tx: agent_storage.Storage) -> None:
            await tx.conversations.create(new("once"))
            tx.after_commit(fail_async)
            tx.after_commit(also_async)

        with pytest.raises(Retryable, match="of the callback"):
            if isinstance(storage, Waited):
                storage.target.run(work_sync)
            else:
                await storage.run(work)
        assert await storage.conversations.count() == 1
    assert called == ["fail", "also"]
    assert titles(admin) == ["once"]


# ---- 13: forks ----


def in_child(work: Callable[[], str]) -> str:
    """What `work` gives in a forked child."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(read)
            answer = work()
        except BaseException as error:  # the parent is told
            answer = repr(error)
        try:
            os.write(write, answer.encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        answer = pipe.read().decode()
    os.waitpid(child, 0)
    return answer


async def all_errors(calls: list[Callable[[], Awaitable[Any]]]) -> str:
    """Use it in every way; what each way raised."""
    told: list[str] = []
    for call in calls:
        try:
            await call()
            told.append("nothing was raised")
        except BaseException as error:  # the parent is told
            told.append(f"{type(error).__name__}: {error}")
    return "\n".join(told)


def uses(storage: Any) -> list[Callable[[], Awaitable[Any]]]:
    """Every way to use a storage."""

    async def transaction() -> None:
        async with storage.transaction() as tx:
            await tx.conversations.create(new("child"))

    async def batch() -> None:
        async with storage.batch() as asked:
            asked.add(asked.conversations.create, new("child"))

    async def stream() -> None:
        async with storage.conversations.stream() as rows:
            async for _ in rows:
                pass

    async def follow() -> None:
        async with storage.stream_events.follow("s") as events:
            async for _ in events:
                pass

    async def single() -> None:
        await storage.conversations.create(new("child"))

    async def many() -> None:
        await storage.conversations.create_many([new("child")] * 1001)

    async def read() -> None:
        await storage.conversations.count()

    async def own() -> None:
        async with storage.database.connection() as connection:
            await connection.execute("SELECT 1")

    return [single, many, read, transaction, batch, stream, follow, own]


@EVERY_PATH
async def test_a_forked_child_is_refused_and_its_close_harms_nothing(
    conninfo: str, admin: psycopg.Connection, path: str
) -> None:
    async with opened(conninfo, path, pool_min=2, pool_max=2) as storage:
        await storage.stream_events.publish("s")
        heard: list[int] = []

        async def follow() -> None:
            async with storage.stream_events.follow("s") as events:
                async for event in events:
                    heard.append(event.sequence)  # noqa: PERF401  # one at a time

        def follow_sync() -> None:
            with suppress(StorageError), storage.target.stream_events.follow("s") as events:
                for event in events:
                    heard.append(event.sequence)  # noqa: PERF401  # one at a time

        following = asyncio.create_task(
            asyncio.to_thread(follow_sync) if isinstance(storage, Waited) else follow()  # type: ignore[arg-type]
        )
        await until(lambda: heard == [1])
        await storage.conversations.create_many([new(str(n)) for n in range(3)])
        before = backends(admin)

        def child() -> str:
            async def use() -> str:
                told = await all_errors(uses(storage))
                await asyncio.wait_for(_close(storage), 5)
                gc.collect()
                return told

            return asyncio.run(use())

        for _ in range(2):
            told = in_child(child).splitlines()
            assert len(told) == 8
            assert [line for line in told if "before fork" not in line] == []
        idle = time.process_time()
        await asyncio.sleep(0.25)
        assert time.process_time() - idle < 0.12, "something in this process is spinning"
        await storage.stream_events.publish("s")
        await until(lambda: heard == [1, 2], 3)
        assert await storage.conversations.count() == 3
        async with storage.transaction() as tx:
            assert await tx.conversations.count() == 3
        assert before <= backends(admin)
        if not isinstance(storage, Waited):
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
    if path.startswith("sync"):
        await asyncio.wait_for(following, 5)


async def _close(storage: Any) -> None:
    await storage.close()


@EVERY_PATH
async def test_a_child_can_open_a_storage_of_its_own(conninfo: str, admin: psycopg.Connection, path: str) -> None:
    async with opened(conninfo, path) as storage:
        await storage.conversations.create(new("parent"))

        def child() -> str:
            async def use() -> str:
                async with opened(conninfo, path) as own:
                    await own.conversations.create(new("child"))
                    return ",".join(sorted(row.title for row in await own.conversations.find()))

            return asyncio.run(use())

        assert in_child(child) == "child,parent"
        assert await storage.conversations.count() == 2


@EVERY_PATH
async def test_a_child_cannot_end_the_transaction_of_its_parent(
    conninfo: str, admin: psycopg.Connection, path: str
) -> None:
    async with opened(conninfo, path, pool_max=1) as storage:
        for error in (None, ZeroDivisionError()):
            block = storage.transaction()
            tx = await block.__aenter__()
            await tx.conversations.create(new("parent"))
            inner_block = tx.transaction()
            inner = await inner_block.__aenter__()

            def child(
                block: Any = block, tx: Any = tx, inner: Any = inner, inner_block: Any = inner_block, error: Any = error
            ) -> str:
                async def use() -> str:
                    told = await all_errors(
                        [
                            lambda: _call(tx.conversations.count),
                            lambda: _call(inner.conversations.count),
                            lambda: _call(inner_block.__aexit__, error and type(error), error, None),
                            lambda: _call(block.__aexit__, error and type(error), error, None),
                        ]
                    )
                    await _close(storage)
                    return told

                return asyncio.run(use())

            told = in_child(child).splitlines()
            expected = 2 if error else 4  # __aexit__ does not raise the block's own error again
            assert [("before fork" in line) for line in told] == [True] * expected + [False] * (4 - expected), told
            await inner.conversations.create(new("parent"))
            await inner_block.__aexit__(None, None, None)
            await block.__aexit__(None, None, None)
    assert titles(admin) == ["parent"] * 4


async def _call(function: Callable[..., Any], *args: Any) -> Any:
    return await function(*args)


# ---- 13: opening, event loops, closing ----


@EVERY_PATH
async def test_connecting_at_once_opens_one_pool_and_closing_leaves_nothing(
    conninfo: str, admin: psycopg.Connection, path: str
) -> None:
    settings = {**PATHS[path], "pool_min": 2, "pool_max": 2, "application_name": f"one pool {path}"}
    expected = 2 + (1 if "shared" in path else 0)  # the first shared connection is made at once
    if path.startswith("async"):
        storage = Storage(conninfo, **settings)
        await asyncio.gather(*(storage.connect() for _ in range(10)))
    else:
        storage: Any = sync.Storage(conninfo, **settings)
        await asyncio.gather(*(asyncio.to_thread(storage.connect) for _ in range(10)))
    await until(lambda: len(backends(admin, settings["application_name"])) >= expected)
    await asyncio.sleep(0.1)
    assert len(backends(admin, settings["application_name"])) == expected
    if path.startswith("async"):
        await storage.close()
    else:
        storage.close()
    await until(lambda: not backends(admin, settings["application_name"]))


@EVERY_ASYNC_PATH
async def test_connecting_that_is_given_up_leaves_no_connection(
    conninfo: str, admin: psycopg.Connection, path: str
) -> None:
    given_up = 0
    started = time.monotonic()
    async with Storage(conninfo, **PATHS[path]):
        whole = time.monotonic() - started
    for number in range(25):
        storage = Storage(conninfo, **PATHS[path], application_name="given up")
        task = asyncio.create_task(storage.connect())
        await asyncio.sleep(whole * number / 20)
        task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            given_up += 1  # `async with` does not call __aexit__ then
        else:
            await storage.close()
    assert given_up >= 3
    await until(lambda: not backends(admin, "given up"), 5)


@EVERY_ASYNC_PATH
async def test_connecting_and_closing_at_once_leaves_no_connection(
    conninfo: str, admin: psycopg.Connection, path: str
) -> None:
    for number in range(10):
        storage = Storage(conninfo, **PATHS[path], application_name="closed")
        connecting = asyncio.create_task(storage.connect())
        await asyncio.sleep(0.002 * number)
        await storage.close()
        await connecting
        await storage.close()
    await until(lambda: not backends(admin, "closed"), 5)


@EVERY_ASYNC_PATH
async def test_another_event_loop_is_refused_before_anything_is_executed(
    conninfo: str, admin: psycopg.Connection, path: str
) -> None:
    async with opened(conninfo, path, pool_max=2) as storage, storage.transaction() as tx:
        await tx.conversations.create(new("kept"))

        def elsewhere() -> str:
            of_transaction = [lambda: tx.conversations.create(new("other loop")), lambda: _nested(tx)]
            return contextvars.Context().run(asyncio.run, all_errors(uses(storage) + of_transaction))

        told = (await asyncio.to_thread(elsewhere)).splitlines()
        assert len(told) == 10
        assert all("StorageError: the storage was opened in another event loop" in line for line in told), told
    assert titles(admin) == ["kept"]


async def _nested(tx: Any) -> None:
    async with tx.transaction() as inner:
        await inner.conversations.create(new("other loop"))


async def test_connections_and_pools_of_the_callers_own_keep_to_their_event_loop_too(
    conninfo: str, admin: psycopg.Connection
) -> None:
    async with (
        psycopg_pool.AsyncConnectionPool(conninfo, open=False) as pool,
        await psycopg.AsyncConnection.connect(conninfo, autocommit=True) as connection,
    ):
        pooled, attached = Conversations(pool), Conversations(connection)
        await pooled.create(new("kept"))
        await attached.create(new("kept"))
        calls: list[Callable[[], Awaitable[Any]]] = [
            lambda: pooled.create(new("other loop")),
            lambda: attached.create(new("other loop")),
            lambda: _nested_of(pooled),
            lambda: _nested_of(attached),
        ]
        told = (await asyncio.to_thread(asyncio.run, all_errors(calls))).splitlines()
        assert all("StorageError: the storage was opened in another event loop" in line for line in told), told
    assert titles(admin) == ["kept", "kept"]


async def _nested_of(repository: Any) -> None:
    async with repository.transaction() as inner:
        await inner.create(new("other loop"))


async def test_a_task_of_the_pool_that_comes_again_and_again_is_wrapped_once(conninfo: str) -> None:
    async with agent_storage.Storage(conninfo) as storage:
        pool: Any = storage.database._pool
        task = ShrinkPool(pool)  # schedules itself each time that it ran
        wrapped = set()
        for _ in range(3):
            pool.run_task(task)
            wrapped.add(task.run)
        assert len(wrapped) == 1


#: A program that forgets close() in every way of its face, and says how far it came.
FORGOTTEN = """
import asyncio, json, sys, threading
from agent_storage import Storage, sync
from agent_storage.types import NewConversation

face, conninfo, settings = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
kept = []

async def follower(storage):
    async def follow():
        async with storage.stream_events.follow("s") as events:
            async for _ in events: pass
    kept.append(asyncio.create_task(follow()))
    await asyncio.sleep(0.05)

async def calls(storage):
    kept.extend(asyncio.create_task(storage.conversations.count()) for _ in range(50))
    await asyncio.sleep(0)

async def nothing(storage):
    pass

async def main(leave_open):
    storage = Storage(conninfo, **settings)
    await storage.connect()
    await storage.conversations.create(NewConversation(title="made"))
    await leave_open(storage)

def main_sync():
    storage = sync.Storage(conninfo, **settings)
    storage.connect()
    storage.conversations.create(NewConversation(title="made"))
    def follow():
        with storage.stream_events.follow("s") as events:
            for _ in events: pass
    threading.Thread(target=follow, daemon=True).start()
    kept.append(storage.transaction())
    kept[-1].__enter__()

if face == "sync":
    main_sync()
else:
    for leave_open in (nothing, calls, follower, nothing):
        asyncio.run(main(leave_open))
        print(leave_open.__name__, flush=True)
print("ended", flush=True)
"""


def test_a_forgotten_close_does_not_hang_the_program(conninfo: str, admin: psycopg.Connection) -> None:
    programs: dict[str, subprocess.Popen[str]] = {}
    for path in ("async shared", "async prepared", "sync prepared"):
        arguments = [sys.executable, "-c", FORGOTTEN, path.split()[0], conninfo, json.dumps(PATHS[path])]
        programs[path] = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    told: dict[str, Any] = {}
    for path, program in programs.items():
        try:
            out, errors = program.communicate(timeout=10)
            told[path] = "it ended" if out.endswith("ended\n") and program.returncode == 0 else errors
        except subprocess.TimeoutExpired:
            program.kill()
            told[path] = ("it hangs", *program.communicate())
    assert told == dict.fromkeys(programs, "it ended")
    assert titles(admin) == ["made"] * 9


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # connections that nobody could close
@EVERY_ASYNC_PATH
def test_a_storage_whose_loop_has_ended_is_refused_in_the_next_and_closes_there(
    conninfo: str, admin: psycopg.Connection, path: str
) -> None:
    storage = Storage(conninfo, **PATHS[path], application_name="loop ended")

    async def first() -> None:
        await storage.connect()
        await storage.conversations.create(new("first"))

    async def second() -> None:
        with pytest.raises(StorageError, match="another event loop"):
            await storage.conversations.create(new("second"))
        async with asyncio.timeout(5):
            with suppress(StorageError):
                await storage.close()

    asyncio.run(first())
    asyncio.run(second())
    assert titles(admin) == ["first"]


# ---- 13: the listener ----


@asynccontextmanager
async def following(storage: Any, stream: str) -> AsyncIterator[list[int]]:
    """The sequences that a follower has heard of."""
    heard: list[int] = []

    async def follow() -> None:
        async with storage.stream_events.follow(stream) as events:
            async for event in events:
                heard.append(event.sequence)  # noqa: PERF401  # one at a time

    task = asyncio.create_task(follow())
    try:
        yield heard
        if task.done():
            await task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize(
    "error", [OSError(24, "Too many open files"), MemoryError(), RuntimeError("anything")], ids=repr
)
@pytest.mark.parametrize("where", ["connect", "DefaultSelector"])
async def test_a_listener_survives_any_error_in_connecting(
    conninfo: str, admin: psycopg.Connection, monkeypatch: pytest.MonkeyPatch, error: Exception, where: str
) -> None:
    failures = 3
    module = psycopg if where == "connect" else listener_module.selectors
    original = getattr(module, where)

    def fail(*args: Any, **kwargs: Any) -> Any:
        nonlocal failures
        if failures and threading.current_thread().name == "agent-storage-listener":
            failures -= 1
            raise error
        return original(*args, **kwargs)

    monkeypatch.setattr(module, where, fail)
    async with opened(conninfo, "async shared") as storage, following(storage, "s") as heard:
        await storage.stream_events.publish("s")
        await until(lambda: heard == [1], 5)
        await until(lambda: failures == 0, 5)
        for number in (2, 3):
            await storage.stream_events.publish("s")
            await until(lambda number=number: heard == list(range(1, number + 1)), 5)


async def test_a_listener_whose_connection_is_cut_and_cannot_be_made_for_a_while_misses_nothing(
    conninfo: str, admin: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, broken, refused = psycopg.connect, False, 0

    def connect(*args: Any, **kwargs: Any) -> Any:
        nonlocal refused
        if broken and threading.current_thread().name == "agent-storage-listener":
            refused += 1
            raise OSError(24, "Too many open files")
        return original(*args, **kwargs)

    monkeypatch.setattr(psycopg, "connect", connect)
    async with opened(conninfo, "async shared") as storage, following(storage, "s") as heard:
        await storage.stream_events.publish("s")
        await until(lambda: heard == [1])
        broken = True
        admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND query LIKE 'LISTEN%'"
        )
        await storage.stream_events.publish("s")
        await until(lambda: refused > 1, 5)
        broken = False
        await until(lambda: heard == [1, 2], 5)
        await storage.stream_events.publish("s")
        await until(lambda: heard == [1, 2, 3], 5)


async def test_closing_while_somebody_follows_ends_the_follower_with_an_error(
    conninfo: str, admin: psycopg.Connection
) -> None:
    storage = await Storage(conninfo).connect()

    async def follow() -> None:
        async with storage.stream_events.follow("s") as events:
            async for _ in events:
                pass

    task = asyncio.create_task(follow())
    await until(lambda: bool(admin.execute("SELECT FROM pg_stat_activity WHERE query LIKE 'LISTEN%'").fetchall()))
    async with asyncio.timeout(10):
        await storage.close()
        with pytest.raises(StorageError, match=r"closed|not open"):
            await task
