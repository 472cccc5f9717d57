"""Connections and pools of the caller's own, and what reaches a call from outside: generators, lists that change, a
pooler that nobody declared.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Literal
from uuid import UUID, uuid4

import psycopg
import psycopg_pool
import pytest
from psycopg.adapt import Dumper, Loader
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import TransactionStatus
from psycopg.rows import dict_row, scalar_row
from psycopg.types.json import set_json_dumps, set_json_loads

import agent_storage
from agent_storage import Conflict, ConnectionLost, StorageError, Unreadable, sync
from agent_storage.database.pool import PooledConnection
from agent_storage.migrations.migrator import Migrator
from agent_storage.statements.records import Input, Jsonb, JsonObject, Record
from agent_storage.sync.tables.chat.conversations.repository import Conversations
from agent_storage.sync.tables.chat.providers.repository import Providers as SyncProviders
from agent_storage.sync.tables.workflows.stream_events.repository import StreamEvents as SyncStreamEvents
from agent_storage.tables.chat.providers.repository import Providers
from agent_storage.tables.workflows.stream_events.repository import StreamEvents
from agent_storage.types import NewConversation, NewMessage, NewProvider, NewStreamEvent

from ..conftest import fresh_database
from .test_whole_or_nothing import PATHS, Waited, opened, own_database, plain

EVERY_PATH = pytest.mark.parametrize("path", PATHS)
EVERY_ASYNC_PATH = pytest.mark.parametrize("path", [path for path in PATHS if path.startswith("async")])
BOTH_FACES = pytest.mark.parametrize("face", ["async", "sync"])

TABLE = """
CREATE TYPE mood AS ENUM ('calm', 'wild');
CREATE TABLE parts (
    id          uuid PRIMARY KEY DEFAULT uuid_v7(),
    name        text NOT NULL UNIQUE,
    document    jsonb NOT NULL DEFAULT '{}',
    tags        text[] NOT NULL DEFAULT '{}',
    others      uuid[] NOT NULL DEFAULT '{}',
    numbers     integer[] NOT NULL DEFAULT '{}',
    span        interval,
    moment      timestamptz,
    raw         bytea,
    double      double precision,
    mood        text,
    created_at  timestamptz NOT NULL DEFAULT now(),
    updated_at  timestamptz NOT NULL DEFAULT now()
)
"""


class NewPart(Input):
    name: str
    document: Jsonb[JsonObject] = {}
    tags: list[str] = []
    others: list[UUID] = []
    numbers: list[int] = []
    span: timedelta | None = None
    moment: datetime | None = None
    raw: bytes | None = None
    double: float | None = None
    mood: Literal["calm", "wild"] | None = None


class Part(Record, NewPart):
    pass


def declare(repository: Any, sql: Any) -> Any:
    """The repository of `parts` on one face."""

    class Parts(repository[Part, NewPart]):
        """Parts."""

        table = "parts"

        @sql("SELECT name FROM {table} WHERE tags && %(tags)s ORDER BY name", repeatable=True)
        async def tagged(self, tags: list[str]) -> list[str]:
            """A list as a parameter."""
            ...

        @sql("SELECT current_setting('transaction_isolation')")
        async def isolation(self) -> str:
            """Of the transaction that it runs in."""
            ...

    return Parts


ASYNC, SYNC = declare(agent_storage.Repository, agent_storage.sql), declare(sync.Repository, sync.sql)


def parts_on(runner: Any) -> Any:
    return Waited(SYNC(plain(runner))) if isinstance(runner, Waited) else ASYNC(runner)


@pytest.fixture(scope="module")
def conninfo(server_conninfo: str) -> Iterator[str]:
    with own_database(server_conninfo, TABLE) as made:
        yield made


@pytest.fixture(scope="module")
def migrated_once(server_conninfo: str) -> Iterator[str]:
    """A database at head."""
    with fresh_database(server_conninfo) as made:
        Migrator(made).up()
        yield made


@pytest.fixture
def admin(conninfo: str) -> Iterator[psycopg.Connection]:
    """A connection beside those of the test; the table is empty."""
    with psycopg.connect(conninfo, autocommit=True) as connection:
        yield connection
        others = "datname = current_database() AND pid <> pg_backend_pid()"  # what a failed test has left open
        connection.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {others}")
        connection.execute("TRUNCATE parts")


def names(admin: psycopg.Connection) -> list[str]:
    return [row[0] for row in admin.execute("SELECT name FROM parts ORDER BY name")]


@asynccontextmanager
async def connected(face: str, conninfo: str, **arguments: Any) -> AsyncIterator[Any]:
    """A connection of the caller's own, awaited on either face."""
    if face == "async":
        async with await psycopg.AsyncConnection.connect(conninfo, **arguments) as connection:
            async with asyncio.timeout(30):
                yield connection
    else:
        with psycopg.connect(conninfo, **arguments) as connection:
            yield Waited(connection)


