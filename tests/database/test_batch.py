"""Batches: what is asked for together travels together, all or nothing."""

from __future__ import annotations

import asyncio
import re
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from pydantic import SecretStr

from agent_storage import (
    Conflict,
    ConnectionLost,
    InvalidValue,
    MissingReference,
    NotFound,
    PoolUsedInTransaction,
    Storage,
    StorageError,
    sync,
)
from agent_storage.types import NewConversation, NewMessage, NewProvider

from .test_executor import ask, terminate, until_one_waits


@pytest.fixture(params=["prepared", "unprepared"])
async def storage(migrated: str, request: pytest.FixtureRequest) -> AsyncIterator[Storage]:
    async with Storage(migrated, prepare=request.param == "prepared") as opened:
        yield opened


# ---- all ----


async def test_calls_give_their_results_and_see_what_those_before_them_did(storage: Storage) -> None:
    chat = await storage.conversations.create(NewConversation(title="t"))
    async with storage.batch() as batch:
        asked = batch.add(batch.messages.append, chat.id, role="user", content="Which train?")
        answered = batch.add(batch.messages.append, chat.id, role="assistant", content="The one at eight.")
        renamed = batch.add(batch.conversations.update, chat.id, title="Trains")
        newest = batch.add(batch.messages.latest, chat.id)
        page = batch.add(batch.messages.page, {"conversation_id": chat.id})
        with pytest.raises(StorageError, match="has not been sent"):
            assert asked.result
    assert (asked.result.position, answered.result.position, renamed.result.title) == (1, 2, "Trains")
    assert [item.id for item in newest.result] == [answered.result.id, asked.result.id]
    assert len(page.result.items) == 2
    assert await storage.messages.get(asked.result.id) == asked.result


def test_the_sync_face_has_the_same(sync_storage: sync.Storage) -> None:
    chat = sync_storage.conversations.create(NewConversation(title="t"))
    with sync_storage.batch() as batch:
        message = batch.add(batch.messages.append, chat.id, role="user", content="x")
        count = batch.add(batch.messages.count)
    assert (message.result.position, count.result) == (1, 1)
    with pytest.raises(NotFound), sync_storage.batch() as batch:
        batch.add(batch.conversations.create, NewConversation())
        batch.add(batch.messages.append, uuid4(), role="user", content="x")
    assert sync_storage.conversations.count() == 1


async def test_arguments_are_those_of_the_moment_in_which_they_were_given(storage: Storage) -> None:
    metadata: dict[str, Any] = {"n": 1}
    news = [NewProvider(name="a", kind="custom")]
    async with storage.batch() as batch:
        chat = batch.add(batch.conversations.create, NewConversation.model_construct(**_fields(metadata)))
        made = batch.add(batch.providers.create_many, news)
        metadata["n"] = 2
        news.append(NewProvider(name="b", kind="custom"))
        again = batch.add(batch.conversations.create, NewConversation.model_construct(**_fields(metadata)))
    assert (chat.result.metadata, again.result.metadata) == ({"n": 1}, {"n": 2})
    assert [one.name for one in made.result] == ["a"]


def _fields(metadata: dict[str, Any]) -> dict[str, Any]:
    """The fields of a conversation, with this very dict, which no validator has copied."""
    return {**dict(NewConversation()), "metadata": metadata}


async def test_an_empty_batch_does_nothing(storage: Storage) -> None:
    async with storage.batch():
        pass


async def test_200_batches_at_once_keep_positions_without_gaps(storage: Storage) -> None:
    chat = await storage.conversations.create(NewConversation())

    async def turn(number: int) -> list[int]:
        async with storage.batch() as batch:
            new = [NewMessage(conversation_id=chat.id, role="user", content=f"{number}.{n}") for n in range(3)]
            made = [batch.add(batch.messages.create, item) for item in new]
        return [item.result.position for item in made]

    positions = await asyncio.gather(*(turn(number) for number in range(200)))
    assert sorted(position for own in positions for position in own) == list(range(1, 601))
    assert all(own == list(range(own[0], own[0] + 3)) for own in positions)


