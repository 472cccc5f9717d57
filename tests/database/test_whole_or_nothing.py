"""Whole or nothing: a batch, a transaction and `create_many` leave all of their rows or none, on every path; and a
value is the same row whichever of them made it.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal
from uuid import UUID, uuid4

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pydantic import Field

import agent_storage
from agent_storage import Conflict, InvalidValue, NotFound, PoolUsedInTransaction, StorageError, Unreadable, sync
from agent_storage.database.fastpath import prepared
from agent_storage.maintenance.check import check
from agent_storage.statements.records import MAINTAINED, Document, Input, Json, Jsonb, JsonObject, Record

from ..conftest import fresh_database

# ---- every path of both faces ----

#: The paths that a call can take: a face, and the settings that lead there.
PATHS: dict[str, dict[str, Any]] = {
    "async shared": {},
    "async prepared": {"multiplex": 0},
    "async unprepared": {"prepare": False},
    "sync prepared": {},
    "sync unprepared": {"prepare": False},
}


class Waited:
    """The sync face behind `await` and `async with`, so that one test runs on both."""

    def __init__(self, target: Any) -> None:
        self.target = target

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.target, name)
        wrapped = callable(found) or name == "database" or isinstance(found, sync.Repository)
        return Waited(found) if wrapped else found

    def __call__(self, *args: Any, **kwargs: Any) -> Waited:
        return Waited(self.target(*map(plain, args), **kwargs))

    def __await__(self) -> Iterator[Any]:
        return self.target
        yield

    async def __aenter__(self) -> Waited:
        return Waited(self.target.__enter__())

    async def __aexit__(self, *error: Any) -> Any:
        return self.target.__exit__(*error)

    async def __aiter__(self) -> AsyncIterator[Any]:
        for item in self.target:
            yield item


def plain(value: Any) -> Any:
    """What stands behind `await`."""
    return value.target if isinstance(value, Waited) else value


@asynccontextmanager
async def opened(conninfo: str, path: str, **changed: Any) -> AsyncIterator[Any]:
    """A storage whose calls take one of the `PATHS`. What hangs fails after a while."""
    if path.startswith("async"):
        async with agent_storage.Storage(conninfo, **{**PATHS[path], **changed}) as storage, asyncio.timeout(30):
            yield storage
    else:
        with sync.Storage(conninfo, **{**PATHS[path], **changed}) as storage:
            yield Waited(storage)


@contextmanager
def own_database(server_conninfo: str, table: str) -> Iterator[str]:
    """A database with what every table of this package relies on, and a table of the test's own."""
    shared = Path(agent_storage.__file__).parent / "tables" / "_shared.sql"
    with fresh_database(server_conninfo) as conninfo:
        with psycopg.connect(conninfo, autocommit=True) as connection:
            connection.execute(shared.read_bytes())
            connection.execute(table)  # type: ignore[arg-type]
        yield conninfo


# ---- a table of every type that `storage check` admits ----

TABLE = """
CREATE TYPE mood AS ENUM ('calm', 'wild');
CREATE DOMAIN short_text AS text CHECK (length(VALUE) < 100);
CREATE TABLE samples (
    id              uuid PRIMARY KEY DEFAULT uuid_v7(),
    name            text NOT NULL UNIQUE,
    flag            boolean,
    small           smallint,
    number          integer,
    big             bigint,
    single          real,
    double          double precision,
    exact           numeric,
    ratio           numeric,
    moment          timestamptz,
    day             date,
    hour            time,
    span            interval,
    raw             bytea,
    code            varchar,
    letter          char(3),
    mood            mood,
    domain          short_text,
    other           uuid,
    document        jsonb,
    anything        jsonb NOT NULL DEFAULT 'null',
    old             json,
    typed           jsonb NOT NULL DEFAULT '{}',
    tags            text[],
    others          uuid[],
    numbers         integer[],
    doubles         double precision[],
    exacts          numeric[],
    moments         timestamptz[],
    days            date[],
    hours           time[],
    spans           interval[],
    raws            bytea[],
    flags           boolean[],
    created_at      timestamptz NOT NULL DEFAULT now(),
    updated_at      timestamptz NOT NULL DEFAULT now()
);
CREATE TRIGGER set_timestamp BEFORE UPDATE ON samples FOR EACH ROW EXECUTE FUNCTION trigger_set_timestamp()
"""