@asynccontextmanager
async def pooled(face: str, conninfo: str, **arguments: Any) -> AsyncIterator[Any]:
    """A pool of the caller's own."""
    if face == "async":
        async with psycopg_pool.AsyncConnectionPool(conninfo, min_size=1, open=False, **arguments) as pool:
            async with asyncio.timeout(30):
                yield pool
    else:
        with psycopg_pool.ConnectionPool(conninfo, min_size=1, open=False, **arguments) as pool:
            yield Waited(pool)


def status(connection: Any) -> TransactionStatus:
    return plain(connection).info.transaction_status


# ---- 14: pipelines ----


@BOTH_FACES
@pytest.mark.parametrize("autocommit", [True, False])
async def test_a_repository_inside_a_pipeline_is_refused_with_a_sentence(
    conninfo: str, admin: psycopg.Connection, face: str, autocommit: bool
) -> None:
    async with connected(face, conninfo, autocommit=autocommit) as connection:
        parts = parts_on(connection)

        async def stream() -> None:
            async with parts.stream() as rows:
                async for _ in rows:
                    pass

        async def transaction() -> None:
            async with parts.transaction() as inner:
                await inner.create(NewPart(name="no"))

        uses: list[Callable[[], Any]] = [
            lambda: parts.create(NewPart(name="no")),
            lambda: parts.create_many([NewPart(name=str(n)) for n in range(1001)]),
            parts.count,
            stream,
            transaction,
        ]
        for prepared in (False, True):
            async with connection.pipeline():
                for use in uses:
                    with pytest.raises(StorageError, match=r"pipeline mode: leave its pipeline\(\)"):
                        await use()
            await connection.rollback()
            assert await parts.count() == prepared
            if not prepared:
                await parts.create(NewPart(name="before"))
                await connection.commit()
        await connection.rollback()
    assert names(admin) == ["before"]


# ---- 14: connections that do not autocommit ----


@BOTH_FACES
async def test_on_a_connection_that_does_not_autocommit_the_caller_commits(
    conninfo: str, admin: psycopg.Connection, face: str
) -> None:
    async with connected(face, conninfo) as connection:
        parts = parts_on(connection)

        async def stream() -> int:
            async with parts.stream() as rows:
                return len([row async for row in rows])

        async def batch_of_many() -> None:
            await parts.create_many([NewPart(name=str(n)) for n in range(1001)])

        for write in (lambda: parts.create(NewPart(name="a")), batch_of_many):
            await write()
            assert status(connection) == TransactionStatus.INTRANS
            assert names(admin) == []
            assert await stream() == await parts.count() > 0
            await connection.rollback()
            assert await parts.count() == 0
            await connection.rollback()
        await parts.create(NewPart(name="kept"))
        async with parts.transaction() as inner:  # a savepoint in what is open
            await inner.create(NewPart(name="kept too"))
        with pytest.raises(Conflict):
            async with parts.transaction() as inner:
                await inner.create(NewPart(name="kept"))
        assert names(admin) == []
        await connection.commit()
        assert names(admin) == ["kept", "kept too"]
        with pytest.raises(Conflict):
            await parts.create(NewPart(name="kept"))
        assert status(connection) == TransactionStatus.INERROR
        with pytest.raises(StorageError):
            await parts.count()
        await connection.rollback()
        assert await parts.count() == 2
        await connection.commit()


@BOTH_FACES
async def test_the_isolation_of_the_connection_is_kept(conninfo: str, admin: psycopg.Connection, face: str) -> None:
    async with connected(face, conninfo) as connection:
        plain(connection)._isolation_level = psycopg.IsolationLevel.SERIALIZABLE
        plain(connection)._begin_statement = b""
        plain(connection)._begin_statement = plain(connection)._get_tx_start_command()
        assert await parts_on(connection).isolation() == "serializable"
        await connection.rollback()


