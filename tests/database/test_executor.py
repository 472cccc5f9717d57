"""Statements on one connection, prepared or not: what goes wrong, and what the connection is good for afterwards."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
import time
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from agent_storage import (
    Conflict,
    ConnectionLost,
    NotFound,
    OutcomeUnknown,
    Retryable,
    SchemaMismatch,
    Storage,
    StorageError,
    sync,
)
from agent_storage.database.fastpath import prepared
from agent_storage.errors import StatementTimeout
from agent_storage.statements.statement import Shape, Statement
from agent_storage.types import NewConversation, NewProvider

SLEEP: Statement[Any] = Statement("test.sleep", "SELECT pg_sleep($1)::text", Shape("one", str), table="test")
WRITE: Statement[Any] = Statement(
    "test.write", "UPDATE conversations SET title = 'x' WHERE pg_sleep($1) IS NOT NULL", Shape("one", int), table="test"
)
MANY: Statement[list[str]] = Statement(
    "test.many", "SELECT repeat('x', 1000) FROM generate_series(1, $1::int)", Shape("many", str), table="test"
)
#: They wait until nobody else holds this lock, see `gate`.
LOCKED = "SELECT 7 FROM (SELECT pg_advisory_xact_lock($1)) AS locked"
LOCKED_READ: Statement[int] = Statement("test.read", LOCKED, Shape("one", int), table="test", repeatable=True)
LOCKED_CALL: Statement[int] = Statement("test.call", LOCKED, Shape("one", int), table="test")

OURS = "application_name = 'agent-storage' AND datname = current_database()"


def ask(conninfo: str, text: str) -> list[Any]:
    """What a connection of somebody else's gets."""
    with psycopg.connect(conninfo, autocommit=True) as admin:
        cursor = admin.execute(text)  # type: ignore[arg-type]
        return cursor.fetchall() if cursor.description else []


def terminate(conninfo: str, which: str = "true") -> int:
    """End our sessions of which this holds; how many there were."""
    return len(ask(conninfo, f"SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE {OURS} AND {which}"))


async def until_one_waits(conninfo: str, for_what: str = "PgSleep") -> None:
    """Return when the server says that a statement of ours waits for this (`wait_event`)."""
    async with asyncio.timeout(30), await psycopg.AsyncConnection.connect(conninfo, autocommit=True) as admin:
        while True:
            cursor = await admin.execute(
                f"SELECT FROM pg_stat_activity WHERE {OURS} AND state = 'active' AND wait_event = %s",  # type: ignore[arg-type]
                [for_what],
            )
            if cursor.rowcount:
                return
            await asyncio.sleep(0.002)


@pytest.fixture(params=["prepared", "unprepared"])
async def storage(migrated: str, request: pytest.FixtureRequest) -> AsyncIterator[Storage]:
    """One connection, and none that is shared, so that what is done to it meets the next statement."""
    prepare = request.param == "prepared"
    async with Storage(migrated, pool_max=1, multiplex=0, prepare=prepare) as opened:
        yield opened


@pytest.fixture
async def preparing(migrated: str) -> AsyncIterator[Storage]:
    """The same, where the server keeps prepared statements."""
    async with Storage(migrated, pool_max=1, multiplex=0) as opened:
        yield opened


async def pid(storage: Storage) -> int:
    async with storage.database.connection() as connection:
        return connection.info.backend_pid


async def in_the_servers_list(storage: Storage) -> dict[str, str]:
    """The name and the declared name of each statement that the server keeps for the only connection."""
    async with storage.database.connection() as connection:
        cursor = await connection.execute("SELECT name, statement FROM pg_prepared_statements")
        return {name: text.split()[1] for name, text in await cursor.fetchall()}


# ---- prepared statements ----


async def test_a_statement_is_prepared_once_and_found_in_the_servers_list(preparing: Storage) -> None:
    for _ in range(5):
        await preparing.conversations.get(uuid4())
    assert await in_the_servers_list(preparing) == {"agent_storage_1": "conversations.get"}


async def test_what_was_not_used_for_longest_makes_room_on_the_connection_and_on_the_server(
    preparing: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepared, "LIMIT", 10)
    often: Statement[int] = Statement("test.often", "SELECT 7", Shape("one", int), table="test")
    for number in range(50):
        once: Statement[int] = Statement(f"test.once_{number}", "SELECT 1", Shape("one", int), table="test")
        assert (await preparing.database.run(once, []), await preparing.database.run(often, [])) == (1, 7)
    kept = await in_the_servers_list(preparing)
    assert kept["agent_storage_2"] == "test.often"
    assert len(kept) <= 11  # the last to go is freed with the next that comes


