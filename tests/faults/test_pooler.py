"""A real PgBouncer between the storage and the server. Skipped where the program is not installed."""

from __future__ import annotations

import asyncio
import select
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from agent_storage import (
    ConnectionLost,
    InvalidSettings,
    OutcomeUnknown,
    Storage,
    StorageError,
    Unavailable,
    sync,
    uuid7,
)
from agent_storage.types import NewBoard, NewConversation

from ..database.test_storm import done, driven
from ..database.test_whole_or_nothing import Waited, opened, plain
from ..pooler import PgBouncer, pgbouncer
from .proxy import Proxy

#: PgBouncer refuses the startup parameter `options` unless it is told to ignore it; then nothing declares the pooler.
IGNORED = "ignore_startup_parameters = options,extra_float_digits"
DECLARED: dict[str, dict[str, Any]] = {"declared": {"pooler": True}, "undeclared": {}}
FACES = pytest.mark.parametrize("path", ["async shared", "sync prepared"])
MODES = pytest.mark.parametrize("mode", ["session", "transaction", "statement"])


def slug() -> str:
    return uuid4().hex


@pytest.fixture
def pooler(migrated: str) -> Iterator[PgBouncer]:
    with pgbouncer(migrated) as running:
        yield running


async def _calls(storage: Any, direct: str) -> AsyncIterator[tuple[str, Any]]:
    """One call of each kind: its name, and a coroutine of a result that does not depend on ids and times."""
    boards = storage.boards
    taken = slug()

    async def create() -> Any:
        return (await boards.create(NewBoard(name="é\N{SNOWMAN}", slug=taken))).name

    async def conflict() -> Any:
        await boards.create(NewBoard(name="n", slug=taken))

    async def missing() -> Any:
        await boards.require(uuid4())

    async def find() -> Any:
        return [row.name for row in await boards.find({"slug": taken}, limit=5)]

    async def update() -> Any:
        row = await boards.get_by(slug=taken)
        return (await boards.update(row.id, name="changed")).name

    async def talk() -> Any:
        chat = await storage.conversations.create(NewConversation(title="t", metadata={"a": [1, None, "\x00"]}))
        await storage.messages.append(chat.id, "user", "hello")
        await storage.messages.append(chat.id, "user", "again")
        found = await storage.messages.latest(chat.id, 5)
        return [(row.position, row.content) for row in found], (await storage.conversations.get(chat.id)).metadata

    async def certain_batch() -> Any:
        async with storage.batch() as batch:
            made = batch.add(plain(batch).boards.create, NewBoard(name="b", slug=slug()))
            found = batch.add(plain(batch).boards.find, {"slug": taken}, limit=2)
        return made.result.name, len(found.result)

    async def refused_batch() -> Any:
        async with storage.batch() as batch:
            batch.add(plain(batch).boards.create, NewBoard(name="b", slug=f"{taken} refused"))
            batch.add(plain(batch).boards.require, uuid4())

    async def transaction() -> Any:
        async with storage.transaction() as tx:
            await tx.boards.create(NewBoard(name="t", slug=f"{taken} in a transaction"))
            async with tx.transaction() as inner:
                await inner.boards.create(NewBoard(name="t", slug=f"{taken} in a savepoint"))
            async with tx.boards.stream({"slug__like": f"{taken}%"}) as rows:
                return len([row async for row in rows])

    async def few() -> Any:
        return len(await boards.create_many([NewBoard(name="few", slug=slug()) for _ in range(10)]))

    async def many() -> Any:
        return len(await boards.create_many([NewBoard(name="many", slug=f"{taken} {n:04}") for n in range(1200)]))

    async def stream() -> Any:
        async with boards.stream({"slug__like": f"{taken} 0%"}, order_by="slug") as rows:
            return [row.slug.removeprefix(taken) async for row in rows][:3]

    async def at_once() -> Any:
        if isinstance(storage, Waited):
            return [await boards.count({"slug": taken}) for _ in range(200)]
        return await asyncio.gather(*(boards.count({"slug": taken}) for _ in range(200)))

    async def follow() -> Any:
        await storage.stream_events.publish(taken, data=1)
        async with storage.stream_events.follow(taken) as events:
            iterator = aiter(events)
            first = await anext(iterator)
            with sync.Storage(direct) as other:
                other.stream_events.publish(taken, data=2)
            return first.data, (await anext(iterator)).data

    for call in (
        *(create, conflict, missing, find, update, talk, certain_batch, refused_batch, transaction),
        *(few, many, stream, at_once, follow),
    ):
        try:
            yield call.__name__, await call()
        except StorageError as error:
            yield call.__name__, (type(error).__name__, error.constraint, error.outcome)