@BOTH_FACES
async def test_a_repository_inside_a_transaction_of_psycopgs_is_a_part_of_it(
    conninfo: str, admin: psycopg.Connection, face: str
) -> None:
    async with connected(face, conninfo, autocommit=True) as connection:
        parts = parts_on(connection)
        with pytest.raises(ZeroDivisionError):
            async with connection.transaction():
                await parts.create(NewPart(name="a"))
                await parts.create_many([NewPart(name=str(n)) for n in range(1001)])
                async with parts.transaction() as inner:
                    await inner.create(NewPart(name="b"))
                assert names(admin) == []
                raise ZeroDivisionError
        assert names(admin) == []
        await parts.create(NewPart(name="alone"))
        assert names(admin) == ["alone"]
        with pytest.raises(Conflict):
            await parts.create_many([NewPart(name=str(n)) for n in range(1001)] + [NewPart(name="alone")])
        assert names(admin) == ["alone"]


@BOTH_FACES
async def test_a_closed_connection_of_the_callers_is_a_lost_one(
    conninfo: str, admin: psycopg.Connection, face: str
) -> None:
    async with connected(face, conninfo, autocommit=True) as connection:
        parts = parts_on(connection)
        await parts.count()
        await connection.close()
        for use in (parts.count, lambda: parts.create_many([NewPart(name="a")] * 1001)):
            with pytest.raises(ConnectionLost) as caught:
                await use()
            assert caught.value.outcome == "not kept"


@BOTH_FACES
async def test_a_pool_whose_connections_do_not_autocommit_gets_them_back_as_they_were(
    conninfo: str, admin: psycopg.Connection, face: str
) -> None:
    async with pooled(face, conninfo, max_size=1) as pool:
        parts = parts_on(pool)
        for number in range(3):
            await parts.create(NewPart(name=f"{number}"))  # each call of a repository on a pool is kept at once
            await parts.create_many([NewPart(name=f"{number} {n}") for n in range(1001)])
            assert len(names(admin)) == 1002 * (number + 1)
            with pytest.raises(ZeroDivisionError):
                async with parts.transaction() as inner:
                    await inner.create(NewPart(name="lost"))
                    raise ZeroDivisionError
            with pytest.raises(Conflict):
                await parts.create(NewPart(name=f"{number}"))
            async with pool.connection() as connection:
                assert plain(connection).autocommit is False
                assert status(connection) == TransactionStatus.IDLE
                await connection.execute("INSERT INTO parts (name) VALUES ('lost')")
                await connection.rollback()
            async with parts.stream() as rows:
                assert len([row async for row in rows]) == 1002 * (number + 1)


# ---- 14: what a pool of the caller's own stores ----

#: What callers set on their connections, and what must not change a value.
OWN = {
    "plain": {},
    "rows as dicts": {"row_factory": dict_row},
    "prepared at once by psycopg": {"prepare_threshold": 0, "autocommit": True},
    "never prepared by psycopg": {"prepare_threshold": None},
    "autocommit": {"autocommit": True},
    "UTF-8 by another name": {"client_encoding": "utf8"},
    "no schema but public": {"options": "-c search_path=public"},
    "another time zone": {"options": "-c TimeZone=Asia/Kolkata"},
    "another style of dates": {"options": "-c DateStyle=German"},
    "escaped bytea": {"options": "-c bytea_output=escape"},
    "intervals as the standard has them": {"options": "-c IntervalStyle=sql_standard"},
    "verbose intervals": {"options": "-c IntervalStyle=postgres_verbose"},
    "few digits": {"options": "-c extra_float_digits=0"},
    "other schema first": {"options": "-c search_path=pg_catalog,public"},
}
FULL: dict[str, Any] = {
    "document": {"a": [1, None, {"b": "\x00Ø"}], "large": 1e16},
    "tags": ["a", '"{,}\\', "NULL", "", "\x00", "Ø"],
    "others": [UUID(int=1), UUID(int=2)],
    "numbers": [1, -2],
    "span": timedelta(days=-3, hours=5, microseconds=1),
    "moment": datetime(2026, 7, 1, 12, 30, 0, 123456, tzinfo=UTC),
    "raw": b"\x00\\x\xff",
    "double": 0.1 + 0.2,
    "mood": "wild",
}