async def test_statements_that_were_discarded_are_prepared_anew(storage: Storage) -> None:
    made = await storage.conversations.create(NewConversation())
    for command in ("DISCARD ALL", "DEALLOCATE ALL"):
        async with storage.database.connection() as connection:
            await connection.execute(command)
        assert await storage.conversations.get(made.id) == made


async def test_in_a_transaction_a_discarded_statement_means_once_more_from_the_start(preparing: Storage) -> None:
    await preparing.conversations.count()
    attempts = 0

    async def work(tx: Any) -> int:
        nonlocal attempts
        attempts += 1
        if attempts == 1:
            await tx.runner.connection.execute("DEALLOCATE ALL")
        return await tx.conversations.count()

    with pytest.raises(Retryable, match=r"conversations\.count"):
        async with preparing.transaction() as tx:
            await work(tx)
    attempts = 0
    assert await preparing.conversations.count() == 0
    assert await preparing.run(work) == 0
    assert attempts == 2


async def test_one_stale_statement_makes_every_connection_prepare_anew(migrated: str) -> None:
    async with Storage(migrated, pool_min=5, pool_max=5, multiplex=0) as storage:
        made = await storage.conversations.create(NewConversation(title="t"))

        async def read(tx: Any) -> Any:
            return await tx.conversations.require(made.id)

        everyone = asyncio.Barrier(5)

        async def read_at_once() -> None:
            async with storage.transaction() as tx:
                await everyone.wait()  # each has a connection of its own
                await read(tx)

        for length in (501, 502):
            await asyncio.gather(*(read_at_once() for _ in range(5)))
            ask(migrated, f"ALTER TABLE conversations ALTER COLUMN title TYPE varchar({length})")
            assert await storage.run(read, attempts=2) == made
            await asyncio.gather(*(read_at_once() for _ in range(5)))


async def test_a_result_that_changed_with_the_schema_is_prepared_anew(preparing: Storage, migrated: str) -> None:
    made = await preparing.conversations.create(NewConversation(title="t"))
    await preparing.conversations.get(made.id)
    ask(migrated, "ALTER TABLE conversations ALTER COLUMN title TYPE varchar(500)")
    assert await preparing.conversations.get(made.id) == made
    ask(migrated, "ALTER TABLE conversations ALTER COLUMN title TYPE varchar(600)")
    with pytest.raises(Retryable):
        async with preparing.transaction() as tx:
            await tx.conversations.get(made.id)
    ask(migrated, "ALTER TABLE conversations RENAME COLUMN title TO heading")
    with pytest.raises(SchemaMismatch, match="title"):
        await preparing.conversations.get(made.id)


async def test_a_column_that_gets_another_type_costs_neither_a_read_nor_a_write(
    storage: Storage, migrated: str
) -> None:
    ask(migrated, "CREATE TYPE mood AS ENUM ('1', '2'); CREATE TABLE things (value integer)")
    add: Statement[Any] = Statement(
        "test.add", "INSERT INTO things VALUES ($1) RETURNING value", Shape("one", Any), table="things"
    )
    read: Statement[Any] = Statement("test.read", "SELECT value FROM things", Shape("many", Any), table="things")
    for kind, given, expected in (("integer", 1, [1]), ("text", "2", ["1", "2"]), ("mood", "2", ["1", "2", "2"])):
        ask(migrated, f"ALTER TABLE things ALTER COLUMN value TYPE {kind} USING value::text::{kind}")
        assert await storage.database.run(add, [given]) == given
        assert await storage.database.run(read, []) == expected


async def test_where_the_server_keeps_no_statements_a_schema_change_does_not_spoil_a_transaction(migrated: str) -> None:
    async with Storage(migrated, prepare=False, pool_max=1) as storage:
        made = await storage.conversations.create(NewConversation(title="t"))
        await storage.conversations.get(made.id)
        ask(migrated, "ALTER TABLE conversations ALTER COLUMN title TYPE varchar(500)")
        async with storage.transaction() as tx:
            assert await tx.conversations.get(made.id) == made


async def test_behind_a_pooler_and_when_it_is_switched_off_nothing_is_prepared(migrated: str) -> None:
    for given in ({"pooler": True}, {"prepare": False}):
        async with Storage(migrated, pool_max=1, **given) as storage:
            made = await storage.conversations.create(NewConversation(title="t"))
            for _ in range(8):  # psycopg itself prepares what it has seen five times
                assert await storage.conversations.get(made.id) == made
            assert await in_the_servers_list(storage) == {}


