"""A peer that acknowledges TCP and never answers: no call waits for ever."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import psycopg
import pytest

from agent_storage import Storage, sync
from agent_storage.database import listener, settings
from agent_storage.errors import ConnectionLost, OutcomeUnknown, Unavailable
from agent_storage.types import NewBoard

from .proxy import Proxy

PATHS: dict[str, dict[str, Any]] = {"shared": {}, "pool": {"multiplex": 0}, "unprepared": {"prepare": False}}
#: The statement time-out of the storage, in seconds, and how much longer a client waits here.
LIMIT, GRACE = 1.0, 0.2


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "GRACE", GRACE)
    monkeypatch.setattr(listener, "_PATIENCE", GRACE)


async def _read(storage: Storage) -> None:
    await storage.boards.get_by(slug="x")


async def _write(storage: Storage) -> None:
    await storage.boards.create(NewBoard(name="n", slug="written"))


async def _many(storage: Storage) -> None:
    await storage.boards.create_many([NewBoard(name="n", slug=f"many {n}") for n in range(1500)])


async def _batch(storage: Storage) -> None:
    async with storage.batch() as batch:
        batch.add(batch.boards.create, NewBoard(name="n", slug="batched"))
        batch.add(batch.boards.create, NewBoard(name="n", slug="batched too"))


async def _transaction(storage: Storage) -> None:
    async with storage.transaction() as tx:
        await tx.boards.create(NewBoard(name="n", slug="in a transaction"))


CALLS: list[tuple[Callable[[Storage], Awaitable[None]], type[Exception]]] = [
    (_read, Unavailable),
    (_write, OutcomeUnknown),
    (_many, ConnectionLost),
    (_batch, OutcomeUnknown),
    (_transaction, ConnectionLost),
]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("call", "error"), CALLS, ids=lambda one: getattr(one, "__name__", None))
async def test_a_call_ends_soon_after_the_statement_timeout(
    proxy: Proxy, path: str, call: Callable[[Storage], Awaitable[None]], error: type[Exception]
) -> None:
    settings = {"pool_max": 1, **PATHS[path]}  # what is prepared on another connection is not sent
    async with Storage(proxy.conninfo, statement_timeout=LIMIT, pool_timeout=1.0, **settings) as storage:
        for _ in range(3):  # a statement that is not prepared yet is not sent
            await call(storage)
            await storage.boards.delete_where({"name": "n"})
        proxy.silent = True
        async with asyncio.timeout(20):
            with pytest.raises(error) as caught:
                await call(storage)
            assert type(caught.value) is error or error is Unavailable
        proxy.silent = False
        proxy.reset()
        async with asyncio.timeout(20):
            await _until_it_answers(storage)


async def _until_it_answers(storage: Storage) -> None:
    while True:
        try:
            return await _read(storage)
        except Unavailable:
            await asyncio.sleep(0.02)


def test_a_call_of_the_sync_face_ends_too(proxy: Proxy) -> None:
    with sync.Storage(proxy.conninfo, statement_timeout=LIMIT, pool_timeout=1.0, pool_max=1) as storage:
        storage.boards.get_by(slug="x")
        storage.boards.create(NewBoard(name="n", slug="prepared"))
        proxy.silent = True
        with pytest.raises(OutcomeUnknown):
            storage.boards.create(NewBoard(name="n", slug="written"))
        with pytest.raises(Unavailable):
            storage.boards.get_by(slug="x")


async def test_calls_on_a_shared_connection_that_is_silent_end_together(proxy: Proxy) -> None:
    async with Storage(proxy.conninfo, statement_timeout=LIMIT, pool_timeout=1.0, multiplex=1) as storage:
        for _ in range(3):
            await _read(storage)
        proxy.silent = True
        async with asyncio.timeout(30):
            ended = await asyncio.gather(*(_read(storage) for _ in range(200)), return_exceptions=True)
        assert all(isinstance(one, Unavailable) for one in ended)


async def test_without_a_statement_timeout_a_call_waits(proxy: Proxy) -> None:
    async with Storage(proxy.conninfo, statement_timeout=None) as storage:
        proxy.silent = True
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(_read(storage), 1.0)


@pytest.mark.parametrize("stage", ["connecting", "listening"])
async def test_close_returns_while_the_listener_waits_for_the_server(proxy: Proxy, migrated: str, stage: str) -> None:
    storage = await Storage(migrated, listen_url=proxy.conninfo).connect()
    proxy.silent = stage == "connecting"
    with storage.database.listen("event_streams", "x") as signal:
        await signal.wait(0.5)
        proxy.silent = True
        started = time.monotonic()
        await asyncio.wait_for(storage.close(), 20)
        assert time.monotonic() - started < 10


def test_a_listening_connection_that_has_become_silent_is_replaced(
    proxy: Proxy, migrated: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "_LINGER", 0.2)
    with (
        sync.Storage(migrated, listen_url=proxy.conninfo) as storage,
        storage.database.listen("event_streams", "x") as signal,
        psycopg.connect(migrated, autocommit=True) as other,
    ):
        assert signal.wait(20)  # it listens
        proxy.silent = True
        assert not signal.wait(1.0)
        proxy.silent = False
        assert signal.wait(20)  # it listens again
        other.execute("SELECT pg_notify('event_streams.public', 'x')")
        assert signal.wait(20)