@pytest.fixture
def rows_as_text(admin: psycopg.Connection) -> Iterator[None]:
    """A column of a type that only the server knows, so that whole rows are loaded from their text form."""
    admin.execute("ALTER TABLE parts ALTER mood TYPE mood USING mood::mood")
    yield
    admin.execute("ALTER TABLE parts ALTER mood TYPE text")


def own_settings(conninfo: str, own: str) -> tuple[str, dict[str, Any]]:
    """Where to connect and with which arguments."""
    arguments = dict(OWN[own])
    given = {key: arguments.pop(key) for key in ("options", "client_encoding") if key in arguments}
    return make_conninfo(conninfo, **given), arguments


@BOTH_FACES
@pytest.mark.parametrize("own", OWN)
async def test_a_pool_of_the_callers_own_stores_every_value_as_it_is(
    conninfo: str, admin: psycopg.Connection, face: str, own: str
) -> None:
    info, arguments = own_settings(conninfo, own)
    async with pooled(face, info, max_size=2, kwargs=arguments) as pool:
        parts = parts_on(pool)
        made = await parts.create(NewPart(name="Ø", **FULL))
        (many,) = await parts.create_many([NewPart(name="Ø 2", **FULL)])
        await parts.create_many([NewPart(name=str(n), **FULL) for n in range(1001 if own == "plain" else 2)])
        got = await parts.get(made.id)
        updated = await parts.update(many.id, **FULL)
        async with parts.stream({"name": "Ø"}) as rows:
            (streamed,) = [row async for row in rows]
        async with parts.transaction() as inner:
            inside = await inner.require(made.id)
    async with opened(conninfo, "async prepared") as storage:
        seen = await parts_on(storage).require(made.id)
        seen_too = await parts_on(storage).require(many.id)
    for row in (made, many, got, updated, streamed, inside, seen, seen_too):
        assert {name: getattr(row, name) for name in FULL} == FULL
    assert [seen.name, seen_too.name, made.name] == ["Ø", "Ø 2", "Ø"]


def odd(connection: Any) -> None:
    """Registers adapters that would spoil every value."""
    for kind in (dict, list, str, UUID, datetime, bytes, int):
        connection.adapters.register_dumper(kind, Odd)
    for name in ("json", "jsonb", "text", "uuid", "timestamptz", "int4"):
        connection.adapters.register_loader(name, OddLoader)
    set_json_dumps(lambda _: "{}", connection)
    set_json_loads(lambda _: {"odd": True}, connection)
    connection.prepare_threshold = 0


class Odd(Dumper):
    def dump(self, obj: Any) -> bytes:
        return b"odd"


class OddLoader(Loader):
    def load(self, data: Any) -> str:
        return "odd"


@BOTH_FACES
@pytest.mark.parametrize("autocommit", [True, False])
async def test_a_pool_with_adapters_and_factories_of_the_callers_own_changes_no_value(
    conninfo: str, admin: psycopg.Connection, face: str, autocommit: bool
) -> None:
    async def configure(connection: Any) -> None:
        odd(connection)

    cursors = psycopg.AsyncRawCursor if face == "async" else psycopg.RawCursor
    kwargs = {"autocommit": autocommit, "row_factory": scalar_row, "cursor_factory": cursors}
    own = configure if face == "async" else odd
    async with pooled(face, conninfo, max_size=1, kwargs=kwargs, configure=own) as pool:
        parts = parts_on(pool)
        made = [await parts.create(NewPart(name="a", **FULL)), *await parts.create_many([NewPart(name="b", **FULL)])]
        made.append(await parts.update(made[0].id, **FULL))
        made.append((await parts.find({"name": "a", "document__a__contains": [1]}))[0])
        made.append(await parts.patch(made[1].id, document={"a": FULL["document"]["a"]}))
        async with parts.transaction() as inner:
            made.append(await inner.require(made[0].id))
        async with pool.connection() as connection:
            assert plain(connection).row_factory is scalar_row
            attached = parts_on(connection)
            made.append(await attached.require(made[0].id))
            await connection.rollback()
    for row in made:
        assert {name: getattr(row, name) for name in FULL} == FULL
    stored = "SELECT jsonb_typeof(document), document -> 'a' -> 0, tags[1] FROM parts"
    assert admin.execute(stored).fetchall() == [("object", 1, "a")] * 2


