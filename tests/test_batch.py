"""Batches: what is asked for together travels together, all or nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg.pq import TransactionStatus

from agent_storage import Conflict, InvalidValue, NotFound, Storage, StorageError, sync
from agent_storage.compiled.wire import Wire
from agent_storage.types import NewConversation, NewMessage, NewProvider


@pytest.fixture(params=["compiled", "through the cursor"])
async def storage(migrated: str, request: pytest.FixtureRequest) -> AsyncIterator[Storage]:
    async with Storage.open(migrated, compiled=request.param == "compiled") as opened:
        yield opened


async def test_calls_give_their_results_and_see_what_those_before_them_did(storage: Storage) -> None:
    chat = await storage.conversations.create(NewConversation(title="t"))
    async with storage.batch() as batch:
        asked = batch.add(batch.messages.append, chat.id, role="user", content="Which train?")
        answered = batch.add(batch.messages.append, chat.id, role="assistant", content="The one at eight.")
        renamed = batch.add(batch.conversations.update, chat.id, title="Trains")
        newest = batch.add(batch.messages.latest, chat.id)
        page = batch.add(batch.messages.page, chat.id)
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


async def test_an_error_of_the_server_undoes_all_and_names_its_statement(storage: Storage) -> None:
    await storage.providers.create(NewProvider(name="p", kind="custom"))
    later: list[Any] = []
    with pytest.raises(Conflict, match=r"providers\.create") as caught:
        async with storage.batch() as batch:
            later.append(batch.add(batch.conversations.create, NewConversation()))
            later.append(batch.add(batch.providers.create, NewProvider(name="p", kind="custom")))
            later.append(batch.add(batch.conversations.create, NewConversation()))
    assert caught.value.table == "providers"
    assert await storage.conversations.count() == 0
    with pytest.raises(StorageError):
        assert later[0].result


async def test_what_a_method_refuses_undoes_all(storage: Storage) -> None:
    with pytest.raises(NotFound):
        async with storage.batch() as batch:
            batch.add(batch.conversations.create, NewConversation())
            batch.add(batch.conversations.require, uuid4())
    with pytest.raises(NotFound, match="create the conversation first"):
        async with storage.batch() as batch:
            batch.add(batch.conversations.create, NewConversation())
            batch.add(batch.messages.append, uuid4(), role="user", content="x")
    assert await storage.conversations.count() == 0


async def test_a_wrong_value_and_an_exception_in_the_block_send_nothing(storage: Storage) -> None:
    with pytest.raises(InvalidValue):
        async with storage.batch() as batch:
            batch.add(batch.conversations.create, NewConversation())
            batch.add(batch.conversations.get, "no id")  # type: ignore[arg-type]
    with pytest.raises(ZeroDivisionError):
        async with storage.batch() as batch:
            batch.add(batch.conversations.create, NewConversation())
            raise ZeroDivisionError
    assert await storage.conversations.count() == 0


async def test_in_a_transaction_a_batch_is_a_part_of_it(storage: Storage) -> None:
    with pytest.raises(ZeroDivisionError):
        async with storage.transaction() as tx:
            async with tx.batch() as batch:
                made = batch.add(batch.conversations.create, NewConversation())
                batch.add(batch.providers.create, NewProvider(name="p", kind="custom"))
            assert await tx.conversations.get(made.result.id) == made.result
            raise ZeroDivisionError
    assert await storage.conversations.count() == 0


async def test_how_often_it_goes_there_and_back(migrated: str, monkeypatch: pytest.MonkeyPatch) -> None:
    trips: list[str] = []
    original_all, original_commit = Wire.run_all, psycopg.AsyncConnection.commit

    async def run_all(self: Any, asked: Any, *, begin: bool) -> Any:
        trips.append("statements")
        return await original_all(self, asked, begin=begin)

    async def commit(self: Any) -> None:
        if self.info.transaction_status != TransactionStatus.IDLE:  # psycopg asks for it wherever a block ends
            trips.append("commit")
        await original_commit(self)

    async with Storage.open(migrated) as storage:
        monkeypatch.setattr(Wire, "run_all", run_all)
        monkeypatch.setattr(psycopg.AsyncConnection, "commit", commit)
        async with storage.batch() as batch:
            made = [batch.add(batch.conversations.create, NewConversation(title=str(n))) for n in range(10)]
            batch.add(batch.conversations.delete, uuid4())
        assert trips == ["statements"]
        trips.clear()
        async with storage.batch() as batch:
            for item in made:
                batch.add(batch.messages.append, item.result.id, role="user", content="x")
        assert trips == ["statements", "commit"]


async def test_misuse_says_what_to_do(storage: Storage) -> None:
    async with storage.batch() as batch:
        with pytest.raises(StorageError, match=r"say batch\.add"):
            await batch.conversations.count()
        with pytest.raises(StorageError, match="the batch's own"):
            batch.add(storage.conversations.count)
        with pytest.raises(StorageError, match="stream cannot be batched"):
            batch.conversations.stream()
    with pytest.raises(StorageError, match="begin another one"):
        batch.add(batch.conversations.count)
    assert await storage.conversations.count() == 0


async def test_an_empty_batch_does_nothing(storage: Storage) -> None:
    async with storage.batch():
        pass


async def test_statements_that_were_discarded_are_prepared_anew(migrated: str) -> None:
    async with Storage.open(migrated, pool_max=1) as storage:
        for _ in range(2):
            async with storage.batch() as batch:
                made = batch.add(batch.conversations.create, NewConversation())
            async with storage.database.connection() as connection:
                await connection.execute("DISCARD ALL")
        assert made.result
        assert await storage.conversations.count() == 2


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
