"""More rows than are sent at once: in parts, of which two are under way at a time, in a transaction of their own."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from agent_storage import Conflict, ConnectionLost, InvalidValue, Storage, StorageError, sync
from agent_storage.statement import PART, UNDIVIDED
from agent_storage.tables import REPOSITORIES
from agent_storage.types import NewCheckpoint, NewConversation, NewProvider, Provider

MANY = UNDIVIDED + 2 * PART + 7
SLOW = """
    CREATE FUNCTION slowly() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.002); RETURN NEW; END';
    CREATE TRIGGER slowly BEFORE INSERT ON providers FOR EACH ROW EXECUTE FUNCTION slowly();
"""


def providers(count: int = MANY) -> list[NewProvider]:
    return [NewProvider(name=f"provider {number}", kind="custom") for number in range(count)]


@pytest.fixture(params=["wire", "cursor"])
async def storage(migrated: str, request: pytest.FixtureRequest) -> AsyncIterator[Storage]:
    compiled = request.param == "wire"
    async with Storage.open(migrated, pool_max=2, multiplex=0, compiled=compiled) as opened:
        yield opened


@pytest.fixture
def admin(migrated: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(migrated, autocommit=True) as connection:
        yield connection


@pytest.mark.parametrize("count", [0, 1, UNDIVIDED, UNDIVIDED + 1, UNDIVIDED + PART, MANY])
async def test_the_rows_come_back_in_the_order_given(storage: Storage, count: int) -> None:
    made = await storage.providers.create_many(providers(count))
    assert [one.name for one in made] == [new.name for new in providers(count)]
    assert await storage.providers.count() == count


async def test_parts_are_all_or_nothing_when_the_last_one_fails(storage: Storage) -> None:
    news = providers()
    with pytest.raises(Conflict, match="name"):
        await storage.providers.create_many([*news, news[0]])
    assert await storage.providers.count() == 0
    assert len(await storage.providers.create_many(news)) == MANY


@pytest.mark.parametrize("place", [0, PART, 2 * PART + 1, MANY])
async def test_a_part_that_cannot_be_encoded_undoes_those_before_it(storage: Storage, place: int) -> None:
    news: list[Any] = providers()
    news.insert(place, NewConversation())
    with pytest.raises(InvalidValue, match="give a NewProvider"):
        await storage.providers.create_many(news)
    assert await storage.providers.count() == 0
    assert len(await storage.providers.create_many(providers())) == MANY


async def test_in_a_transaction_parts_are_a_savepoint(storage: Storage) -> None:
    news = providers()
    async with storage.transaction() as tx:
        await tx.conversations.create(NewConversation())
        with pytest.raises(Conflict):
            await tx.providers.create_many([*news, news[0]])
        with pytest.raises(InvalidValue):
            await tx.providers.create_many([*news, NewConversation()])  # type: ignore[list-item]
        assert await tx.providers.count() == 0
        assert len(await tx.providers.create_many(news)) == MANY
    assert (await storage.conversations.count(), await storage.providers.count()) == (1, MANY)


async def test_a_table_that_refers_to_itself_is_not_divided_so_children_may_stand_before_parents(
    storage: Storage,
) -> None:
    parent = uuid4()
    news = [NewCheckpoint(agent_id="a", state={}, parent_id=parent) for _ in range(MANY)]
    made = await storage.checkpoints.create_many([*news, NewCheckpoint(id=parent, agent_id="a", state={})])
    assert len(made) == MANY + 1


def test_the_tables_that_refer_to_themselves_say_so(storage: Storage, admin: psycopg.Connection[Any]) -> None:
    rows = admin.execute(
        "SELECT conrelid::regclass::text FROM pg_constraint WHERE contype = 'f' AND conrelid = confrelid"
    )
    kinds = {kind.table for kind in REPOSITORIES.values() if kind.refers_to_itself}
    assert {name for (name,) in rows} == kinds


async def test_rows_may_come_from_a_generator(storage: Storage) -> None:
    made = await storage.providers.create_many(one for one in providers())  # type: ignore[arg-type]
    assert len(made) == MANY


async def test_a_batch_sends_them_undivided(storage: Storage) -> None:
    async with storage.batch() as batch:
        made = batch.add(batch.providers.create_many, providers())
    assert len(made.result) == MANY


async def test_parts_go_on_a_connection_outside_a_transaction(storage: Storage) -> None:
    with pytest.raises(StorageError, match="goes back"):
        async with storage.transaction():
            assert len(await storage.outside.providers.create_many(providers())) == MANY
            raise StorageError("the block goes back, what was made outside stays")
    assert await storage.providers.count() == MANY


async def test_parts_are_prepared_anew_after_a_schema_change_and_a_discard(
    storage: Storage, admin: psycopg.Connection[Any]
) -> None:
    await storage.providers.create_many(providers(1))
    for command in ("ALTER TABLE providers ALTER COLUMN name TYPE varchar(600)", "SELECT"):
        admin.execute(command)  # type: ignore[arg-type]
        async with storage.database.connection() as connection:
            await connection.execute("DISCARD ALL")
        admin.execute("TRUNCATE providers CASCADE")
        assert len(await storage.providers.create_many(providers())) == MANY


@pytest.mark.parametrize("after", [0.0, 0.001, 0.1, 0.7])
async def test_a_cancelled_task_leaves_nothing_and_a_fit_connection(
    storage: Storage, admin: psycopg.Connection[Any], after: float
) -> None:
    admin.execute(SLOW)
    started = time.perf_counter()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(after):
            await storage.providers.create_many(providers())
    assert time.perf_counter() - started < 4
    assert await storage.providers.count() == 0
    assert len(await storage.providers.create_many(providers(5))) == 5


async def test_a_connection_lost_between_parts_leaves_nothing(storage: Storage, admin: psycopg.Connection[Any]) -> None:
    admin.execute(SLOW)
    task = asyncio.create_task(storage.providers.create_many(providers()))
    await asyncio.sleep(0.7)
    admin.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE application_name = 'agent-storage' AND state = 'active' AND datname = current_database()"
    )
    with pytest.raises(ConnectionLost):
        await task
    assert await storage.providers.count() == 0


async def test_rows_larger_than_every_buffer_pass_in_both_directions(storage: Storage) -> None:
    news = [NewConversation(metadata={"text": str(number) * 2000}) for number in range(1500)]
    made = await storage.conversations.create_many(news)
    assert [one.metadata for one in made] == [new.metadata for new in news]


async def test_forty_tasks_divide_at_once(migrated: str) -> None:
    async def work(storage: Storage) -> list[Provider]:
        kind = uuid4().hex
        news = [NewProvider(name=f"{kind} {number}", kind="custom") for number in range(UNDIVIDED + 100)]
        return await storage.providers.create_many(news)

    async with Storage.open(migrated, pool_max=4, pool_timeout=60) as storage:
        made = await asyncio.gather(*(work(storage) for _ in range(40)))
        assert len({one.name for rows in made for one in rows}) == 40 * (UNDIVIDED + 100)
        assert await storage.providers.count() == 40 * (UNDIVIDED + 100)


def test_the_sync_face_divides_too(migrated: str) -> None:
    with sync.Storage.open(migrated, pool_max=4) as storage:
        news = providers()
        with pytest.raises(Conflict):
            storage.providers.create_many([*news, news[0]])
        found: list[int] = []

        def work(number: int) -> None:
            rows = [NewProvider(name=f"{number} {one.name}", kind="custom") for one in news]
            found.append(len(storage.providers.create_many(rows)))

        threads = [threading.Thread(target=work, args=[number]) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == [MANY] * 8
        assert storage.providers.count() == 8 * MANY