@BOTH_FACES
async def test_nothing_is_prepared_by_name_on_a_pool_of_the_callers_own(
    conninfo: str, admin: psycopg.Connection, face: str
) -> None:
    """A pooler in transaction mode may be in between, which the caller's own settings do not say."""
    for threshold in (None, 5):
        admin.execute("TRUNCATE parts")
        async with pooled(face, conninfo, max_size=1, kwargs={"prepare_threshold": threshold}) as pool:
            parts = parts_on(pool)
            made = await parts.create_many([NewPart(name=str(n)) for n in range(1001)])
            for _ in range(7):
                await parts.require(made[0].id)
                await parts.find({"name": "5"}, limit=1)
                await parts.page(order_by="name", limit=1)
                await parts.update(made[0].id, document={"a": 1})
                async with parts.stream() as rows:
                    async for _row in rows:
                        break
                async with parts.transaction() as inner:
                    await inner.count({"name__in": ["5"]})
            async with pool.connection() as connection:
                cursor = await connection.execute("SELECT count(*) FROM pg_prepared_statements")
                assert (await cursor.fetchone() if face == "async" else cursor.fetchone()) == (0,)


@BOTH_FACES
@pytest.mark.parametrize("given", ["conninfo", "kwargs", "callables"])
async def test_waiting_on_a_pool_of_the_callers_own_listens_where_the_pool_is(
    migrated_once: str, face: str, given: str
) -> None:
    parts = conninfo_to_dict(migrated_once)
    address: dict[str, Any] = {
        "conninfo": {"conninfo": migrated_once, "kwargs": {"row_factory": dict_row}},
        "kwargs": {"conninfo": "", "kwargs": {**parts, "row_factory": dict_row, "autocommit": True}},
        "callables": {"conninfo": lambda: "", "kwargs": lambda: {**parts, "prepare_threshold": None}},
    }[given]
    kind = StreamEvents if face == "async" else SyncStreamEvents
    pools: Any = psycopg_pool.AsyncConnectionPool if face == "async" else psycopg_pool.ConnectionPool
    stream = str(uuid4())
    if face == "async":
        async with pools(min_size=1, max_size=3, open=False, **address) as pool, asyncio.timeout(30):
            events = kind(pool)
            await events.publish(stream, data=1)
            async with events.follow(stream) as followed:
                assert (await anext(followed)).data == 1
                later = asyncio.create_task(anext(followed))  # type: ignore[arg-type]
                await events.publish(stream, data=2)
                assert (await later).data == 2
            await asyncio.to_thread(events.runner._listener.close)
    else:
        with pools(min_size=1, max_size=3, open=False, **address) as pool:
            events = kind(pool)
            events.publish(stream, data=1)
            with events.follow(stream) as followed:
                assert next(followed).data == 1
                events.publish(stream, data=2)
                assert next(followed).data == 2
            events.runner._listener.close()


async def test_an_address_that_only_a_coroutine_knows_is_refused_with_a_sentence(migrated_once: str) -> None:
    async def conninfo() -> str:
        return migrated_once

    async with psycopg_pool.AsyncConnectionPool(conninfo, min_size=1, open=False) as pool:
        events = StreamEvents(pool)
        await events.publish("coroutine", data=1)
        with pytest.raises(StorageError, match="STORAGE_LISTEN_URL"):
            async with events.follow("coroutine") as followed:
                await anext(followed)