async def results(conninfo: str, path: str, direct: str, **settings: Any) -> dict[str, Any]:
    async with opened(conninfo, path, listen_url=direct, **settings) as storage:
        return {name: result async for name, result in _calls(storage, direct)}


#: In statement mode, what needs BEGIN.
TRANSACTIONS = ("refused_batch", "transaction", "many", "stream")


@FACES
@MODES
@pytest.mark.parametrize("declared", DECLARED)
async def test_each_call_gives_the_same_through_the_pooler(migrated: str, mode: str, path: str, declared: str) -> None:
    """In statement mode a call that needs a transaction says so, and writes nothing."""
    expected = await results(migrated, path, migrated)
    with pgbouncer(migrated, mode, IGNORED) as pooler:
        found = await results(pooler.conninfo, path, migrated, **DECLARED[declared])
    if mode == "statement":
        refused = dict.fromkeys(TRANSACTIONS, ("InvalidSettings", None, "not kept"))
        expected |= refused
    assert found == expected


@FACES
async def test_statement_mode_is_named_and_is_not_tried_again(migrated: str, path: str) -> None:
    attempts = 0

    async def work(tx: Any) -> None:
        nonlocal attempts
        attempts += 1

    with pgbouncer(migrated, "statement") as pooler:
        async with opened(pooler.conninfo, path, pooler=True) as storage:
            with pytest.raises(InvalidSettings, match=r"statement mode.*pool_mode"):
                if path.startswith("async"):
                    await storage.run(work)
                else:
                    storage.target.run(lambda tx: None)
            assert attempts == 0
            assert await storage.boards.count() == 0


@FACES
async def test_a_startup_parameter_that_the_pooler_refuses_names_the_setting(pooler: PgBouncer, path: str) -> None:
    with pytest.raises(Unavailable, match="STORAGE_POOLER=1"):
        async with opened(pooler.conninfo, path):
            pass


@FACES
async def test_notifications_through_the_pooler_name_the_setting(pooler: PgBouncer, path: str) -> None:
    async with opened(pooler.conninfo, path, pooler=True) as storage:
        with pytest.raises(Unavailable, match="STORAGE_LISTEN_URL"):
            async with storage.stream_events.follow("x") as events:
                await anext(aiter(events))


@FACES
@pytest.mark.parametrize("declared", DECLARED)
async def test_a_pooler_with_fewer_servers_than_the_pool_makes_calls_wait_and_not_hang(
    migrated: str, path: str, declared: str
) -> None:
    """In session mode a connection of the pool may never get a server."""
    with pgbouncer(migrated, "session", f"{IGNORED}\ndefault_pool_size = 2") as pooler:
        async with opened(pooler.conninfo, path, pool_max=10, pool_timeout=2.0, **DECLARED[declared]) as storage:
            if path.startswith("async"):
                await asyncio.gather(*(storage.boards.count() for _ in range(200)))
            else:
                calls = (asyncio.to_thread(storage.target.boards.count) for _ in range(30))
                assert await asyncio.wait_for(asyncio.gather(*calls), 20) == [0] * 30


