"""What `agent_storage.testing` gives to the tests of services: a storage that is rolled back, an emptied database."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from agent_storage import AlreadyExists, NotFound, PoolUsedInTransaction, Storage, StorageError, sync
from agent_storage.testing import empty_database, rolled_back, rolled_back_sync
from agent_storage.types import NewConversation, NewMessage, NewProject, NewSession, NewStreamEvent, NewTicket

from .conftest import Awaitable


@pytest.fixture
async def rolled(storage: Storage) -> AsyncIterator[Storage]:
    async with rolled_back(storage) as opened:
        yield opened


@pytest.fixture
def rolled_sync(sync_storage: sync.Storage) -> Iterator[sync.Storage]:
    with rolled_back_sync(sync_storage) as opened:
        yield opened


@pytest.fixture(params=["async", "sync"])
def fresh(request: pytest.FixtureRequest) -> Any:
    """The storage of a test, on either face."""
    if request.param == "async":
        return request.getfixturevalue("rolled")
    return Awaitable(request.getfixturevalue("rolled_sync"))


async def test_everything_works_as_on_a_storage_and_an_error_undoes_its_statement_alone(fresh: Any) -> None:
    project = await fresh.projects.create(NewProject(name="p", path="/p"))
    with pytest.raises(AlreadyExists):
        await fresh.projects.create(NewProject(name="p", path="/p"))
    talk = await fresh.conversations.create(NewConversation(project_id=project.id))
    made = await fresh.messages.create_many([NewMessage(conversation_id=talk.id, role="user", content="x")] * 1500)
    assert [row.position for row in made] == list(range(1, 1501))
    tickets = await fresh.tickets.create_many([NewTicket(project_id=project.id, title=str(n)) for n in range(1500)])
    assert len(tickets) == 1500
    assert await fresh.tickets.count() == 1500
    with pytest.raises(NotFound):
        await fresh.tickets.create_many([NewTicket(project_id=uuid4(), title="t")] * 1500)
    assert await fresh.tickets.delete_where({"title__like": "1%"}) == 611


async def test_nothing_is_seen_by_other_connections_and_nothing_is_left(storage: Storage, migrated: str) -> None:
    async with rolled_back(storage) as fresh:
        made = await fresh.sessions.create(NewSession(agent="a"))
        async with fresh.transaction() as tx:
            await tx.sessions.spawn(made.id)
        assert await fresh.sessions.count() == 2
        with psycopg.connect(migrated) as connection:
            assert connection.execute("SELECT count(*) FROM sessions").fetchone() == (0,)
    assert await storage.sessions.count() == 0
    with pytest.raises(StorageError, match="has ended"):
        await fresh.sessions.count()
    with pytest.raises(ZeroDivisionError):
        async with rolled_back(storage) as fresh:
            await fresh.sessions.create(NewSession(agent="a"))
            raise ZeroDivisionError
    assert await storage.sessions.count() == 0


async def test_transactions_are_savepoints_with_the_guards_and_callbacks_of_transactions(rolled: Storage) -> None:
    called: list[str] = []

    async def note() -> None:
        called.append("kept")

    async with rolled.transaction("serializable") as tx:
        kept = await tx.sessions.create(NewSession(agent="a"))
        tx.after_commit(note)
        with pytest.raises(PoolUsedInTransaction):
            await rolled.sessions.count()
        with pytest.raises(PoolUsedInTransaction):
            async with rolled.transaction():
                pass
        with pytest.raises(ZeroDivisionError):
            async with tx.transaction() as inner:
                await inner.sessions.create(NewSession(agent="b"))
                raise ZeroDivisionError
        assert called == []
    assert called == ["kept"]
    with pytest.raises(ZeroDivisionError):
        async with rolled.transaction() as tx:
            tx.after_commit(note)
            await tx.sessions.delete(kept.id)
            raise ZeroDivisionError
    assert called == ["kept"]
    assert await rolled.sessions.find() == [kept]

    async def work(tx: Storage) -> int:
        await tx.sessions.create(NewSession(agent="c"))
        return await tx.sessions.count()

    assert await rolled.run(work) == 2


async def test_batches_are_all_or_nothing_and_streams_run_beside_statements(rolled: Storage) -> None:
    async with rolled.batch() as batch:
        batch.add(batch.sessions.create, NewSession(agent="a"))
        counted = batch.add(batch.sessions.count)
    assert counted.result == 1
    with pytest.raises(NotFound):
        async with rolled.batch() as batch:
            batch.add(batch.sessions.create, NewSession(agent="b"))
            batch.add(batch.sessions.require, uuid4())
    assert await rolled.sessions.count() == 1
    await rolled.sessions.create_many([NewSession(agent="c")] * 1200)
    async with rolled.sessions.stream() as rows:
        seen = 0
        async for row in rows:
            seen += 1
            if seen % 400 == 0:
                await rolled.sessions.start(row.id)
    assert seen == 1201
    assert await rolled.sessions.count({"status": "running"}) == 3


async def test_a_hundred_tasks_and_ten_threads_take_turns(rolled: Storage, sync_storage: sync.Storage) -> None:
    talk = await rolled.conversations.create(NewConversation())

    async def append(number: int) -> None:
        if number % 10 == 0:
            async with rolled.transaction() as tx:
                await tx.messages.append(talk.id, "user", "x")
        else:
            await rolled.messages.append(talk.id, "user", "x")

    await asyncio.gather(*map(append, range(100)))
    assert (await rolled.messages.latest(talk.id, 1))[0].position == 100
    with rolled_back_sync(sync_storage) as fresh:

        def publish() -> None:
            for _ in range(10):
                fresh.stream_events.create_many([NewStreamEvent(stream_id="s")] * 3)

        threads = [threading.Thread(target=publish) for _ in range(10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [event.sequence for event in fresh.stream_events.read("s", limit=500)] == list(range(1, 301))


async def test_what_needs_a_commit_or_another_connection_says_so(rolled: Storage) -> None:
    with pytest.raises(StorageError, match="nothing is notified"):
        async with rolled.stream_events.follow("s"):
            pass
    with pytest.raises(StorageError, match="nothing is notified"):
        await rolled.approval_requests.wait(uuid4(), 1)
    with pytest.raises(StorageError, match="no other connection"):
        _ = rolled.autonomous
    async with rolled.connection() as connection:
        assert connection.info.transaction_status == psycopg.pq.TransactionStatus.INTRANS


async def test_a_product_keeps_its_class(storage: Storage) -> None:
    class Shop(Storage):
        """A product."""

    async with Shop(storage.database.conninfo) as shop, rolled_back(shop) as fresh:
        assert type(fresh) is Shop
        async with fresh.transaction() as tx:
            assert type(tx) is Shop


def test_a_test_database_is_emptied_with_the_tables_that_refer_to_it(sync_storage: sync.Storage, migrated: str) -> None:
    name = str(conninfo_to_dict(migrated)["dbname"])
    assert "test" in name
    with psycopg.connect(migrated, autocommit=True) as connection:
        connection.execute("CREATE TABLE customers (id serial, talk uuid REFERENCES conversations)")
        talk = sync_storage.conversations.create(NewConversation())
        sync_storage.messages.append(talk.id, "user", "x")
        connection.execute("INSERT INTO customers (talk) VALUES (%s)", (talk.id,))
        with pytest.raises(StorageError, match=r'"customers" references "conversations".*tables='):
            empty_database(migrated, name=name)
        assert sync_storage.messages.count() == 1
        empty_database(migrated, name=name, tables=["public.customers"])
        assert sync_storage.conversations.count() == sync_storage.messages.count() == 0
        assert connection.execute("INSERT INTO customers DEFAULT VALUES RETURNING id").fetchone() == (1,)
        empty_database(migrated, name=name, tables=["customers"])
        empty_database(migrated, name=name, tables=["customers"])
        with pytest.raises(StorageError, match="TRUNCATE"):
            empty_database(migrated, name=name, tables=["nowhere"])


def test_a_database_that_is_not_named_or_no_test_database_is_not_emptied(
    sync_storage: sync.Storage, migrated: str
) -> None:
    sync_storage.sessions.create(NewSession(agent="a"))
    for wrong in ("other_test", "", "postgres"):
        with pytest.raises(StorageError, match="was not emptied"):
            empty_database(migrated, name=wrong)
    with pytest.raises(StorageError, match="was not emptied"):
        empty_database(make_conninfo(migrated, dbname="postgres"), name="postgres")
    assert sync_storage.sessions.count() == 1