@BOTH_FACES
async def test_secrets_are_stored_and_read_on_a_pool_and_a_connection_of_the_callers_own(
    migrated_once: str, face: str
) -> None:
    kind = Providers if face == "async" else SyncProviders
    name = str(uuid4())
    async with pooled(face, migrated_once, max_size=1) as pool:
        on_pool: Any = kind(plain(pool))
        on_pool = on_pool if face == "async" else Waited(on_pool)
        made = await on_pool.create(NewProvider(name=name, kind="k", api_key="sk", settings={"a": [1]}))  # type: ignore[arg-type]
        assert made.api_key.get_secret_value() == "sk"
        await on_pool.upsert(NewProvider(name=name, kind="k", api_key="again"))  # type: ignore[arg-type]
    async with connected(face, migrated_once, autocommit=True) as connection:
        attached: Any = kind(plain(connection))
        attached = attached if face == "async" else Waited(attached)
        row = await attached.get_by(name=name)
        assert (row.api_key.get_secret_value(), row.settings) == ("again", {"a": [1]})
        changed = await attached.upsert(NewProvider(name=name, kind="k", api_key="third"))  # type: ignore[arg-type]
        assert (changed.id, changed.api_key.get_secret_value()) == (made.id, "third")


@BOTH_FACES
@pytest.mark.parametrize("own", [own for own in OWN if own != "few digits"])
@pytest.mark.usefixtures("rows_as_text")
async def test_rows_that_come_as_text_are_read_right_or_not_at_all(
    conninfo: str, admin: psycopg.Connection, face: str, own: str
) -> None:
    info, arguments = own_settings(conninfo, own)
    made: list[Any] = []
    async with pooled(face, info, max_size=2, kwargs=arguments) as pool:
        parts = parts_on(pool)
        try:
            made.append(await parts.create(NewPart(name="a", **FULL)))
            made.append((await parts.create_many([NewPart(name="b", **FULL)]))[0])
            made.append(await parts.require(made[0].id))
        except Unreadable as error:
            assert error.outcome == "kept"
    assert names(admin)[0] == "a"
    async with opened(conninfo, "async prepared") as storage:
        made += await parts_on(storage).find()
    for row in made:
        assert {name: getattr(row, name) for name in FULL} == FULL


@EVERY_PATH
@pytest.mark.usefixtures("rows_as_text")
async def test_session_settings_of_the_database_do_not_change_a_value(
    conninfo: str, admin: psycopg.Connection, path: str
) -> None:
    settings = {
        "IntervalStyle": "sql_standard",
        "DateStyle": "German",
        "bytea_output": "escape",
        "extra_float_digits": "0",
    }
    database = admin.info.dbname
    for name, value in settings.items():
        admin.execute(f"ALTER DATABASE {database} SET {name} = '{value}'")
    try:
        async with opened(conninfo, path) as storage:
            parts = parts_on(storage)
            made = await parts.create(NewPart(name="a", **FULL))
            (many,) = await parts.create_many([NewPart(name="b", **FULL)])
            rows = [made, many, await parts.require(made.id), await parts.update(many.id, **FULL)]
    finally:
        admin.execute(f"ALTER DATABASE {database} RESET ALL")
    async with opened(conninfo, path) as storage:
        rows += [await parts_on(storage).require(row.id) for row in (made, many)]
    for row in rows:
        assert {name: getattr(row, name) for name in FULL} == FULL


# ---- 14: two create_many at once, generators, what changes later ----


@EVERY_PATH
async def test_two_large_create_many_at_once_in_one_transaction(
    conninfo: str, admin: psycopg.Connection, path: str
) -> None:
    def many(name: str) -> list[NewPart]:
        return [NewPart(name=f"{name} {n}") for n in range(1001)]

    async with opened(conninfo, path, pool_max=2) as storage:
        for number in range(2):
            async with storage.transaction() as tx:
                parts = parts_on(tx)
                if isinstance(storage, Waited):
                    made = await asyncio.gather(
                        *(asyncio.to_thread(parts.target.create_many, many(f"{number} {n}")) for n in range(3))
                    )
                else:
                    made = await asyncio.gather(*(parts.create_many(many(f"{number} {n}")) for n in range(3)))
                for n, rows in enumerate(made):
                    assert [row.name for row in rows] == [new.name for new in many(f"{number} {n}")]
            assert len(names(admin)) == 3003 * (number + 1)