class Measured(Document):
    value: float = 0.0
    at: datetime | None = None
    cost: Decimal | None = None


class NewSample(Input):
    name: str
    flag: bool | None = None
    small: int | None = None
    number: int | None = None
    big: int | None = None
    single: float | None = None
    double: float | None = None
    exact: Annotated[Decimal, Field(allow_inf_nan=True)] | None = None
    ratio: float | None = None
    moment: datetime | None = None
    day: date | None = None
    hour: time | None = None
    span: timedelta | None = None
    raw: bytes | None = None
    code: str | None = None
    letter: str | None = None
    mood: Literal["calm", "wild"] | None = None
    domain: str | None = None
    other: UUID | None = None
    document: Jsonb[JsonObject] | None = None
    anything: Jsonb[Json] = None
    old: Jsonb[JsonObject] | None = None
    typed: Jsonb[Measured] = Measured()
    tags: list[str] | None = None
    others: list[UUID] | None = None
    numbers: list[int | None] | None = None
    doubles: list[float] | None = None
    exacts: list[Decimal] | None = None
    moments: list[datetime] | None = None
    days: list[date] | None = None
    hours: list[time] | None = None
    spans: list[timedelta] | None = None
    raws: list[bytes] | None = None
    flags: list[bool] | None = None


class Sample(Record, NewSample):
    pass


def declare(repository: Any, sql: Any) -> Any:
    """The repository of `samples` on one face."""

    class Samples(repository[Sample, NewSample]):
        """Samples."""

        table = "samples"
        natural_key = ("name",)

        @sql("INSERT INTO {table} (name, moment) VALUES (%(name)s, 'infinity') RETURNING {columns}", certain=True)
        async def endless(self, name: str) -> Sample:
            """A row whose moment Python cannot hold."""
            ...

        @sql("INSERT INTO {table} (name, day) VALUES (%(name)s, '20000-01-01') RETURNING {columns}", certain=True)
        async def far(self, name: str) -> Sample:
            """A row whose day Python cannot hold."""
            ...

        @sql("INSERT INTO {table} (name, span) VALUES (%(name)s, 'infinity') RETURNING {columns}", certain=True)
        async def everlasting(self, name: str) -> Sample:
            """A row whose span Python cannot hold."""
            ...

        @sql("INSERT INTO {table} (name, number) VALUES (%(name)s, NULL) RETURNING number", certain=True)
        async def misread(self, name: str) -> int:
            """A row whose answer is not what the annotation promises."""
            ...

        @sql(
            "INSERT INTO {table} (name, document)"
            " VALUES (%(name)s, (repeat('{\"a\":', 3000) || '1' || repeat('}', 3000))::jsonb) RETURNING {columns}",
            certain=True,
        )
        async def deep(self, name: str) -> Sample:
            """A row whose document is nested deeper than Python's parsers follow: it is read as text."""
            ...

        @sql(
            "INSERT INTO {table} (name, document) VALUES (%(name)s, '{\"a\": 1e400}') RETURNING {columns}", certain=True
        )
        async def huge(self, name: str) -> Sample:
            """A row whose document holds a number beyond any float: it is read as an integer."""
            ...

        @sql("INSERT INTO {table} (name, moment) VALUES (%(name)s, 'infinity') RETURNING {columns}")
        async def perhaps_endless(self, name: str) -> Sample:
            """The same as `endless`, not declared certain."""
            ...

    return Samples


ASYNC, SYNC = declare(agent_storage.Repository, agent_storage.sql), declare(sync.Repository, sync.sql)


def samples_on(runner: Any) -> Any:
    """The repository of `samples` on a storage, a transaction or a batch of either face."""
    return Waited(SYNC(plain(runner))) if isinstance(runner, Waited) else ASYNC(runner)


@pytest.fixture(scope="module")
def conninfo(server_conninfo: str) -> Iterator[str]:
    """A database with the table."""
    with own_database(server_conninfo, TABLE) as made:
        yield made


