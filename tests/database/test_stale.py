"""Prepared statements that are stale: noticed once, prepared again everywhere, and none is left over on the server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any, Literal
from uuid import uuid4

import psycopg
import pytest

import agent_storage
from agent_storage import Conflict, Retryable, StorageError, sync
from agent_storage.database.fastpath import prepared
from agent_storage.database.fastpath.prepared import StaleStatement
from agent_storage.statements.records import Input, Record

from .test_whole_or_nothing import PATHS, Waited, opened, own_database, plain

EVERY_PATH = pytest.mark.parametrize("path", PATHS)
PREPARED_PATHS = pytest.mark.parametrize("path", [path for path in PATHS if "unprepared" not in path])

TABLE = """
CREATE SEQUENCE attempts;
CREATE TYPE mood AS ENUM ('calm', 'wild');
CREATE TABLE things (
    id          uuid PRIMARY KEY DEFAULT uuid_v7(),
    name        text NOT NULL UNIQUE,
    mood        text NOT NULL,
    number      integer NOT NULL DEFAULT 0,
    tags        text[] NOT NULL DEFAULT '{}',
    created_at  timestamptz NOT NULL DEFAULT now(),
    updated_at  timestamptz NOT NULL DEFAULT now()
);
CREATE FUNCTION refuse(state text) RETURNS integer LANGUAGE plpgsql AS $$
BEGIN
    PERFORM nextval('attempts');
    IF state <> '' THEN
        RAISE EXCEPTION 'no' USING ERRCODE = state;
    END IF;
    RETURN 1;
END $$;
CREATE FUNCTION refuse_row() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.name LIKE 'refused %' THEN
        PERFORM refuse('0A000');
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER refuse_row BEFORE INSERT ON things FOR EACH ROW EXECUTE FUNCTION refuse_row()
"""


class NewThing(Input):
    name: str
    mood: Literal["calm", "wild"] = "calm"
    number: int = 0
    tags: list[str] = []


class Thing(Record, NewThing):
    pass


def declare(repository: Any, sql: Any) -> Any:
    """The repository of `things` on one face."""

    class Things(repository[Thing, NewThing]):
        """Things."""

        table = "things"

        @sql("SELECT refuse(%(state)s)")
        async def refuse(self, state: str) -> int:
            """Raises that SQLSTATE from a function; each execution is counted."""
            ...

        @sql("SELECT nextval('attempts') + length(current_setting(%(name)s))")
        async def setting(self, name: str) -> int:
            """Raises 42704 while it runs, without a function of the user's; each execution is counted."""
            ...

        @sql("SELECT {columns} FROM {table} WHERE mood = %(mood)s ORDER BY name", repeatable=True)
        async def of_mood(self, mood: str) -> list[Thing]:
            """A parameter of the column's type."""
            ...

        @sql("SELECT number FROM {table} WHERE name = %(name)s", repeatable=True)
        async def number_of(self, name: str) -> int:
            """A column alone."""
            ...

        @sql("SELECT count(*) FROM missing_table")
        async def impossible(self) -> int:
            """Cannot be prepared."""
            ...

        @sql("SELECT count(*) FROM pg_prepared_statements")
        async def prepared_here(self) -> int:
            """How many statements the connection keeps on which this runs."""
            ...

    return Things


ASYNC, SYNC = declare(agent_storage.Repository, agent_storage.sql), declare(sync.Repository, sync.sql)


def things_on(runner: Any) -> Any:
    return Waited(SYNC(plain(runner))) if isinstance(runner, Waited) else ASYNC(runner)


@pytest.fixture(scope="module")
def conninfo(server_conninfo: str) -> Iterator[str]:
    with own_database(server_conninfo, TABLE) as made:
        yield made


@pytest.fixture
def admin(conninfo: str) -> Iterator[psycopg.Connection]:
    """A connection beside the storage; the table is empty, and as it was made."""
    with psycopg.connect(conninfo, autocommit=True) as connection:
        yield connection
        connection.execute("TRUNCATE things")
        for change in TO_TEXT, "ALTER TABLE things ALTER number TYPE integer", "SELECT setval('attempts', 1)":
            connection.execute(change)