# ---- a connection is lost behind the pooler ----

Lose = Callable[[], None]


async def _create(storage: Any, tag: str, lose: Lose) -> None:
    lose()
    await storage.boards.create(NewBoard(name=tag, slug=slug()))


async def _few(storage: Any, tag: str, lose: Lose) -> None:
    lose()
    await storage.boards.create_many([NewBoard(name=tag, slug=slug()) for _ in range(3)])


async def _batch(storage: Any, tag: str, lose: Lose) -> None:
    async with storage.batch() as batch:
        for _ in range(3):
            batch.add(plain(batch).boards.create, NewBoard(name=tag, slug=slug()))
        lose()


async def _transaction(storage: Any, tag: str, lose: Lose) -> None:
    async with storage.transaction() as tx:
        for _ in range(3):
            await tx.boards.create(NewBoard(name=tag, slug=slug()))
        lose()


WRITES = pytest.mark.parametrize(
    ("call", "rows"),
    [(_create, 1), (_few, 3), (_batch, 3), (_transaction, 3)],
    ids=lambda one: getattr(one, "__name__", ""),
)


async def _error(storage: Any, call: Coroutine[Any, Any, None]) -> StorageError | None:
    """The error of a call, which is made in a thread on the sync face, so that this one can go on."""
    try:
        await (asyncio.to_thread(driven, call) if isinstance(storage, Waited) else call)
    except StorageError as error:
        return error
    return None


def _kept(admin: psycopg.Connection, tag: str) -> int:
    row = admin.execute("SELECT count(*) FROM boards WHERE name = %s", (tag,)).fetchone()
    assert row is not None
    return row[0]


async def _until_it_answers(storage: Any) -> None:
    async with asyncio.timeout(20):
        while isinstance(await _error(storage, _count(storage)), Unavailable):
            await asyncio.sleep(0.01)


async def _count(storage: Any) -> None:
    await storage.boards.count()


@FACES
@WRITES
async def test_a_commit_whose_answer_the_pooler_lost_has_an_unknown_outcome(
    migrated: str, path: str, call: Any, rows: int
) -> None:
    with (
        Proxy(migrated) as proxy,
        pgbouncer(proxy.conninfo) as pooler,
        psycopg.connect(migrated, autocommit=True) as admin,
    ):
        async with opened(pooler.conninfo, path, pooler=True, pool_max=1) as storage:
            for number in range(15):
                await call(storage, "warm", lambda: None)
                error = await _error(storage, call(storage, f"{number}", partial(proxy.cut, answers=0)))
                assert type(error) is OutcomeUnknown, error
                assert "try again" not in str(error)
                assert _kept(admin, f"{number}") == rows
                await _until_it_answers(storage)


@FACES
@WRITES
async def test_a_write_that_waits_when_its_backend_is_ended_is_not_kept(
    migrated: str, path: str, call: Any, rows: int
) -> None:
    with pgbouncer(migrated) as pooler, psycopg.connect(migrated) as locker, psycopg.connect(migrated) as admin:
        admin.autocommit = True
        async with opened(pooler.conninfo, path, pooler=True, pool_max=1) as storage:
            for number in range(5):
                await call(storage, "warm", lambda: None)
                locker.execute("LOCK boards IN SHARE MODE")
                task = asyncio.create_task(_error(storage, call(storage, f"{number}", lambda: None)))
                async with asyncio.timeout(20):
                    query = "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE NOT granted"
                    while not admin.execute(query).rowcount:
                        await asyncio.sleep(0.005)
                error = await task
                locker.rollback()
                assert isinstance(error, ConnectionLost)
                assert error.outcome in ("not kept", "unknown")
                assert _kept(admin, f"{number}") == 0
                await _until_it_answers(storage)


