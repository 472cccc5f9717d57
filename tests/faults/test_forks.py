"""A process forks while it uses its storage. The child is refused, and what its parent does goes on."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import psycopg
import pytest

from agent_storage import Storage, StorageError, sync
from agent_storage.types import NewBoard

from ..database.test_lifetimes import all_errors, in_child
from ..database.test_whole_or_nothing import PATHS, opened

EVERY_PATH = pytest.mark.parametrize("path", PATHS)
REFUSED = "StorageError: the storage was opened before fork"


def board(slug: str) -> NewBoard:
    return NewBoard(name="n", slug=slug)


async def rest(rows: AsyncIterator[Any]) -> list[str]:
    return [row.slug async for row in rows]


@EVERY_PATH
async def test_a_child_can_use_nothing_that_its_parent_has_open(migrated: str, path: str) -> None:
    """A transaction, its stream and its batch; a stream, a batch and a connection of the storage."""
    slugs = [f"{n:04}" for n in range(1200)]
    async with opened(migrated, path, pool_max=4) as storage, AsyncExitStack() as stack:
        await storage.boards.create_many([board(slug) for slug in slugs])
        batch_block = storage.batch()
        batch = await batch_block.__aenter__()
        batch.add(batch.boards.create, board("of the batch"))
        stream_block = storage.boards.stream(order_by="slug")
        rows = await stream_block.__aenter__()
        stack.push_async_exit(stream_block)
        iterator = aiter(rows)
        assert (await anext(iterator)).slug == "0000"
        connection_block = storage.connection()
        connection = await connection_block.__aenter__()
        stack.push_async_exit(connection_block)
        await connection.execute("CREATE TEMP TABLE mine AS SELECT 1 AS one")
        block = storage.transaction()
        tx = await block.__aenter__()
        await tx.boards.create(board("first half"))
        tx_stream_block = tx.boards.stream({"slug__lt": "1"}, order_by="slug")
        tx_rows = await tx_stream_block.__aenter__()
        tx_iterator = aiter(tx_rows)
        assert (await anext(tx_iterator)).slug == "0000"
        tx_batch_block = tx.batch()
        tx_batch = await tx_batch_block.__aenter__()
        tx_batch.add(tx_batch.boards.create, board("of the transaction's batch"))

        async def drain(iterator: Any) -> None:
            for _ in range(2000):
                await anext(iterator)

        async def execute(connection: Any) -> None:
            await connection.execute("SELECT 1")

        async def own_transaction(connection: Any) -> None:
            async with connection.transaction():
                pass

        async def raw(connection: Any) -> None:
            await connection.commit()

        uses: list[Callable[[], Awaitable[Any]]] = [
            lambda: tx.boards.create(board("second half of the child")),
            lambda: tx.boards.create_many([board(f"many {n}") for n in range(1100)]),
            lambda: tx.boards.count(),
            lambda: drain(tx_iterator),
            lambda: tx_batch_block.__aexit__(None, None, None),
            lambda: _enter(tx.transaction()),
            lambda: execute(tx.runner.connection),
            lambda: drain(iterator),
            lambda: batch_block.__aexit__(None, None, None),
            lambda: execute(connection),
            lambda: own_transaction(connection),
            lambda: raw(connection),
            lambda: block.__aexit__(None, None, None),
        ]
        leaves: list[Callable[[], Awaitable[Any]]] = [
            lambda: tx_stream_block.__aexit__(None, None, None),
            lambda: stream_block.__aexit__(ZeroDivisionError, ZeroDivisionError(), None),
            lambda: connection.close(),
            lambda: connection_block.__aexit__(None, None, None),
            lambda: block.__aexit__(ZeroDivisionError, ZeroDivisionError(), None),
            lambda: storage.close(),
        ]

        def child() -> str:
            async def use() -> str:
                async with asyncio.timeout(20):
                    told = await all_errors(uses)
                    await all_errors(leaves)
                return told

            return contextvars.Context().run(asyncio.run, use())  # outside of the transaction, for what is outside

        told = in_child(child).splitlines()
        assert [line for line in told if not line.startswith(REFUSED)] == []
        assert len(told) == len(uses)
        assert await rest(tx_iterator) == [slug for slug in slugs[1:] if slug < "1"]
        await tx_stream_block.__aexit__(None, None, None)
        await tx_batch_block.__aexit__(None, None, None)
        await tx.boards.create(board("second half"))
        await block.__aexit__(None, None, None)
        assert await rest(iterator) == slugs[1:]
        await batch_block.__aexit__(None, None, None)
        cursor = await connection.execute("SELECT one FROM mine")
        found = cursor.fetchone()
        assert (await found if asyncio.iscoroutine(found) else found) == (1,)
    expected = {*slugs, "first half", "second half", "of the batch", "of the transaction's batch"}
    with psycopg.connect(migrated) as admin:
        assert {slug for (slug,) in admin.execute("SELECT slug FROM boards")} == expected


async def _enter(block: Any) -> None:
    await block.__aenter__()


def test_a_child_that_forked_during_a_statement_of_another_thread_is_refused_at_once(migrated: str) -> None:
    """The lock of the connection is held in the child for ever."""
    with sync.Storage(migrated) as storage, psycopg.connect(migrated, autocommit=True) as admin:
        storage.boards.create(board("a"))
        with storage.transaction() as tx:
            tx.boards.count()
            with psycopg.connect(migrated) as locker:
                locker.execute("LOCK TABLE projects IN ACCESS EXCLUSIVE MODE")
                counted: list[int] = []
                thread = threading.Thread(target=lambda: counted.append(tx.projects.count()), daemon=True)
                thread.start()
                waiting = "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
                while admin.execute(waiting).fetchone() is None:
                    pass

                def child() -> str:
                    told: list[str] = []

                    def use() -> None:
                        try:
                            tx.boards.count()
                        except StorageError as error:
                            told.append(f"StorageError: {error}")

                    using = threading.Thread(target=use, daemon=True)
                    using.start()
                    using.join(10)
                    return told[0] if told else "it hangs"

                assert in_child(child).startswith(REFUSED)
            thread.join(30)
            tx.boards.create(board("b"))
        assert counted == [0]
        assert storage.boards.count() == 2


async def test_neither_does_a_task_that_was_reading_hold_up_a_child(migrated: str) -> None:
    async with Storage(migrated, multiplex=0) as storage, storage.transaction() as tx:
        await tx.boards.create(board("a"))
        async with await psycopg.AsyncConnection.connect(migrated) as locker:
            await locker.execute("LOCK TABLE projects IN ACCESS EXCLUSIVE MODE")
            counting = asyncio.create_task(tx.projects.count())
            async with await psycopg.AsyncConnection.connect(migrated, autocommit=True) as admin:

                async def is_waiting() -> bool:
                    query = "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
                    return (
                        await (await admin.execute(f"{query} AND datname = current_database()")).fetchone() is not None
                    )

                while not await is_waiting():
                    await asyncio.sleep(0)

            def child() -> str:
                async def use() -> str:
                    async with asyncio.timeout(10):
                        return await all_errors([tx.boards.count])

                return asyncio.run(use())

            assert in_child(child).startswith(REFUSED)
        assert await counting == 0
        assert await tx.boards.count() == 1