async def test_a_rollback_keeps_the_prepared_statements(preparing: Storage) -> None:
    kept: list[dict[str, str]] = []
    for _ in range(3):
        with pytest.raises(NotFound):
            async with preparing.transaction("repeatable read") as tx:
                await tx.conversations.require(uuid4())
        kept.append(await in_the_servers_list(preparing))
    assert kept == [{"agent_storage_1": "conversations.require"}] * 3


# ---- a call that is given up, or whose connection is lost ----


async def test_a_cancelled_task_ends_its_statement_and_leaves_the_connection_fit(
    storage: Storage, migrated: str
) -> None:
    before = await pid(storage)
    for statement in (SLEEP, WRITE):
        await storage.conversations.create(NewConversation())
        task = asyncio.create_task(storage.database.run(statement, [60.0]))
        await until_one_waits(migrated)
        task.cancel()
        async with asyncio.timeout(20):
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await storage.conversations.count({"title": "x"}) == 0
    assert await pid(storage) == before


async def test_a_write_that_is_cancelled_more_than_once_is_not_executed_afterwards(
    storage: Storage, migrated: str
) -> None:
    chat = await storage.conversations.create(NewConversation(title="t"))
    append: Statement[Any] = Statement(
        "test.append", "UPDATE conversations SET title = title || 'x' WHERE id = $1", Shape("one", int), table="test"
    )
    async with await psycopg.AsyncConnection.connect(migrated) as somebody:
        await somebody.execute("SELECT FROM conversations WHERE id = %s FOR UPDATE", [chat.id])
        task = asyncio.create_task(storage.database.run(append, [chat.id]))
        await until_one_waits(migrated, "transactionid")
        while not task.done():
            task.cancel()
            await asyncio.sleep(0)
    async with asyncio.timeout(30):
        while ask(migrated, f"SELECT FROM pg_stat_activity WHERE {OURS} AND state = 'active'"):
            await asyncio.sleep(0.002)
    assert (await storage.conversations.require(chat.id)).title == "t"


async def test_a_task_cancelled_while_it_prepares_leaves_the_connection_fit(storage: Storage) -> None:
    for number in range(60):
        text = f"SELECT {number} + $1::int"
        statement: Statement[int] = Statement("test.new", text, Shape("one", int), table="test")
        task = asyncio.create_task(storage.database.run(statement, [1]))
        for _ in range(number % 12):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert await storage.database.run(statement, [1]) == number + 1


@pytest.mark.parametrize("prepare", [True, False])
def test_ctrl_c_ends_the_statement_and_leaves_the_connection_fit(migrated: str, *, prepare: bool) -> None:
    def interrupt() -> None:
        asyncio.run(until_one_waits(migrated))
        os.kill(os.getpid(), signal.SIGINT)

    with sync.Storage(migrated, pool_max=1, prepare=prepare) as storage:
        storage.conversations.count()
        thread = threading.Thread(target=interrupt)
        thread.start()
        started = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            storage.database.run(SLEEP, [60.0])
        assert time.monotonic() - started < 50, "it did not wait for the end of its statement"
        thread.join()
        assert storage.conversations.count() == 0


@pytest.mark.parametrize("multiplex", [0, 2])
async def test_the_time_limit_is_the_servers_and_the_connection_goes_on(migrated: str, multiplex: int) -> None:
    async with Storage(migrated, statement_timeout=0.2, multiplex=multiplex, pool_max=1) as storage:
        for _ in range(2):
            with pytest.raises(StatementTimeout) as caught:
                await storage.database.run(SLEEP, [60.0])
            assert caught.value.outcome == "not kept"
        assert await storage.conversations.count() == 0


@pytest.mark.parametrize("multiplex", [0, 2])
async def test_a_write_whose_session_the_server_ended_was_not_kept(migrated: str, multiplex: int) -> None:
    async with Storage(migrated, multiplex=multiplex) as storage:
        await storage.conversations.create(NewConversation())
        task = asyncio.create_task(storage.database.run(WRITE, [60.0]))
        await until_one_waits(migrated)
        assert terminate(migrated) >= 1
        with pytest.raises(ConnectionLost) as caught:
            await task
        assert (type(caught.value), caught.value.outcome) == (ConnectionLost, "not kept")
        assert await storage.conversations.count({"title": "x"}) == 0


