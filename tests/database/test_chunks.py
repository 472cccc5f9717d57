"""More rows than are sent at once: in chunks, of which two are under way at a time, in a transaction of their own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from agent_storage import Conflict, ConnectionLost, InvalidValue, Storage, StorageError, sync
from agent_storage.statements.records import columns
from agent_storage.statements.statement import CHUNK, UNDIVIDED
from agent_storage.tables import REPOSITORIES, Providers
from agent_storage.types import NewCheckpoint, NewConversation, NewProvider, Provider

from .test_executor import terminate, until_one_waits

MANY = UNDIVIDED + 2 * CHUNK + 7


def providers(count: int = MANY, prefix: str = "provider") -> list[NewProvider]:
    return [NewProvider(name=f"{prefix} {number}", kind="custom") for number in range(count)]


@pytest.fixture(params=["prepared", "unprepared"])
async def storage(migrated: str, request: pytest.FixtureRequest) -> AsyncIterator[Storage]:
    prepare = request.param == "prepared"
    async with Storage(migrated, pool_max=2, multiplex=0, prepare=prepare) as opened:
        yield opened


@pytest.fixture
def admin(migrated: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(migrated, autocommit=True) as connection:
        yield connection


@pytest.fixture(params=[0, CHUNK, 2 * CHUNK + 1, MANY - 1])
def gate(admin: psycopg.Connection[Any], request: pytest.FixtureRequest) -> int:
    """The place of a provider in the list at which the server stops, until `admin` is closed."""
    admin.execute(
        f"""
        CREATE FUNCTION wait_at_the_gate() RETURNS trigger LANGUAGE plpgsql AS
            'BEGIN PERFORM pg_advisory_xact_lock(1); RETURN NEW; END';
        CREATE TRIGGER gate BEFORE INSERT ON providers FOR EACH ROW WHEN (NEW.name = 'provider {request.param}')
            EXECUTE FUNCTION wait_at_the_gate();
        """  # type: ignore[arg-type]
    )
    admin.execute("SELECT pg_advisory_lock(1)")
    return request.param


# ---- all rows, in order ----


@pytest.mark.parametrize("count", [0, 1, UNDIVIDED, UNDIVIDED + 1, UNDIVIDED + CHUNK, MANY])
async def test_the_rows_come_back_in_the_order_given(storage: Storage, count: int) -> None:
    made = await storage.providers.create_many(providers(count))
    assert [one.name for one in made] == [new.name for new in providers(count)]
    assert await storage.providers.count() == count


async def test_rows_may_come_from_a_generator(storage: Storage) -> None:
    made = await storage.providers.create_many(one for one in providers())  # type: ignore[arg-type]
    assert len(made) == MANY


async def test_rows_larger_than_every_buffer_pass_in_both_directions(storage: Storage) -> None:
    news = [NewConversation(metadata={"text": str(number) * 2000}) for number in range(1500)]
    made = await storage.conversations.create_many(news)
    assert [one.metadata for one in made] == [new.metadata for new in news]


async def test_a_batch_sends_them_undivided(storage: Storage) -> None:
    async with storage.batch() as batch:
        made = batch.add(batch.providers.create_many, providers())
    assert [one.name for one in made.result] == [new.name for new in providers()]


async def test_a_table_that_refers_to_itself_is_not_divided_so_children_may_stand_before_parents(
    storage: Storage,
) -> None:
    parent = uuid4()
    news = [NewCheckpoint(agent_id="a", state={}, parent_id=parent) for _ in range(MANY)]
    made = await storage.checkpoints.create_many([*news, NewCheckpoint(id=parent, agent_id="a", state={})])
    assert len(made) == MANY + 1


def test_the_tables_that_refer_to_themselves_say_so(admin: psycopg.Connection[Any]) -> None:
    rows = admin.execute(
        "SELECT attrelid::regclass::text, attname FROM pg_constraint"
        " JOIN pg_attribute ON attrelid = conrelid AND attnum = ANY (conkey)"
        " WHERE contype = 'f' AND conrelid = confrelid"
    ).fetchall()
    kinds = {kind.table: kind for kind in REPOSITORIES.values()}
    # A reference that only a method of the table sets, such as the origin of a fork, is in no row that is given.
    given = {table for table, column in rows if column in columns(kinds[table].new)}
    assert given == {table for table, kind in kinds.items() if kind.refers_to_itself}
    assert {table for table, _ in rows} - given == {"conversations"}


async def test_twelve_tasks_divide_at_once(migrated: str) -> None:
    async def work(storage: Storage) -> list[Provider]:
        return await storage.providers.create_many(providers(UNDIVIDED + 100, uuid4().hex))

    async with Storage(migrated, pool_max=4, pool_timeout=60) as storage:
        made = await asyncio.gather(*(work(storage) for _ in range(12)))
        assert len({one.name for rows in made for one in rows}) == 12 * (UNDIVIDED + 100)
        assert await storage.providers.count() == 12 * (UNDIVIDED + 100)


def test_the_sync_face_divides_too(migrated: str) -> None:
    with sync.Storage(migrated, pool_max=4) as storage:
        news = providers()
        with pytest.raises(Conflict):
            storage.providers.create_many([*news, news[0]])
        found: list[int] = []

        def work(number: int) -> None:
            found.append(len(storage.providers.create_many(providers(prefix=str(number)))))

        threads = [threading.Thread(target=work, args=[number]) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == [MANY] * 6
        assert storage.providers.count() == 6 * MANY


# ---- or none ----


async def test_chunks_are_all_or_nothing_when_the_last_one_fails(storage: Storage) -> None:
    news = providers()
    with pytest.raises(Conflict, match="name") as caught:
        await storage.providers.create_many([*news, news[0]])
    assert caught.value.outcome == "not kept"
    assert await storage.providers.count() == 0
    assert len(await storage.providers.create_many(news)) == MANY


@pytest.mark.parametrize("place", [0, CHUNK, 2 * CHUNK + 1, MANY])
async def test_a_chunk_that_cannot_be_encoded_undoes_those_before_it(storage: Storage, place: int) -> None:
    news: list[Any] = providers()
    news.insert(place, NewConversation())
    with pytest.raises(InvalidValue, match="give a NewProvider"):
        await storage.providers.create_many(news)
    assert await storage.providers.count() == 0
    assert len(await storage.providers.create_many(providers())) == MANY


async def test_a_cancelled_task_leaves_nothing_and_a_fit_connection(storage: Storage, migrated: str, gate: int) -> None:
    task = asyncio.create_task(storage.providers.create_many(providers()))
    await until_one_waits(migrated, "advisory")
    task.cancel()
    async with asyncio.timeout(20):
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await storage.providers.count() == 0
        assert len(await storage.providers.create_many(providers(MANY, "another"))) == MANY


async def test_a_task_cancelled_at_any_step_leaves_all_or_nothing(storage: Storage) -> None:
    async with asyncio.timeout(60):
        for steps in [*range(12), 30, 100]:
            task = asyncio.create_task(storage.providers.create_many(providers(MANY, str(steps))))
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            count = await storage.providers.count({"name__like": f"{steps} %"})
            assert count in ((0, MANY) if task.cancelled() else (MANY,))  # COMMIT may have been on its way


async def test_a_connection_lost_between_chunks_leaves_nothing(storage: Storage, migrated: str, gate: int) -> None:
    task = asyncio.create_task(storage.providers.create_many(providers()))
    await until_one_waits(migrated, "advisory")
    assert terminate(migrated, "wait_event = 'advisory'") == 1
    with pytest.raises(ConnectionLost) as caught:
        await task
    assert caught.value.outcome == "not kept"
    assert await storage.providers.count() == 0


# ---- in a transaction ----


async def test_in_a_transaction_a_refused_chunk_spoils_it_unless_it_is_nested(storage: Storage) -> None:
    news = providers()
    with pytest.raises(StorageError, match="was rolled back: a statement in its block failed"):
        async with storage.transaction() as tx:
            await tx.conversations.create(NewConversation())
            with pytest.raises(Conflict):
                await tx.providers.create_many([*news, news[0]])
    async with storage.transaction() as tx:
        await tx.conversations.create(NewConversation())
        with pytest.raises(Conflict):
            async with tx.transaction() as inner:
                await inner.providers.create_many([*news, news[0]])
        assert await tx.providers.count() == 0
        assert len(await tx.providers.create_many(news)) == MANY
    assert (await storage.conversations.count(), await storage.providers.count()) == (1, MANY)


async def test_in_a_transaction_a_chunk_that_cannot_be_encoded_undoes_the_chunks_alone(storage: Storage) -> None:
    async with storage.transaction() as tx:
        await tx.conversations.create(NewConversation())
        with pytest.raises(InvalidValue):
            await tx.providers.create_many([*providers(), NewConversation()])  # type: ignore[list-item]
        assert await tx.providers.count() == 0
        assert len(await tx.providers.create_many(providers())) == MANY
    assert (await storage.conversations.count(), await storage.providers.count()) == (1, MANY)


async def test_in_a_transaction_a_cancelled_task_undoes_the_whole(storage: Storage, migrated: str, gate: int) -> None:
    async def work() -> None:
        async with storage.transaction() as tx:
            await tx.conversations.create(NewConversation())
            await tx.providers.create_many(providers())

    task = asyncio.create_task(work())
    await until_one_waits(migrated, "advisory")
    task.cancel()
    async with asyncio.timeout(20):
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await storage.conversations.count(), await storage.providers.count()) == (0, 0)


async def test_tasks_that_share_a_transaction_may_divide_at_once(storage: Storage) -> None:
    async with asyncio.timeout(60), storage.transaction() as tx:
        made = await asyncio.gather(
            *(tx.providers.create_many(providers(MANY, prefix)) for prefix in "ab"),
            tx.conversations.create(NewConversation()),
        )
        assert [[one.name for one in rows] for rows in made[:2]] == [
            [new.name for new in providers(MANY, prefix)] for prefix in "ab"
        ]
    assert await storage.providers.count() == 2 * MANY


async def test_chunks_go_on_a_connection_outside_a_transaction(storage: Storage) -> None:
    with pytest.raises(StorageError, match="goes back"):
        async with storage.transaction():
            assert len(await storage.autonomous.providers.create_many(providers())) == MANY
            raise StorageError("the block goes back, what was made outside stays")
    assert await storage.providers.count() == MANY


# ---- on any connection ----


async def test_chunks_are_prepared_anew_after_a_schema_change_and_a_discard(
    storage: Storage, admin: psycopg.Connection[Any]
) -> None:
    await storage.providers.create_many(providers(1))
    for command in ("ALTER TABLE providers ALTER COLUMN name TYPE varchar(600)", "SELECT"):
        admin.execute(command)  # type: ignore[arg-type]
        async with storage.database.connection() as connection:
            await connection.execute("DISCARD ALL")
        admin.execute("TRUNCATE providers CASCADE")
        assert len(await storage.providers.create_many(providers())) == MANY


async def test_a_schema_change_alone_costs_nothing_either(storage: Storage, admin: psycopg.Connection[Any]) -> None:
    for length in (500, 600):
        await storage.providers.create_many(providers(MANY, str(length)))
        admin.execute(f"ALTER TABLE providers ALTER COLUMN name TYPE varchar({length})")  # type: ignore[arg-type]
    assert len(await storage.providers.create_many(providers())) == MANY


@pytest.mark.parametrize("autocommit", [True, False])
async def test_on_a_connection_of_ones_own_they_are_all_or_nothing_too(migrated: str, *, autocommit: bool) -> None:
    async with await psycopg.AsyncConnection.connect(migrated, autocommit=autocommit) as connection:
        repository = Providers(connection)
        news: list[Any] = providers()
        made = await repository.create_many(news)
        assert [one.name for one in made] == [new.name for new in news]
        if not autocommit:
            await connection.commit()
        for wrong, kind in ((news[0], Conflict), (NewConversation(), InvalidValue)):
            with pytest.raises(kind):
                await repository.create_many([*providers(MANY, "more"), wrong])
            await connection.rollback()
            assert await repository.count() == MANY
            await connection.rollback()