TO_ENUM = "ALTER TABLE things ALTER mood TYPE mood USING mood::mood"
TO_TEXT = "ALTER TABLE things ALTER mood TYPE text USING mood::text"


def attempts(admin: psycopg.Connection) -> int:
    row = admin.execute("SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM attempts").fetchone()
    assert row is not None
    return row[0]


async def kept_by_the_server(storage: Any) -> int:
    """The most statements that a connection of the storage keeps; the asking statement itself is one of them."""
    numbers = [await things_on(storage).prepared_here() for _ in range(4)]
    query = "SELECT count(*) FROM pg_prepared_statements"
    async with storage.database.connection() as connection:
        if isinstance(connection, Waited):
            row = connection.target.execute(query).fetchone()
        else:
            row = await (await connection.execute(query)).fetchone()
    return max(*numbers, row[0])


#: As few connections as there can be, so that a test knows which one is used.
FEW = {"pool_min": 1, "pool_max": 1}


def few(path: str) -> dict[str, Any]:
    return {**FEW, "multiplex": 1} if path == "async shared" else FEW


# ---- 11: what is not stale ----


@EVERY_PATH
@pytest.mark.parametrize("state", ["0A000", "26000", "42P01"])
async def test_an_error_from_a_function_is_raised_once_and_leaves_no_statement_behind(
    conninfo: str, admin: psycopg.Connection, path: str, state: str
) -> None:
    async with opened(conninfo, path, **few(path)) as storage:
        things = things_on(storage)
        for _ in range(3):
            await things.refuse("")
        before, kept = attempts(admin), await kept_by_the_server(storage)
        for number in range(1, 21):
            with pytest.raises(StorageError) as caught:
                await things.refuse(state)
            assert not isinstance(caught.value, Retryable)
            assert attempts(admin) - before == number
        async with storage.transaction() as tx:
            with pytest.raises(StorageError):
                async with tx.transaction() as inner:
                    await things_on(inner).refuse(state)
        with pytest.raises(StorageError):
            async with storage.batch() as batch:
                batch.add(things_on(batch).refuse, state)
        assert attempts(admin) - before == 22
        assert await kept_by_the_server(storage) <= kept + 2


@EVERY_PATH
async def test_an_error_from_a_trigger_is_raised_once(conninfo: str, admin: psycopg.Connection, path: str) -> None:
    async with opened(conninfo, path, **few(path)) as storage:
        things = things_on(storage)
        for name in ("a", "b"):
            await things.create(NewThing(name=name))
            await things.create_many([NewThing(name=f"{name}{n}") for n in range(2)])
        before = attempts(admin)
        with pytest.raises(StorageError, match="0A000"):
            await things.create(NewThing(name="refused 1"))
        with pytest.raises(StorageError, match="0A000"):
            await things.create_many([NewThing(name="refused 1")])
        with pytest.raises(StorageError, match="0A000"):
            await things.create_many([NewThing(name=str(n)) for n in range(1000)] + [NewThing(name="refused 1")])
        assert attempts(admin) - before == 3


@EVERY_PATH
async def test_an_error_of_class_42_while_a_statement_runs_is_raised_once(
    conninfo: str, admin: psycopg.Connection, path: str
) -> None:
    async with opened(conninfo, path, **few(path)) as storage:
        things = things_on(storage)
        for _ in range(3):
            await things.setting("server_version")
        before = attempts(admin)
        for number in range(1, 4):
            with pytest.raises(StorageError) as caught:
                await things.setting("no.such_setting")
            assert (caught.value.sqlstate, isinstance(caught.value, Retryable)) == ("42704", False)
            assert attempts(admin) - before == number
        async with storage.transaction() as tx:
            with pytest.raises(StorageError) as caught:
                async with tx.transaction() as inner:
                    await things_on(inner).setting("no.such_setting")
        assert not isinstance(caught.value, Retryable)