async def test_a_write_whose_connection_broke_without_a_word_is_unknown_and_so_is_what_is_not_declared_repeatable(
    storage: Storage, migrated: str
) -> None:
    for statement in (WRITE, SLEEP):
        await storage.conversations.create(NewConversation())
        async with storage.database.connection() as connection:
            number = connection.pgconn.socket
        task = asyncio.create_task(storage.database.run(statement, [60.0]))
        await until_one_waits(migrated)
        with socket.socket(fileno=os.dup(number)) as same:
            same.shutdown(socket.SHUT_RDWR)
        with pytest.raises(OutcomeUnknown) as caught:
            await task
        assert caught.value.outcome == "unknown"
        terminate(migrated, "wait_event = 'PgSleep'")
        assert await storage.conversations.count() >= 1


async def test_a_connection_lost_under_a_repeatable_read_costs_nothing(storage: Storage, migrated: str) -> None:
    async with await psycopg.AsyncConnection.connect(migrated) as gate:
        await gate.execute("SELECT pg_advisory_xact_lock(1)")
        task = asyncio.create_task(storage.database.run(LOCKED_READ, [1]))
        await until_one_waits(migrated, "advisory")
        assert terminate(migrated, "wait_event = 'advisory'") == 1
        await until_one_waits(migrated, "advisory")  # it was sent again
    assert await task == 7


async def test_what_is_not_declared_repeatable_is_not_sent_again_though_it_begins_with_select(
    storage: Storage, migrated: str
) -> None:
    async with await psycopg.AsyncConnection.connect(migrated) as gate:
        await gate.execute("SELECT pg_advisory_xact_lock(1)")
        task = asyncio.create_task(storage.database.run(LOCKED_CALL, [1]))
        await until_one_waits(migrated, "advisory")
        assert terminate(migrated, "wait_event = 'advisory'") == 1
        with pytest.raises(ConnectionLost):
            await task


async def test_a_connection_in_pipeline_mode_is_refused_and_does_not_hang(storage: Storage) -> None:
    async with asyncio.timeout(20):
        async with storage.transaction() as tx:
            async with tx.runner.connection.pipeline():
                with pytest.raises(StorageError, match="pipeline mode"):
                    await tx.conversations.count()
            assert await tx.conversations.count() == 0
        assert await storage.conversations.count() == 0


# ---- transactions ----


async def test_an_error_inside_a_transaction_spoils_it_and_a_savepoint_does_not(storage: Storage) -> None:
    new = NewProvider(name="p", kind="custom")
    await storage.providers.create(new)
    with pytest.raises(StorageError, match="aborted"):
        async with storage.transaction() as tx:
            with pytest.raises(Conflict):
                await tx.providers.create(new)
            await tx.conversations.count()
    async with storage.transaction() as tx:
        with pytest.raises(Conflict):
            async with tx.transaction() as inner:
                await inner.providers.create(new)
        await tx.conversations.create(NewConversation())
    assert await storage.conversations.count() == 1


async def test_fifty_tasks_may_share_a_transaction(storage: Storage) -> None:
    async with storage.transaction() as tx:
        made = await asyncio.gather(*(tx.conversations.create(NewConversation(title=str(n))) for n in range(50)))
    assert [one.title for one in made] == [str(n) for n in range(50)]
    assert await storage.conversations.count() == 50


@pytest.mark.parametrize("prepare", [True, False])
def test_twenty_threads_may_share_a_transaction_and_its_batches(migrated: str, *, prepare: bool) -> None:
    seen: list[tuple[int, str | None]] = []

    def work(tx: sync.Storage, number: int) -> None:
        new = NewConversation(title=str(number))
        for _ in range(5):
            seen.append((number, tx.conversations.create(new).title))
            with tx.batch() as batch:
                later = [batch.add(batch.conversations.create, new) for _ in "ab"]
            seen.extend((number, one.result.title) for one in later)

    with sync.Storage(migrated, pool_max=1, prepare=prepare) as storage, storage.transaction() as tx:
        threads = [threading.Thread(target=work, args=[tx, number]) for number in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(seen) == 20 * 5 * 3
        assert all(title == str(number) for number, title in seen)
        assert tx.conversations.count() == 20 * 5 * 3


@pytest.mark.parametrize("multiplex", [0, 2])
async def test_a_result_of_30_megabytes_arrives(migrated: str, multiplex: int) -> None:
    async with Storage(migrated, multiplex=multiplex) as storage:
        for _ in range(2):
            found = await storage.database.run(MANY, [30_000])
            assert len(found) == 30_000
            assert set(map(len, found)) == {1000}