@pytest.fixture(params=PATHS)
def path(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def admin(conninfo: str) -> Iterator[psycopg.Connection]:
    """A connection beside the storage; the table is empty."""
    with psycopg.connect(conninfo, autocommit=True) as connection:
        yield connection
        connection.execute("TRUNCATE samples")


def names(admin: psycopg.Connection) -> list[str]:
    return [row[0] for row in admin.execute("SELECT name FROM samples ORDER BY name")]


#: A value of each column, of the kind that other code paths handle apart.
VALUES: dict[str, Any] = {
    "flag": True,
    "small": -(2**15),
    "number": 2**31 - 1,
    "big": -(2**63),
    "single": 0.5,
    "double": math.inf,
    "exact": Decimal("1.50"),
    "ratio": 0.1,
    "moment": datetime(2026, 1, 1, tzinfo=timezone(timedelta(hours=1, seconds=28))),
    "day": date(2026, 2, 28),
    "hour": time(23, 59, 59, 123456),
    "span": timedelta(days=-3, microseconds=1),
    "raw": b"\x00\xff",
    "code": "Ø",
    "letter": "abc",
    "mood": "wild",
    "domain": "x",
    "other": UUID(int=1),
    "document": {"a": 1e16},
    "anything": None,
    "old": {"a": [1]},
    "typed": Measured(value=1e23),
    "tags": ["a", "\x00", '"{,}'],
    "others": [UUID(int=2)],
    "numbers": [1, None],
    "doubles": [math.nan, -math.inf],
    "exacts": [Decimal("1.10")],
    "moments": [datetime(2026, 1, 1, tzinfo=UTC)],
    "days": [date(1, 1, 1)],
    "hours": [time(1, 2, 3, 4)],
    "spans": [timedelta(seconds=-1)],
    "raws": [b"", b"\\x"],
    "flags": [True, False],
}


def test_the_table_has_every_kind_of_column_and_check_agrees(admin: psycopg.Connection) -> None:
    assert set(VALUES) == set(NewSample.model_fields) - {"name", *MAINTAINED}
    found = check(admin, [SYNC])
    assert [one for one in found if not any(rule in one.message for rule in ("description", "admit", "list"))] == []


# ---- 1: a batch is all or nothing ----


@pytest.mark.parametrize("limit", [1000, 2])
async def test_a_batch_whose_last_call_is_refused_leaves_nothing_whatever_its_parameters(
    conninfo: str, admin: psycopg.Connection, path: str, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepared, "LIMIT", limit)  # at 2, no connection can keep all statements of a batch
    async with opened(conninfo, path) as storage:
        await samples_on(storage).create(NewSample(name="there"))
        for column, value in VALUES.items():
            with pytest.raises(Conflict) as caught:
                async with storage.batch() as batch:
                    samples = samples_on(batch)
                    batch.add(samples.create, NewSample(name=column, **{column: value}))
                    batch.add(samples.create_many, [NewSample(name=f"{column} {n}", **{column: value}) for n in (1, 2)])
                    batch.add(samples.delete, uuid4())
                    batch.add(samples.create, NewSample(name="there", **{column: value}))
            assert caught.value.outcome == "not kept"
            assert names(admin) == ["there"], column
        async with storage.batch() as batch:  # and the connections are fit for the next
            made = batch.add(samples_on(batch).create, NewSample(name="more"))
        assert made.result.name == "more"
        assert names(admin) == ["more", "there"]


async def test_a_batch_that_also_updates_is_all_or_nothing_too(
    conninfo: str, admin: psycopg.Connection, path: str
) -> None:
    async with opened(conninfo, path) as storage:
        there = await samples_on(storage).create(NewSample(name="there"))
        for last in (uuid4(), there.id):
            with pytest.raises((NotFound, Conflict)):
                async with storage.batch() as batch:
                    samples = samples_on(batch)
                    batch.add(samples.create, NewSample(name="new", hour=time(1, 2)))
                    batch.add(samples.update, there.id, day=date(2026, 1, 1))
                    batch.add(samples.update, last, name="new", span=timedelta(1))
            assert names(admin) == ["there"]
            assert await samples_on(storage).require(there.id) == there


async def test_a_batch_that_the_server_cannot_commit_leaves_nothing(
    conninfo: str, admin: psycopg.Connection, path: str
) -> None:
    async with opened(conninfo, path) as storage:
        there = await samples_on(storage).create(NewSample(name="there"))
        admin.execute("ALTER TABLE samples ADD CONSTRAINT late UNIQUE (code) DEFERRABLE INITIALLY DEFERRED")
        try:
            for updates in (False, True):  # an answer that can be refused: COMMIT takes a round trip of its own
                with pytest.raises(Conflict) as caught:
                    async with storage.batch() as batch:
                        samples = samples_on(batch)
                        for name in ("a", "b"):
                            batch.add(samples.create, NewSample(name=name, code="same", hour=time(1)))
                        if updates:
                            batch.add(samples.update, there.id, number=1)
                assert caught.value.outcome == "not kept"
                assert names(admin) == ["there"]
        finally:
            admin.execute("ALTER TABLE samples DROP CONSTRAINT late")


@pytest.mark.parametrize("path", [name for name in PATHS if name.startswith("async")])
async def test_two_hundred_batches_of_five_that_are_cancelled_are_five_or_none(
    conninfo: str, admin: psycopg.Connection, path: str
) -> None:
    dice = random.Random(11)
    outcomes: Counter[str] = Counter()
    async with opened(conninfo, path, pool_max=4) as storage:
        there = await samples_on(storage).create(NewSample(name="there"))

        async def turn(number: int) -> bool:
            delay = dice.choice([dice.uniform(0, 0.002), dice.uniform(0, 0.05), 10])
            try:
                async with asyncio.timeout(delay), storage.batch() as batch:
                    samples = samples_on(batch)
                    for n in range(5):
                        new = NewSample(name=f"{number}.{n}", hour=time(n), day=date(2026, 1, 1), single=n)
                        batch.add(samples.create, new)
                    if number % 2:
                        batch.add(samples.update, there.id, number=number)
            except TimeoutError:
                outcomes["cancelled"] += 1
                return False
            outcomes["finished"] += 1
            return True

        for start in range(0, 200, 20):
            done = await asyncio.gather(*(turn(number) for number in range(start, start + 20)))
            kept = Counter(int(name.partition(".")[0]) for name in names(admin) if name != "there")
            for number, finished in enumerate(done, start):
                assert kept[number] in ((5,) if finished else (0, 5))
    assert min(outcomes["cancelled"], outcomes["finished"]) >= 20


@pytest.mark.parametrize("path", [name for name in PATHS if name.startswith("sync")])
async def test_batches_that_the_server_cancels_are_five_or_none_and_say_so(
    conninfo: str, admin: psycopg.Connection, path: str
) -> None:
    async with opened(conninfo, path, pool_max=4) as storage:
        finished: dict[int, bool] = {}

        def turn(number: int) -> None:
            try:
                with storage.target.batch() as batch:
                    samples = SYNC(batch)
                    for n in range(5):
                        batch.add(samples.create, NewSample(name=f"{number}.{n}", hour=time(n), span=timedelta(n)))
                    if number % 2:
                        batch.add(samples.count)
                finished[number] = True
            except StorageError as error:
                assert error.outcome == "not kept"
                finished[number] = False

        async def cancel() -> None:
            query = (
                "SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity WHERE datname = current_database()"
                " AND application_name = 'agent-storage' AND state <> 'idle'"
            )
            while len(finished) < 200:
                await asyncio.to_thread(admin.execute, query)

        canceller = asyncio.create_task(cancel())
        await asyncio.gather(*(asyncio.to_thread(turn, number) for number in range(200)))
        await canceller
    kept = Counter(int(name.partition(".")[0]) for name in names(admin))
    assert {number for number in finished if kept[number] == 5} == {number for number, done in finished.items() if done}
    assert set(kept.values()) <= {5}


# ---- 5: a batch of the storage inside a transaction ----


async def test_a_batch_of_the_storage_inside_a_transaction_is_refused_and_sends_nothing(
    conninfo: str, admin: psycopg.Connection, path: str
) -> None:
    async with opened(conninfo, path) as storage:
        for calls in (["create"], ["create", "update"]):
            with suppress(ZeroDivisionError):
                async with storage.transaction() as tx:
                    await samples_on(tx).create(NewSample(name="inside"))
                    with pytest.raises(PoolUsedInTransaction, match=r"batch\(\)"):
                        async with storage.batch() as batch:
                            samples = samples_on(batch)
                            batch.add(samples.create, NewSample(name="beside"))
                            if "update" in calls:
                                batch.add(samples.update, UUID(int=1), number=1)
                    assert names(admin) == []
                    raise ZeroDivisionError
            assert names(admin) == []
        async with storage.batch() as batch:
            batch.add(samples_on(batch).create, NewSample(name="after"))
        assert names(admin) == ["after"]


async def test_a_batch_of_the_transaction_goes_with_it(conninfo: str, admin: psycopg.Connection, path: str) -> None:
    async with opened(conninfo, path) as storage:
        with pytest.raises(ZeroDivisionError):
            async with storage.transaction() as tx:
                async with tx.batch() as batch:
                    made = batch.add(samples_on(batch).create, NewSample(name="a", day=date(2026, 1, 1)))
                assert await samples_on(tx).get(made.result.id) == made.result
                raise ZeroDivisionError
        assert names(admin) == []
        async with storage.transaction() as tx:
            with pytest.raises(Conflict):
                async with tx.transaction() as inner, inner.batch() as batch:
                    for _ in range(2):
                        batch.add(samples_on(batch).create, NewSample(name="twice"))
            async with tx.batch() as batch:
                batch.add(samples_on(batch).create, NewSample(name="kept"))
        assert names(admin) == ["kept"]


# ---- 6: what was committed and cannot be read ----

#: Methods whose row cannot be read: what psycopg refuses, what the record refuses, and what psycopg reads as another
#: value.
UNREADABLE = [["endless", "far", "misread"], ["everlasting"]]


@pytest.mark.parametrize("methods", UNREADABLE, ids=", ".join)
async def test_a_row_that_cannot_be_read_after_the_commit_says_that_it_was_kept(
    conninfo: str, admin: psycopg.Connection, path: str, methods: list[str]
) -> None:
    async with opened(conninfo, path) as storage:
        for method in [*methods, *methods]:  # the second time the statements are prepared
            later = []
            with pytest.raises(Unreadable, match="kept") as caught:
                async with storage.batch() as batch:
                    samples = samples_on(batch)
                    later.append(batch.add(samples.create, NewSample(name="before")))
                    batch.add(getattr(samples, method), "batched")
                    later.append(batch.add(samples.create, NewSample(name="behind")))
            assert caught.value.outcome == "kept"
            assert names(admin) == ["batched", "before", "behind"]
            assert [one.result.name for one in later] == ["before", "behind"]
            with pytest.raises(Unreadable, match="kept") as caught:
                await getattr(samples_on(storage), method)("single")
            assert caught.value.outcome == "kept"
            assert "single" in names(admin)
            admin.execute("TRUNCATE samples")


@pytest.mark.parametrize("methods", UNREADABLE, ids=", ".join)
async def test_a_row_that_cannot_be_read_before_the_commit_undoes_all(
    conninfo: str, admin: psycopg.Connection, path: str, methods: list[str]
) -> None:
    async with opened(conninfo, path) as storage:
        there = await samples_on(storage).create(NewSample(name="there"))
        for method in [*methods, *methods]:
            with pytest.raises(Unreadable) as caught:  # update() can be refused: COMMIT takes a round trip of its own
                async with storage.batch() as batch:
                    samples = samples_on(batch)
                    batch.add(samples.update, there.id, number=1)
                    batch.add(getattr(samples, method), "batched")
            assert caught.value.outcome == "not kept"
            assert "kept" not in str(caught.value)
            with pytest.raises(Unreadable) as caught:
                async with storage.transaction() as tx:
                    await getattr(samples_on(tx), method)("single")
            assert caught.value.outcome == "not kept"
            with pytest.raises(Unreadable) as caught:
                async with storage.transaction() as tx, tx.batch() as batch:
                    batch.add(getattr(samples_on(batch), method), "single")
            assert caught.value.outcome == "not kept"
            assert names(admin) == ["there"]
        assert (await samples_on(storage).require(there.id)).number is None


@pytest.mark.parametrize(
    ("method", "document"),
    [("deep", '{"a": ' * 3000 + "1" + "}" * 3000), ("huge", {"a": 10**400})],
    ids=["deep", "huge"],
)
async def test_a_document_beyond_pythons_limits_is_read_and_undoes_nothing(
    conninfo: str, admin: psycopg.Connection, path: str, method: str, document: Any
) -> None:
    async with opened(conninfo, path) as storage:
        there = await samples_on(storage).create(NewSample(name="there"))
        for turn in "ab":  # the second time the statements are prepared
            assert (await getattr(samples_on(storage), method)(f"{turn} single")).document == document
            async with storage.transaction() as tx:
                assert (await getattr(samples_on(tx), method)(f"{turn} in a transaction")).document == document
            async with storage.batch() as batch:
                samples = samples_on(batch)
                batch.add(samples.update, there.id, number=1)
                later = batch.add(getattr(samples, method), f"{turn} batched")
            assert later.result.document == document
        kinds = ("batched", "in a transaction", "single")
        assert names(admin) == [*(f"{turn} {kind}" for turn in "ab" for kind in kinds), "there"]
        found = await samples_on(storage).find({"name__like": "_ %"})
        assert [one.document for one in found] == [document] * 6


async def test_a_statement_that_is_not_certain_but_alone_says_that_it_was_kept(
    conninfo: str, admin: psycopg.Connection, path: str
) -> None:
    async with opened(conninfo, path) as storage:
        with pytest.raises(Unreadable, match="kept") as caught:
            await samples_on(storage).perhaps_endless("a")
        assert caught.value.outcome == "kept"
        with pytest.raises(Unreadable) as caught:
            async with storage.batch() as batch:
                batch.add(samples_on(batch).perhaps_endless, "b")
        assert caught.value.outcome == "not kept"
        assert names(admin) == ["a"]


async def test_create_many_whose_rows_cannot_be_read_says_what_became_of_them(
    conninfo: str, admin: psycopg.Connection, path: str
) -> None:
    admin.execute(
        "CREATE OR REPLACE FUNCTION endless() RETURNS trigger LANGUAGE plpgsql AS $$"
        " BEGIN NEW.moment := 'infinity'; RETURN NEW; END $$;"
        " CREATE TRIGGER endless BEFORE INSERT ON samples FOR EACH ROW EXECUTE FUNCTION endless()"
    )
    try:
        async with opened(conninfo, path) as storage:
            for rows, outcome, kept in ((1001, "not kept", 0), (3, "kept", 3)):
                with pytest.raises(Unreadable) as caught:
                    await samples_on(storage).create_many([NewSample(name=str(n)) for n in range(rows)])
                assert (caught.value.outcome, len(names(admin))) == (outcome, kept)
    finally:
        admin.execute("DROP TRIGGER endless ON samples")


# ---- 8: create_many is create, as is every other way ----

ZONES = [UTC, timezone(timedelta(hours=1, seconds=28)), timezone(timedelta(hours=-23, minutes=-59, seconds=-59))]
MOMENTS = st.datetimes(datetime(1, 1, 3), datetime(9999, 12, 29), timezones=st.sampled_from(ZONES))  # noqa: DTZ001
TEXTS = st.text(st.characters(codec=None), max_size=8) | st.sampled_from(["\x00", "\x1a", "\ud800", '"{,}\\', "NULL"])
DECIMALS = st.decimals(allow_nan=False, allow_infinity=False, places=3) | st.sampled_from(
    [Decimal("NaN"), Decimal("Infinity"), Decimal("-Infinity"), Decimal("1E+5"), Decimal("-0.00"), Decimal("1E-300")]
)
FLOATS = st.floats() | st.sampled_from([1e16, 1e22, 1e23, -1e17, 5e-324, 1.7976931348623157e308])
HOURS = st.times().map(lambda hour: hour.replace(fold=0))
SPANS = st.timedeltas(timedelta(-900_000), timedelta(900_000))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | FLOATS.filter(math.isfinite) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
OBJECTS = st.dictionaries(TEXTS, JSON, max_size=3)
STRATEGIES: dict[str, st.SearchStrategy[Any]] = {
    "flag": st.booleans(),
    "small": st.integers(-(2**15), 2**15 - 1),
    "number": st.integers(-(2**31), 2**31 - 1),
    "big": st.integers(-(2**63), 2**63 - 1),
    "single": st.floats(width=32) | st.just(0.1),
    "double": FLOATS,
    "exact": DECIMALS,
    "ratio": FLOATS,
    "moment": MOMENTS,
    "day": st.dates(),
    "hour": HOURS,
    "span": SPANS,
    "raw": st.binary(max_size=8),
    "code": TEXTS,
    "letter": st.text("aØ", min_size=3, max_size=3),
    "mood": st.sampled_from(["calm", "wild"]),
    "domain": TEXTS,
    "other": st.uuids(),
    "document": OBJECTS,
    "anything": JSON,
    "old": OBJECTS,
    "typed": st.builds(
        Measured,
        value=FLOATS.filter(math.isfinite),
        at=st.none() | st.datetimes(timezones=st.just(UTC)),
        cost=st.none() | st.decimals(allow_nan=False, allow_infinity=False),
    ),
    "tags": st.lists(TEXTS, max_size=3),
    "others": st.lists(st.uuids(), max_size=3),
    "numbers": st.lists(st.none() | st.integers(-(2**31), 2**31 - 1), max_size=3),
    "doubles": st.lists(FLOATS, max_size=3),
    "exacts": st.lists(DECIMALS.filter(Decimal.is_finite), max_size=3),
    "moments": st.lists(MOMENTS, max_size=3),
    "days": st.lists(st.dates(), max_size=3),
    "hours": st.lists(HOURS, max_size=3),
    "spans": st.lists(SPANS, max_size=3),
    "raws": st.lists(st.binary(max_size=4), max_size=3),
    "flags": st.lists(st.booleans(), max_size=3),
}
PHASES = (Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink)
#: Stored with fewer digits than a float has.
ROUNDED = {"single"}


def shown(value: Any) -> str:
    """What tells values apart that Python calls equal (1 and 1.0), and not those that are the same but for Python are
    not (nan), or are not for `repr` (a moment in two zones)."""
    if isinstance(value, Measured):
        value = value.model_dump()
    if isinstance(value, datetime):
        value = value.astimezone(UTC).replace(fold=0)
    if isinstance(value, list):
        return f"[{', '.join(map(shown, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(sorted(f'{key!r}: {shown(item)}' for key, item in value.items()))}}}"
    if isinstance(value, Decimal) and value.is_finite():
        value = value.normalize() + 0
    return repr(value + 0 if isinstance(value, float) else value)  # -0.0 is told apart in a test of its own


def values_of(row: Input) -> dict[str, str]:
    return {name: shown(getattr(row, name)) for name in VALUES}


async def made_in_every_way(storage: Any, given: Sequence[dict[str, Any]]) -> dict[str, list[Sample]]:
    """Rows of these values, by each way that makes rows."""
    number = itertools.count()

    def news() -> list[NewSample]:
        return [NewSample(name=f"{uuid4()} {next(number)}", **values) for values in given]

    samples = samples_on(storage)
    many = news() + [NewSample(name=f"{uuid4()} {n}") for n in range(1001)]
    ways = {
        "create": [await samples.create(new) for new in news()],
        "create_many": await samples.create_many(news()),
        "create_many in chunks": (await samples.create_many(many))[: len(given)],
        "upsert": [await samples.upsert(new) for new in news()],
        "update": [
            await samples.update((await samples.create(NewSample(name=str(uuid4())))).id, **values)
            for values in given
            if values
        ],
    }
    async with storage.batch() as batch:
        later = [batch.add(samples_on(batch).create, new) for new in news()]
        together = batch.add(samples_on(batch).create_many, news())
    ways["batch"], ways["batch of many"] = [one.result for one in later], together.result
    async with storage.transaction() as tx:
        ways["transaction"] = [await samples_on(tx).create(new) for new in news()]
        ways["transaction of many"] = await samples_on(tx).create_many(news())
    return ways


async def test_a_value_is_the_same_row_in_whatever_way_it_was_made(
    conninfo: str, admin: psycopg.Connection, path: str
) -> None:
    given_ = [{column: value} for column, value in VALUES.items()]
    given_ += [dict(VALUES), {"ratio": math.nan, "exact": Decimal("-Infinity"), "single": math.nan}]
    async with opened(conninfo, path) as storage:
        ways = await made_in_every_way(storage, given_)
        for way, rows in ways.items():
            for values, row in zip(given_, rows, strict=True):
                assert {name: values_of(row)[name] for name in values} == {n: shown(v) for n, v in values.items()}, way
                assert await samples_on(storage).require(row.id) == row or "nan" in repr(row)


def test_create_many_is_create_for_any_value(conninfo: str, admin: psycopg.Connection) -> None:
    rows = st.fixed_dictionaries({}, optional=STRATEGIES)
    number = itertools.count()
    with (
        sync.Storage(conninfo) as one_way,
        sync.Storage(conninfo, prepare=False) as other_way,
    ):

        @settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck), phases=PHASES)
        @given(st.lists(rows, min_size=1, max_size=4))
        def compare(given_: list[dict[str, Any]]) -> None:
            for storage in (one_way, other_way):
                news = [[NewSample(name=str(next(number)), **values) for values in given_] for _ in range(2)]
                single = [SYNC(storage).create(new) for new in news[0]]
                many = SYNC(storage).create_many(news[1])
                for new, alone, together in zip(news[0], single, many, strict=True):
                    wanted = values_of(new)
                    assert values_of(alone) == values_of(together)
                    assert {n: v for n, v in values_of(alone).items() if n not in ROUNDED} == {
                        n: v for n, v in wanted.items() if n not in ROUNDED
                    }

        compare()