@EVERY_PATH
async def test_what_cannot_be_prepared_says_so_each_time_and_leaves_nothing_behind(
    conninfo: str, admin: psycopg.Connection, path: str
) -> None:
    async with opened(conninfo, path, **few(path)) as storage:
        things = things_on(storage)
        await things.count()
        kept = await kept_by_the_server(storage)
        for _ in range(20):
            with pytest.raises(StorageError, match="missing_table"):
                await things.impossible()
            with pytest.raises(StorageError, match="missing_table"):
                async with storage.batch() as batch:
                    batch.add(things_on(batch).get, uuid4())  # can be prepared, and comes before what cannot
                    batch.add(things_on(batch).exists, uuid4())
                    batch.add(things_on(batch).impossible)
        assert await kept_by_the_server(storage) <= kept + 2


# ---- 11: no more statements than the limit ----


@PREPARED_PATHS
async def test_statements_that_were_not_used_for_longest_are_closed_on_the_server(
    conninfo: str, admin: psycopg.Connection, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepared, "LIMIT", 5)
    filters: list[dict[str, Any]] = [
        {f"{column}__{how}": value}
        for column, value in (("name", "x"), ("mood", "calm"), ("number", 1))
        for how in ("eq", "ne", "lt", "gt", "lte", "gte")
        if not (column == "mood" and how not in ("eq", "ne"))
    ]
    async with opened(conninfo, path, **few(path)) as storage:
        things = things_on(storage)
        made = await things.create(NewThing(name="x"))
        for _ in range(3):
            for where in filters:
                assert await things.count(where) in (0, 1)
                assert await things.get(made.id) == made  # used each time, so it stays
                assert (
                    await kept_by_the_server(storage) <= 5 + 2
                )  # those that make room go with the next to be prepared
            async with storage.batch() as batch:  # more statements than are kept
                later = [batch.add(things_on(batch).count, where) for where in filters]
                same = [batch.add(things_on(batch).get, made.id) for _ in range(3)]
            assert {one.result for one in later} <= {0, 1}
            assert [one.result for one in same] == [made] * 3


async def test_many_tasks_at_the_limit_get_their_own_answers(
    conninfo: str, admin: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepared, "LIMIT", 3)
    async with opened(conninfo, "async shared", multiplex=2, pool_max=2) as storage:
        things = things_on(storage)
        made = await things.create_many([NewThing(name=str(n), number=n) for n in range(8)])

        async def read(row: Thing) -> None:
            for _ in range(10):
                assert await things.require(row.id) == row
                assert await things.count({"number__lt": row.number}) == row.number
                assert await things.number_of(row.name) == row.number
                assert [one.id for one in await things.find({"name": row.name})] == [row.id]
                assert await things.exists(row.id)

        await asyncio.gather(*(read(row) for row in made))


# ---- 11, 14: what is stale is prepared again ----


async def use_everything(storage: Any, mood: str) -> None:
    """Every way a statement takes, with the column that changes its type as parameter and result."""
    things = things_on(storage)
    name = str(uuid4())
    made = await things.create(NewThing(name=name, mood=mood))  # type: ignore[arg-type]
    assert made.mood == mood
    assert await things.get(made.id) == made
    assert made in await things.of_mood(mood)
    assert made in await things.find({"mood": mood}, limit=1000)
    assert await things.count({"mood": mood, "id": made.id}) == 1
    assert (await things.update(made.id, mood=mood)).mood == mood
    (many,) = await things.create_many([NewThing(name=f"{name} 2", mood=mood)])  # type: ignore[arg-type]
    assert many.mood == mood
    async with storage.batch() as batch:
        later = batch.add(things_on(batch).create, NewThing(name=f"{name} 3", mood=mood))  # type: ignore[arg-type]
        found = batch.add(things_on(batch).of_mood, mood)
        changed = batch.add(things_on(batch).update, made.id, mood=mood)
    assert later.result in found.result
    assert changed.result.mood == mood
    async with things.stream({"mood": mood}) as rows:
        assert later.result.id in [row.id async for row in rows]


@EVERY_PATH
async def test_a_column_may_become_an_enum_and_text_again_under_live_connections(
    conninfo: str, admin: psycopg.Connection, path: str
) -> None:
    async with opened(conninfo, path, pool_min=3, pool_max=3) as storage:
        for change in (None, TO_ENUM, TO_TEXT, TO_ENUM):
            if change:
                admin.execute(change)
            for mood in ("calm", "wild"):
                await use_everything(storage, mood)
            if path.startswith("async"):
                await asyncio.gather(*(use_everything(storage, "calm") for _ in range(5)))