@EVERY_PATH
@pytest.mark.parametrize("number", [3, 1500])
async def test_a_generator_stores_what_it_gives(
    conninfo: str, admin: psycopg.Connection, path: str, number: int
) -> None:
    async with opened(conninfo, path) as storage:
        parts = parts_on(storage)
        made = await parts.create_many(NewPart(name=f"a{n}") for n in range(number))
        assert [row.name for row in made] == [f"a{n}" for n in range(number)]
        async with storage.batch() as batch:
            later = batch.add(parts_on(batch).create_many, (NewPart(name=f"b{n}") for n in range(number)))
        assert [row.name for row in later.result] == [f"b{n}" for n in range(number)]
        async with storage.transaction() as tx:
            await parts_on(tx).create_many(NewPart(name=f"c{n}") for n in range(number))
        assert len(names(admin)) == 3 * number
        assert await parts.delete_many(row.id for row in made) == number
        assert await parts.update_many((row.id for row in later.result), {"numbers": [1]}) == number
        assert len(names(admin)) == 2 * number


@EVERY_PATH
async def test_a_generator_given_to_the_tables_own_methods_stores_what_it_gives(migrated_once: str, path: str) -> None:
    async with opened(migrated_once, path) as storage:
        chat = await storage.conversations.create(NewConversation())
        news = [NewMessage(conversation_id=chat.id, role="user", content=str(n)) for n in range(3)]
        assert len(await storage.messages.append_many(chat.id, (new for new in news))) == 3
        assert len(await storage.messages.create_many(new for new in news)) == 3
        async with storage.batch() as batch:
            later = batch.add(batch.messages.append_many, chat.id, (new for new in news))
        assert [row.position for row in later.result] == [7, 8, 9]
        assert await storage.messages.count({"conversation_id": chat.id}) == 9
        stream = str(uuid4())
        events = [NewStreamEvent(stream_id=stream, data=n) for n in range(3)]
        assert await storage.stream_events.publish_many(stream, (event for event in events)) == range(1, 4)
        assert len(await storage.stream_events.create_many(event for event in events)) == 3
        assert [event.data for event in await storage.stream_events.read(stream)] == [0, 1, 2] * 2


@EVERY_PATH
async def test_what_changes_after_batch_add_does_not_leak_in(
    conninfo: str, admin: psycopg.Connection, path: str
) -> None:
    async with opened(conninfo, path) as storage:
        there = await parts_on(storage).create(NewPart(name="there"))
        document: dict[str, Any] = {"deep": {"list": [1]}}
        new = NewPart(name="new", document=document, tags=["a"], numbers=[1], others=[UUID(int=1)])
        many = [NewPart(name="many", document=document, tags=["a"])]
        changes: dict[str, Any] = {"document": {"a": [1]}, "tags": ["a"], "numbers": [1]}
        wanted, ids = ["a"], [there.id]
        async with storage.batch() as batch:
            parts = parts_on(batch)
            results = [
                batch.add(parts.create, new),
                batch.add(parts.create_many, many),
                batch.add(parts.update, there.id, **changes),
            ]
            found = batch.add(parts.tagged, wanted)
            counted = batch.add(parts.count, {"tags__overlaps": wanted, "name__in": (listed := ["new", "many"])})
            gone = batch.add(parts.delete_many, ids)
            for changed in (document, new.document, changes["document"]):
                changed.clear()
                changed["late"] = True
            for changed in (new.tags, changes["tags"], many[0].tags):
                changed.append("late")
            for changed in (new.numbers, changes["numbers"]):
                changed.append(99)
            new.others.clear()
            for changed in (wanted, ids, listed, many):
                changed.clear()
        created, (made,), updated = [one.result for one in results]
        assert (created.document, created.tags, created.numbers) == ({"deep": {"list": [1]}}, ["a"], [1])
        assert created.others == [UUID(int=1)]
        assert (made.document, made.tags) == ({"deep": {"list": [1]}}, ["a"])
        assert (updated.document, updated.tags, updated.numbers) == ({"a": [1]}, ["a"], [1])
        assert (found.result, counted.result, gone.result) == (["many", "new", "there"], 2, 1)


# ---- 14: list filters are the same on every path ----