async def test_a_negative_zero_keeps_its_sign_in_whatever_way_it_was_made(
    conninfo: str, admin: psycopg.Connection, path: str
) -> None:
    async with opened(conninfo, path) as storage:
        ways = await made_in_every_way(storage, [{"single": -0.0, "double": -0.0, "doubles": [-0.0]}])
    for way, (row, *_) in ways.items():
        assert [repr(value) for value in (row.single, row.double, row.doubles)] == ["-0.0", "-0.0", "[-0.0]"], way


@pytest.mark.parametrize("path", ["async prepared"])
@pytest.mark.parametrize("text", ["\ud800", "\x00", "\x1a", "plain"])
async def test_a_document_may_hold_a_large_float_beside_any_text(
    conninfo: str, admin: psycopg.Connection, path: str, text: str
) -> None:
    document = {text: [1e16, text]}
    async with opened(conninfo, path) as storage:
        made = await samples_on(storage).create(NewSample(name="a", document=document))
    assert shown(made.document) == shown(document)


@pytest.mark.parametrize("number", [1e16, 1e22, 1e23, -1e17, 1.7976931348623157e308, 123456789012345680000.0])
async def test_a_large_float_in_a_document_comes_back_as_it_was(
    conninfo: str, admin: psycopg.Connection, path: str, number: float
) -> None:
    async with opened(conninfo, path) as storage:
        samples = samples_on(storage)
        documents = [{"a": number}, {"deep": [{"a": [number, 1, "\x00"]}]}]
        for document in documents:
            made = await samples.create(NewSample(name=str(uuid4()), document=document, anything=number))
            (many,) = await samples.create_many([NewSample(name=str(uuid4()), document=document, anything=number)])
            changed = await samples.update(made.id, document=document, anything=number)
            patched = await samples.patch(made.id, document=document)
            for row in (made, many, changed, patched):
                assert shown(row.document) == shown(document)
                assert shown(row.anything) == shown(number)
            assert await samples.count({"document__contains": document, "id": made.id}) == 1
            assert await samples.count({"anything__in": [number], "id": made.id}) == 1