@EVERY_PATH
async def test_a_list_filter_follows_the_column_that_becomes_an_enum(
    conninfo: str, admin: psycopg.Connection, path: str
) -> None:
    async with opened(conninfo, path, **few(path)) as storage:
        things = things_on(storage)
        await things.create(NewThing(name="a"))
        for change in (None, TO_ENUM, TO_TEXT):
            if change:
                admin.execute(change)
            for _ in range(3):
                assert await things.count({"mood__in": ["calm"]}) == 1
                assert await things.count({"mood__not_in": ["wild"]}) == 1


@EVERY_PATH
@pytest.mark.parametrize("way", ["create", "of_mood", "update", "batch", "stream", "create_many", "chunks", "find"])
async def test_any_first_call_after_the_change_succeeds(
    conninfo: str, admin: psycopg.Connection, path: str, way: str
) -> None:
    async with opened(conninfo, path, **few(path)) as storage:
        things = things_on(storage)
        made = await things.create(NewThing(name="a"))

        async def batch() -> None:
            async with storage.batch() as asked:
                asked.add(things_on(asked).update, made.id, mood="wild")
                asked.add(things_on(asked).of_mood, "wild")

        async def stream() -> None:
            async with things.stream({"mood": "calm"}) as rows:
                assert [row.id async for row in rows] == [made.id]

        async def create(number: int) -> Any:
            return await things.create_many([NewThing(name=str(uuid4())) for _ in range(number)])

        ways: dict[str, Callable[[], Any]] = {
            "create": lambda: things.create(NewThing(name=str(uuid4()))),
            "of_mood": lambda: things.of_mood("calm"),
            "update": lambda: things.update(made.id, mood="calm"),
            "batch": batch,
            "stream": stream,
            "create_many": lambda: create(1),
            "chunks": lambda: create(1001),
            "find": lambda: things.find({"mood": "calm"}),
        }
        for change, calls in ((TO_ENUM, 1), (TO_TEXT, 2), (TO_ENUM, 3)):  # also when it is known, but was never used
            for _ in range(calls):
                if way in ("create_many", "chunks", "create"):
                    await ways[way]()
                else:
                    await things.update(made.id, mood="calm")
                    await ways[way]()
                    await things.update(made.id, mood="calm")
            admin.execute("DELETE FROM things WHERE id <> %s", (made.id,))
            admin.execute(change)
            await ways[way]()
            admin.execute("DELETE FROM things WHERE id <> %s", (made.id,))


@EVERY_PATH
async def test_a_statement_that_was_prepared_but_never_run_may_become_stale_too(
    conninfo: str, admin: psycopg.Connection, path: str
) -> None:
    async with opened(conninfo, path, **few(path)) as storage:
        things = things_on(storage)
        await things.create(NewThing(name="a"))
        await things.number_of("a")  # on a shared connection it is prepared now, and runs on another one
        with pytest.raises(Conflict):
            async with storage.batch() as batch:
                batch.add(things_on(batch).create, NewThing(name="a"))
                batch.add(things_on(batch).of_mood, "calm")  # prepared, but not reached
        admin.execute(TO_ENUM)
        admin.execute("ALTER TABLE things ALTER number TYPE bigint")
        assert [row.name for row in await things.of_mood("calm")] == ["a"]
        assert await things.number_of("a") == 0
        assert await things.number_of("a") == 0