def test_threads_that_share_a_transaction_each_get_the_results_of_their_own_batch(sync_storage: sync.Storage) -> None:
    seen: list[tuple[int, list[str | None]]] = []

    def work(tx: sync.Storage, number: int) -> None:
        for _ in range(20):
            with tx.batch() as batch:
                later = [batch.add(batch.conversations.create, NewConversation(title=str(number))) for _ in "abc"]
            seen.append((number, [one.result.title for one in later]))

    with sync_storage.transaction() as tx:
        threads = [threading.Thread(target=work, args=[tx, number]) for number in range(10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert tx.conversations.count() == 10 * 20 * 3
    assert len(seen) == 10 * 20
    assert all(titles == [str(number)] * 3 for number, titles in seen)


# ---- or nothing ----


async def test_an_error_of_the_server_undoes_all_and_names_its_statement(storage: Storage) -> None:
    await storage.providers.create(NewProvider(name="p", kind="custom"))
    later: list[Any] = []
    with pytest.raises(Conflict, match=r"providers\.create") as caught:
        async with storage.batch() as batch:
            later.append(batch.add(batch.conversations.create, NewConversation()))
            later.append(batch.add(batch.providers.create, NewProvider(name="p", kind="custom")))
            later.append(batch.add(batch.conversations.create, NewConversation()))
    assert (caught.value.table, caught.value.outcome) == ("providers", "not kept")
    assert await storage.conversations.count() == 0
    for one in later:
        with pytest.raises(StorageError, match="it failed"):
            assert one.result


async def test_what_a_method_refuses_undoes_all(storage: Storage) -> None:
    with pytest.raises(NotFound):
        async with storage.batch() as batch:
            batch.add(batch.conversations.create, NewConversation())
            batch.add(batch.conversations.require, uuid4())
    with pytest.raises(NotFound, match="create the conversation first"):
        async with storage.batch() as batch:
            batch.add(batch.conversations.create, NewConversation())
            batch.add(batch.messages.append, uuid4(), role="user", content="x")
    with pytest.raises(MissingReference):
        async with storage.batch() as batch:
            batch.add(batch.conversations.create, NewConversation())
            new = NewMessage(conversation_id=uuid4(), role="user", content="x")
            batch.add(batch.messages.create_many, [new])
    assert await storage.conversations.count() == 0


async def test_an_exception_in_the_block_sends_nothing(storage: Storage) -> None:
    with pytest.raises(ZeroDivisionError):
        async with storage.batch() as batch:
            batch.add(batch.conversations.create, NewConversation())
            raise ZeroDivisionError
    assert await storage.conversations.count() == 0


async def test_a_wrong_value_is_refused_where_it_is_given_and_who_catches_that_may_go_on(storage: Storage) -> None:
    with pytest.raises(InvalidValue):
        async with storage.batch() as batch:
            batch.add(batch.conversations.create, NewConversation())
            batch.add(batch.conversations.get, "no id")  # type: ignore[arg-type]
    assert await storage.conversations.count() == 0
    async with storage.batch() as batch:
        made = batch.add(batch.conversations.create, NewConversation())
        with pytest.raises(InvalidValue):
            batch.add(batch.conversations.get, "no id")  # type: ignore[arg-type]
        found = batch.add(batch.conversations.count)
    assert (found.result, await storage.conversations.get(made.result.id)) == (1, made.result)


@pytest.fixture
def gate(migrated: str) -> Iterator[None]:
    """The server stops at each provider until the test ends."""
    with psycopg.connect(migrated, autocommit=True) as admin:
        admin.execute(
            """
            CREATE FUNCTION wait_at_the_gate() RETURNS trigger LANGUAGE plpgsql AS
                'BEGIN PERFORM pg_advisory_xact_lock(1); RETURN NEW; END';
            CREATE TRIGGER gate BEFORE INSERT ON providers FOR EACH ROW EXECUTE FUNCTION wait_at_the_gate();
            """
        )
        admin.execute("SELECT pg_advisory_lock(1)")
        yield


async def stopped(storage: Storage, migrated: str, *, certain: bool) -> asyncio.Task[None]:
    """A batch that the server is working on; `certain` says that its COMMIT is on its way already."""

    async def work() -> None:
        async with storage.batch() as batch:
            batch.add(batch.conversations.create, NewConversation())
            batch.add(batch.providers.create, NewProvider(name="p", kind="custom"))
            if not certain:
                batch.add(batch.conversations.require, uuid4())

    task = asyncio.create_task(work())
    await until_one_waits(migrated, "advisory")
    return task


@pytest.mark.parametrize("certain", [True, False])
async def test_a_batch_whose_session_the_server_ended_was_not_kept(
    storage: Storage, migrated: str, gate: None, *, certain: bool
) -> None:
    task = await stopped(storage, migrated, certain=certain)
    assert terminate(migrated, "wait_event = 'advisory'") == 1
    with pytest.raises(ConnectionLost) as caught:
        await task
    assert caught.value.outcome == "not kept"
    assert (await storage.conversations.count(), await storage.providers.count()) == (0, 0)


@pytest.mark.parametrize("certain", [True, False])
async def test_a_cancelled_batch_leaves_nothing(storage: Storage, migrated: str, gate: None, *, certain: bool) -> None:
    task = await stopped(storage, migrated, certain=certain)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await storage.conversations.count(), await storage.providers.count()) == (0, 0)


# ---- in a transaction ----


async def test_in_a_transaction_a_batch_is_a_part_of_it(storage: Storage) -> None:
    with pytest.raises(ZeroDivisionError):
        async with storage.transaction() as tx:
            async with tx.batch() as batch:
                made = batch.add(batch.conversations.create, NewConversation())
                batch.add(batch.providers.create, NewProvider(name="p", kind="custom"))
            assert await tx.conversations.get(made.result.id) == made.result
            raise ZeroDivisionError
    assert await storage.conversations.count() == 0


async def test_inside_a_transaction_the_storages_own_batch_is_refused(storage: Storage) -> None:
    with pytest.raises(PoolUsedInTransaction, match="batch"):
        async with storage.transaction() as tx:
            await tx.conversations.create(NewConversation())
            async with storage.batch() as batch:
                batch.add(batch.conversations.create, NewConversation())
    assert await storage.conversations.count() == 0


async def test_a_batch_of_a_transaction_that_has_ended_is_refused(storage: Storage) -> None:
    async with storage.transaction() as tx:
        pass
    with pytest.raises(StorageError, match="has ended"):
        async with tx.batch() as batch:
            batch.add(batch.conversations.create, NewConversation())
    assert await storage.conversations.count() == 0


# ---- how it travels ----


@contextmanager
def round_trips(connection: psycopg.AsyncConnection[Any], expected: int) -> Iterator[None]:
    """The client waits this often for the server: what libpq has traced says so."""
    with NamedTemporaryFile("r") as file:
        connection.pgconn.trace(file.fileno())
        try:
            yield
        finally:
            connection.pgconn.untrace()
        assert len(re.findall(r"\bReadyForQuery\b", Path(file.name).read_text("utf-8"))) == expected


@pytest.mark.skipif(sys.platform != "linux", reason="psycopg lets libpq trace on Linux alone")
@pytest.mark.parametrize("prepare", [True, False])
async def test_how_often_it_goes_there_and_back(migrated: str, *, prepare: bool) -> None:
    async with Storage(migrated, pool_max=1, prepare=prepare) as storage:
        async with storage.database.connection() as connection:
            pass
        for expected in (2, 1):  # the first time, the server describes the statements
            with round_trips(connection, expected):
                async with storage.batch() as batch:
                    made = [batch.add(batch.conversations.create, NewConversation(title=str(n))) for n in range(10)]
                    batch.add(batch.conversations.delete, uuid4())
        for expected in (3, 2):  # an answer may be refused, so COMMIT waits for all of them
            with round_trips(connection, expected):
                async with storage.batch() as batch:
                    for item in made:
                        batch.add(batch.messages.append, item.result.id, role="user", content="x")
        async with storage.transaction() as tx:
            with round_trips(connection, 1):
                async with tx.batch() as batch:
                    for item in made:
                        batch.add(batch.messages.append, item.result.id, role="user", content="x")


async def test_statements_that_were_discarded_are_prepared_anew(migrated: str) -> None:
    async with Storage(migrated, pool_max=1) as storage:
        for _ in range(2):
            async with storage.batch() as batch:
                made = batch.add(batch.conversations.create, NewConversation())
            async with storage.database.connection() as connection:
                await connection.execute("DISCARD ALL")
        assert made.result
        assert await storage.conversations.count() == 2


async def test_a_schema_change_costs_a_batch_nothing_and_makes_its_rows_once(storage: Storage, migrated: str) -> None:
    chat = await storage.conversations.create(NewConversation(title="t"))
    for length in (501, 502, 503, 504):
        async with storage.batch() as batch:
            made = [batch.add(batch.conversations.create, NewConversation(title="t")) for _ in range(3)]
            if length % 2:  # then COMMIT is sent by itself
                made.append(batch.add(batch.conversations.require, chat.id))
        assert {one.result.title for one in made} == {"t"}
        ask(migrated, f"ALTER TABLE conversations ALTER COLUMN title TYPE varchar({length})")
    assert await storage.conversations.count() == 1 + 4 * 3


# ---- misuse ----


async def test_misuse_says_what_to_do(storage: Storage) -> None:
    async with storage.batch() as batch:
        with pytest.raises(StorageError, match=r"say batch\.add"):
            await batch.conversations.count()
        with pytest.raises(StorageError, match="the batch's own"):
            batch.add(storage.conversations.count)
        with pytest.raises(StorageError, match="stream cannot be batched"):
            batch.conversations.stream()
        with pytest.raises(StorageError, match="stream cannot be batched"):
            batch.add(batch.conversations.stream)  # type: ignore[arg-type]
    with pytest.raises(StorageError, match="begin another one"):
        batch.add(batch.conversations.count)
    assert await storage.conversations.count() == 0


async def test_a_method_that_is_not_just_one_statement_is_refused_and_leaves_the_batch_as_it_was(
    storage: Storage,
) -> None:
    secret = NewProvider(name="p", kind="custom", api_key=SecretStr("hush"))
    async with storage.batch() as batch:
        made = batch.add(batch.conversations.create, NewConversation())
        with pytest.raises(StorageError, match=r"conversations\.resolve cannot be batched"):
            batch.add(batch.conversations.resolve, "0123abcd")
        with pytest.raises(StorageError, match=r"providers\.upsert cannot be batched"):
            batch.add(batch.providers.upsert, secret)
        with pytest.raises(StorageError, match="cannot be batched"):
            batch.add(batch.approval_requests.wait, uuid4(), timeout=1)
        count = batch.add(batch.conversations.count)
    assert (made.result.title, count.result) == (None, 1)
    assert await storage.providers.count() == 0


async def test_a_batch_holds_no_connection_before_it_is_sent(migrated: str) -> None:
    async with Storage(migrated, pool_max=1, multiplex=0) as storage, storage.batch() as batch:
        batch.add(batch.conversations.create, NewConversation())
        assert await storage.conversations.count() == 0