@pytest.mark.parametrize(
    ("column", "value"), [("number", 2**31), ("small", 2**15), ("domain", "x" * 100), ("big", 2**63), ("big", 2**70)]
)
async def test_what_one_way_refuses_every_way_refuses_with_the_packages_own_error(
    conninfo: str, admin: psycopg.Connection, path: str, column: str, value: Any
) -> None:
    new = NewSample(name="refused", **{column: value})
    async with opened(conninfo, path) as storage:
        there = await samples_on(storage).create(NewSample(name="there"))

        async def in_a_batch(method: str, *args: Any) -> None:
            async with storage.batch() as batch:
                batch.add(getattr(samples_on(batch), method), *args)

        ways: list[Callable[[], Awaitable[Any]]] = [
            lambda: samples_on(storage).create(new),
            lambda: samples_on(storage).create_many([new]),
            lambda: samples_on(storage).create_many([new, *(NewSample(name=str(n)) for n in range(1001))]),
            lambda: samples_on(storage).upsert(new),
            lambda: samples_on(storage).update(there.id, **{column: value}),
            lambda: in_a_batch("create", new),
            lambda: in_a_batch("create_many", [new]),
        ]
        for way in ways:
            with pytest.raises(InvalidValue) as caught:
                await way()
            assert caught.value.outcome == "not kept"
        assert names(admin) == ["there"]