@EVERY_PATH
async def test_run_succeeds_at_its_second_attempt_however_many_connections_are_stale(
    conninfo: str, admin: psycopg.Connection, path: str
) -> None:
    worked = 0
    async with opened(conninfo, path, pool_min=10, pool_max=10) as storage:
        made = await things_on(storage).create(NewThing(name="a"))
        transactions = [storage.transaction() for _ in range(10)]
        inside = [await _entered_elsewhere(one) for one in transactions]  # each on a connection of its own
        for tx in inside:
            await things_on(tx).of_mood("calm")
            await things_on(tx).get(made.id)
        for one in reversed(transactions):
            await one.__aexit__(None, None, None)

        for change in (TO_ENUM, TO_TEXT):
            admin.execute(change)
            worked = 0

            def work_sync(tx: Any) -> int:
                nonlocal worked
                worked += 1
                things = SYNC(tx)
                return len(things.of_mood("calm")) + len(things.find({"mood": "calm"})) + things.count()

            async def work(tx: Any) -> int:
                nonlocal worked
                worked += 1
                things = ASYNC(tx)
                return (
                    len(await things.of_mood("calm")) + len(await things.find({"mood": "calm"})) + await things.count()
                )

            for _ in range(10):  # whichever connection comes
                worked = 0
                if isinstance(storage, Waited):
                    assert storage.target.run(work_sync, attempts=2) == 3
                else:
                    assert await storage.run(work, attempts=2) == 3
                assert worked <= 2


async def _entered_elsewhere(block: Any) -> Any:
    """Enter a block in a context of its own, so that this one is not inside."""
    if isinstance(block, Waited):
        return Waited(await asyncio.to_thread(block.target.__enter__))
    return await asyncio.create_task(block.__aenter__())


@PREPARED_PATHS
@pytest.mark.parametrize("command", ["DISCARD ALL", "DEALLOCATE ALL"])
async def test_statements_that_somebody_has_discarded_are_prepared_anew(
    conninfo: str, admin: psycopg.Connection, path: str, command: str
) -> None:
    async with opened(conninfo, path, **few(path)) as storage:
        things = things_on(storage)
        await use_everything(storage, "calm")
        for _ in range(2):
            async with storage.database.connection() as connection:
                await connection.execute(command)
            await use_everything(storage, "calm")
            async with storage.transaction() as tx:
                await things_on(tx).count()
            async with storage.database.connection() as connection:
                await connection.execute(command)
            with pytest.raises(StaleStatement) as caught:
                async with storage.transaction() as tx:
                    await things_on(tx).count()
            assert caught.value.outcome == "not kept"
            async with storage.transaction() as tx:
                await things_on(tx).create(NewThing(name=str(uuid4())))
        assert await things.count() == await things.count({"mood": "calm"})


@PREPARED_PATHS
async def test_discarding_inside_a_transaction_is_a_retryable_error_that_run_repeats(
    conninfo: str, admin: psycopg.Connection, path: str
) -> None:
    worked = 0
    async with opened(conninfo, path, **few(path)) as storage:
        await things_on(storage).create(NewThing(name="a"))

        def work_sync(tx: Any) -> int:
            nonlocal worked
            worked += 1
            count = SYNC(tx).count()
            if worked == 1:
                tx.runner.connection.execute("DEALLOCATE ALL")
                SYNC(tx).count()
            return count

        async def work(tx: Any) -> int:
            nonlocal worked
            worked += 1
            count = await ASYNC(tx).count()
            if worked == 1:
                await tx.runner.connection.execute("DEALLOCATE ALL")
                await ASYNC(tx).count()
            return count

        found = storage.target.run(work_sync) if isinstance(storage, Waited) else await storage.run(work)
        assert (found, worked) == (1, 2)


@EVERY_PATH
async def test_a_stale_write_is_executed_once(conninfo: str, admin: psycopg.Connection, path: str) -> None:
    async with opened(conninfo, path, **few(path)) as storage:
        things = things_on(storage)
        made = await things.create(NewThing(name="a"))
        for change in (TO_ENUM, TO_TEXT, TO_ENUM):
            for _ in range(2):
                await things.create(NewThing(name=str(uuid4())))
                await things.update(made.id, mood="calm", number=0)
            count = await things.count()
            admin.execute(change)
            await things.create(NewThing(name=str(uuid4())))
            await things.update(made.id, mood="wild", number=1)
            async with storage.batch() as batch:
                batch.add(things_on(batch).create, NewThing(name=str(uuid4())))
            await things.create_many([NewThing(name=str(uuid4())) for _ in range(1001)])
            assert await things.count() == count + 1003
            admin.execute("DELETE FROM things WHERE id <> %s", (made.id,))