async def test_list_filters_find_the_same_on_every_path(conninfo: str, admin: psycopg.Connection) -> None:
    texts = ["a", "b", "", "NULL", '"{,}\\', "\x00", "Ø", "x y"]
    ids = [UUID(int=n) for n in range(4)]
    news = [
        NewPart(
            name=text,
            tags=texts[n:] if n % 2 else texts[:n],
            others=ids[: n % 4],
            numbers=list(range(n)),
            document={"tag": text, "n": n, "list": texts[:n]},
            moment=datetime(2026, 1, 1 + n, tzinfo=UTC),
            double=n / 4,
        )
        for n, text in enumerate(texts)
    ]
    filters: list[dict[str, Any]] = []
    for values in ([], ["a"], ["\x00", "NULL", '"{,}\\'], texts, ("a", "b"), {"a", "Ø"}):
        filters += [{"name__in": values}, {"name__not_in": values}, {"document__tag__in": values}]
        if isinstance(values, list):
            filters += [{"tags__contains": values}, {"tags__overlaps": values}, {"tags": values}]
            filters += [{"document__contains": {"list": values}}, {"document__list__contains": values}]
    for others in ([], ids[:1], ids):
        filters += [{"others__contains": others}, {"others__overlaps": others}, {"others": others}]
    for numbers in ([], [0], [0, 1, 2], [99]):
        filters += [{"numbers__contains": numbers}, {"numbers__overlaps": numbers}, {"numbers": numbers}]
        filters += [{"document__n__in": numbers}]
    filters += [{"id__in": []}, {"id__in": ids}, {"double__in": [0.25, 1.0]}, {"double__in": []}]
    filters += [{"moment__in": [datetime(2026, 1, 2, tzinfo=UTC)]}, {"moment__not_in": []}, {"name__in": ["a"] * 2000}]
    found: dict[str, list[Any]] = {}
    for path in PATHS:
        async with opened(conninfo, path) as storage:
            parts = parts_on(storage)
            if not names(admin):
                await parts.create_many(news)
            told: list[Any] = []
            for where in filters:
                for _ in range(2):
                    answers: set[Any] = set()
                    try:
                        answers = {row.name for row in await parts.find(where)}
                        assert await parts.count(where) == len(answers)
                    except StorageError as error:
                        answers = {type(error)}
                    told.append((str(where), answers))
            found[path] = told
    assert len({str([(where, sorted(map(str, answers))) for where, answers in told]) for told in found.values()}) == 1
    told = dict(found["async shared"])
    assert told[str({"name__in": texts})] == set(texts)
    assert told[str({"tags__overlaps": ["\x00", "NULL", '"{,}\\']})] == {
        new.name for new in news if {"\x00", "NULL", '"{,}\\'} & set(new.tags)
    }
    assert not [(where, answers) for where, answers in told.items() if any(isinstance(a, type) for a in answers)]


# ---- 14: a pooler that nobody declared ----


@pytest.mark.parametrize("path", ["async shared", "sync prepared"])
async def test_behind_a_pooler_that_nobody_declared_nothing_is_prepared_and_nobody_reconnects(
    conninfo: str, admin: psycopg.Connection, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    kind: Any = PooledConnection if path.startswith("async") else sync.database.pool.PooledConnection
    original = kind.connect.__func__

    if path.startswith("async"):

        async def connect(cls: Any, *args: Any, **kwargs: Any) -> Any:
            made.append("one")
            return await original(cls, *args, **kwargs)
    else:

        def connect(cls: Any, *args: Any, **kwargs: Any) -> Any:
            made.append("one")
            return original(cls, *args, **kwargs)

    monkeypatch.setattr(kind, "connect", classmethod(connect))
    monkeypatch.setattr(psycopg.ConnectionInfo, "backend_pid", property(lambda _: 1))  # not that of the server
    async with opened(conninfo, path, pool_min=1, pool_max=2) as storage:
        parts = parts_on(storage)
        first = await parts.create(NewPart(name="a", **FULL))
        began = len(made)
        for _ in range(12):  # for longer than the pause between two attempts
            assert await parts.get(first.id) == first
            async with storage.batch() as batch:
                batch.add(parts_on(batch).get, first.id)
            await asyncio.sleep(0.1)
        assert began <= 3
        assert len(made) <= began
        async with storage.database.connection() as connection:
            query = "SELECT count(*) FROM pg_prepared_statements"
            if isinstance(storage, Waited):
                assert connection.target.execute(query).fetchone() == (0,)
            else:
                assert await (await connection.execute(query)).fetchone() == (0,)


def test_a_connection_with_another_encoding_is_refused(conninfo: str) -> None:
    with (
        psycopg.connect(conninfo, autocommit=True, client_encoding="LATIN1") as connection,
        pytest.raises(StorageError, match="UTF-8"),
    ):
        Conversations(connection).count()