@FACES
@pytest.mark.parametrize("through", ["direct", "pooler"])
async def test_a_transaction_that_was_idle_too_long_says_so(migrated: str, path: str, through: str) -> None:
    with ExitStack() as stack:
        url = migrated if through == "direct" else stack.enter_context(pgbouncer(migrated)).conninfo
        async with opened(url, path, pooler=through == "pooler") as storage:
            with pytest.raises(ConnectionLost, match="idle-in-transaction timeout") as caught:
                async with storage.transaction() as tx:
                    await tx.boards.create(NewBoard(name="n", slug="idle"))
                    connection = plain(tx).runner.connection
                    await done(connection.execute("SET LOCAL idle_in_transaction_session_timeout = 20"))
                    while not select.select([connection.fileno()], [], [], 0)[0]:
                        await asyncio.sleep(0.005)
                    await tx.boards.count()
            assert (caught.value.sqlstate, caught.value.outcome) == ("25P03", "not kept")
            assert await storage.boards.count() == 0


# ---- many tasks ----


async def test_no_call_gets_the_rows_of_another(migrated: str) -> None:
    """200 tasks on five servers: each reads back what it wrote, by every kind of call."""

    async def work(number: int) -> int:
        tag = f"task {number}"
        for turn in range(8):
            made = await storage.boards.create(NewBoard(name=tag, slug=f"{tag} {turn}"))
            assert (await storage.boards.get_by(slug=f"{tag} {turn}")) == made
            async with storage.transaction() as tx:
                assert await tx.boards.count({"name": tag}) == turn + 1
            async with storage.batch() as batch:
                found = batch.add(batch.boards.require, made.id)
            assert found.result == made
        return await storage.boards.count({"name": tag})

    with pgbouncer(migrated, "transaction", IGNORED) as pooler:
        for settings in DECLARED.values():
            async with Storage(pooler.conninfo, pool_max=20, pool_timeout=60.0, **settings) as storage:
                assert await asyncio.gather(*(work(number) for number in range(200))) == [8] * 200
                await storage.boards.delete_where({"name__like": "task %"})


@FACES
async def test_a_killed_pooler_loses_no_acknowledged_write_and_doubles_none(migrated: str, path: str) -> None:
    """200 tasks (on the sync face 16 threads) write; a write with an unknown outcome is repeated with the same id."""
    acknowledged: list[UUID] = []
    over = False
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(32))

    async def work(storage: Any, number: int) -> None:
        turn = 0
        while not over:
            turn += 1
            new = NewBoard(id=uuid7(), name="tagged", slug=f"{number} {turn}")
            while True:
                try:
                    made = await storage.boards.create(new)
                    break
                except Unavailable:
                    if path.startswith("async"):
                        await asyncio.sleep(0.01)
                    else:
                        time.sleep(0.01)
            assert made.id == new.id
            acknowledged.append(made.id)

    with pgbouncer(migrated) as pooler, psycopg.connect(migrated, autocommit=True) as admin:
        async with opened(pooler.conninfo, path, pooler=True, pool_max=20) as storage:
            tasks = [
                asyncio.create_task(_error(storage, work(storage, number)))
                for number in range(200 if path.startswith("async") else 16)
            ]
            recovered: list[float] = []
            for _ in range(3):
                await _until_more(acknowledged, 300)
                pooler.kill()
                await asyncio.sleep(0.2)
                await asyncio.to_thread(pooler.start)
                started = time.monotonic()
                await _until_more(acknowledged, 1)
                recovered.append(time.monotonic() - started)
            over = True
            assert [error for error in await asyncio.gather(*tasks) if error is not None] == []
        there = [row[0] for row in admin.execute("SELECT id FROM boards").fetchall()]
    assert len(set(acknowledged)) == len(acknowledged)
    assert sorted(there) == sorted(acknowledged)
    assert max(recovered) < 5.0


async def _until_more(counted: list[Any], more: int) -> None:
    end = len(counted) + more
    async with asyncio.timeout(30):
        while len(counted) < end:
            await asyncio.sleep(0.005)
