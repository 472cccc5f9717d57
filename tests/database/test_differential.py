"""Random sequences of calls on every path to the database: the same results, the same errors, the same table.

The table has a column of every type that `storage check` admits. A model in Python says what it must hold: what comes
back, and what is there in the end, is exactly what was given.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

import psycopg
import psycopg_pool
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from psycopg.conninfo import make_conninfo

from agent_storage import Page, Repository, Storage, StorageError, sync
from agent_storage.database.pool import Database
from agent_storage.maintenance.check import check
from agent_storage.statements import statement
from agent_storage.statements.lists import Found
from agent_storage.statements.records import MAINTAINED, Input, Json, Jsonb, JsonObject, Record, Timestamp, columns
from tests.database.test_storm import done, entered

COLUMNS = """
    id uuid PRIMARY KEY DEFAULT uuid_v7(),
    name text NOT NULL UNIQUE,
    data jsonb NOT NULL DEFAULT '{}',
    of_uuid uuid, of_text text, of_varchar varchar, of_char bpchar, of_json json, of_jsonb jsonb, of_bool bool,
    of_bytea bytea, of_int2 int2, of_int4 int4, of_int8 int8, of_float4 float4, of_float8 float8, of_numeric numeric,
    of_float numeric, of_moment timestamptz, of_date date, of_time time, of_interval interval,
    texts text[] NOT NULL DEFAULT '{}', ints int4[], uuids uuid[], moments timestamptz[], floats float8[], bools bool[],
    blobs bytea[], days date[], numbers numeric[], spans interval[],
    created_at timestamptz NOT NULL DEFAULT now(), updated_at timestamptz NOT NULL DEFAULT now()
"""
#: A result with a type that only its text form is known of comes as text as a whole; without one it comes binary.
ODD_COLUMNS = "of_enum mood, of_domain word,"
TYPES = """
    CREATE TYPE mood AS ENUM ('calm', 'wild', 'a, "b\\');
    CREATE DOMAIN word AS text CHECK (length(VALUE) < 20);
"""
TABLES = f"""
    CREATE TABLE everything ({COLUMNS});
    CREATE TABLE everything_odd ({ODD_COLUMNS} {COLUMNS});
    CREATE TRIGGER set_timestamp BEFORE UPDATE ON everything
        FOR EACH ROW EXECUTE FUNCTION trigger_set_timestamp();
    CREATE TRIGGER set_timestamp BEFORE UPDATE ON everything_odd
        FOR EACH ROW EXECUTE FUNCTION trigger_set_timestamp();
"""


class NewThing(Input):
    name: str
    data: Jsonb[JsonObject] = {}
    of_uuid: UUID | None = None
    of_text: str | None = None
    of_varchar: str | None = None
    of_char: str | None = None
    of_json: Jsonb[Json] | None = None
    of_jsonb: Jsonb[Json] | None = None
    of_bool: bool | None = None
    of_bytea: bytes | None = None
    of_int2: int | None = None
    of_int4: int | None = None
    of_int8: int | None = None
    of_float4: float | None = None
    of_float8: float | None = None
    of_numeric: Decimal | None = None
    of_float: float | None = None
    of_moment: Timestamp | None = None
    of_date: date | None = None
    of_time: time | None = None
    of_interval: timedelta | None = None
    texts: list[str] = []
    ints: list[int | None] | None = None
    uuids: list[UUID] | None = None
    moments: list[Timestamp] | None = None
    floats: list[float] | None = None
    bools: list[bool | None] | None = None
    blobs: list[bytes] | None = None
    days: list[date] | None = None
    numbers: list[Decimal] | None = None
    spans: list[timedelta] | None = None


class Thing(Record, NewThing):
    pass


class NewOddThing(NewThing):
    of_enum: str | None = None
    of_domain: str | None = None


class OddThing(Record, NewOddThing):
    pass


class Things(Repository[Thing, NewThing]):
    table = "everything"
    natural_key = ("name",)


class SyncThings(sync.Repository[Thing, NewThing]):
    table = "everything"
    natural_key = ("name",)


class OddThings(Repository[OddThing, NewOddThing]):
    table = "everything_odd"
    natural_key = ("name",)


class SyncOddThings(sync.Repository[OddThing, NewOddThing]):
    table = "everything_odd"
    natural_key = ("name",)


# ---- values ----

TEXTS = st.sampled_from(["", "a", "b", "A%", "a_b\\", '{"NULL"}', "\x00", "\x1a0000", "\ud800", " ä 東 "]) | st.text(
    st.characters(codec=None), max_size=12
)
MOMENTS = st.datetimes(
    datetime(1, 1, 3),  # noqa: DTZ001
    datetime(9999, 12, 28),  # noqa: DTZ001
    timezones=st.sampled_from(
        [UTC, timezone(timedelta(hours=5, minutes=45, seconds=28)), timezone(-timedelta(hours=23))]
    ),
)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from([1, 1.0, 1e16, 1e300, "a"])
    | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc") | TEXTS, inner, max_size=3),
    max_leaves=6,
)
OBJECTS = st.dictionaries(st.sampled_from("abc") | TEXTS, JSON, max_size=3)
FLOATS = st.sampled_from([0.0, -0.0, 1.5, math.nan, math.inf, -math.inf, 1e16, 5e-324]) | st.floats()
NUMBERS = st.sampled_from([Decimal("1.10"), Decimal("1E+5"), Decimal("-0"), Decimal(1)]) | st.decimals(
    -(10**30), 10**30, allow_nan=False, places=9
)
DAYS = st.sampled_from([date.min, date.max, date(2026, 2, 28)]) | st.dates()
SPANS = st.sampled_from([timedelta(0), timedelta(microseconds=-1), timedelta(days=-1, seconds=5)]) | st.timedeltas(
    timedelta(days=-(10**6)), timedelta(days=10**6)
)


def lists(items: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    return st.lists(items, max_size=4)


LISTED = {"texts", "ints", "uuids", "moments", "floats", "bools", "blobs", "days", "numbers", "spans"}
#: For each column values that it holds, and in few places one that it does not.
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "data": OBJECTS,
    "of_uuid": st.uuids(),
    "of_text": TEXTS,
    "of_varchar": TEXTS,
    "of_char": TEXTS,
    "of_json": JSON,
    "of_jsonb": JSON,
    "of_bool": st.booleans(),
    "of_bytea": st.binary(max_size=12),
    "of_int2": st.sampled_from([0, 1, 2**15]) | st.integers(-(2**15), 2**15 - 1),
    "of_int4": st.sampled_from([0, 1, 2**31 - 1]) | st.integers(-(2**31), 2**31 - 1),
    "of_int8": st.sampled_from([0, 1, 2**63, -(2**63)]) | st.integers(-(2**63), 2**63 - 1),
    "of_float4": st.sampled_from([0.0, -0.0, 1.5, 1e39, math.nan]) | st.floats(width=32),
    "of_float8": FLOATS,
    "of_numeric": NUMBERS,
    "of_float": FLOATS.map(lambda value: value or 0.0),  # numeric has one zero
    "of_moment": MOMENTS,
    "of_date": DAYS,
    "of_time": st.times(),
    "of_interval": SPANS,
    "texts": lists(TEXTS),
    "ints": lists(st.none() | st.integers(-(2**31), 2**31 - 1)),
    "uuids": lists(st.uuids()),
    "moments": lists(MOMENTS),
    "floats": lists(FLOATS),
    "bools": lists(st.none() | st.booleans()),
    "blobs": lists(st.binary(max_size=5)),
    "days": lists(DAYS),
    "numbers": lists(NUMBERS),
    "spans": lists(SPANS),
    "of_enum": st.sampled_from(["calm", "wild", "no mood"]),
    "of_domain": st.sampled_from(["a", "", "much too long for this domain"]) | st.text(max_size=8),
}
#: Ids that callers give: the numbers up to this.
MOST = 5
IDS = st.integers(1, MOST).map(lambda number: UUID(int=number))
NAMES = st.sampled_from(["a", "b", "c", "d", "e", "f", "g", "\x00", "\ud83d"])


# ---- calls ----


@dataclass(frozen=True)
class Call:
    """A method and what it is given. `of_batch` are the calls of a batch."""

    method: str
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] | None = None


@st.composite
def some(draw: st.DrawFn, names: list[str], least: int = 0) -> dict[str, Any]:
    """A few columns, and values for them."""
    chosen = draw(st.lists(st.sampled_from(names), min_size=least, max_size=4, unique=True))
    return {name: draw(VALUES[name]) for name in chosen}


@st.composite
def filters(draw: st.DrawFn, names: list[str]) -> dict[str, Any]:
    where: dict[str, Any] = {}
    for name in draw(st.lists(st.sampled_from([name for name in names if name != "of_json"]), max_size=2)):
        value, path = VALUES[name], ""
        if name in ("data", "of_jsonb"):
            path = draw(st.sampled_from(["", "__a", "__a__b"]))
            value = JSON.filter(lambda item: item is not None)
            hows = ["eq", "ne", "gt", "lte", "in", "not_in", "contains", *(["like"] if path else [])]
        elif name in LISTED:
            hows = ["contains", "overlaps", "eq", "ne"]
        else:
            hows = ["eq", "ne", "lt", "gte", "in", "not_in"]
            hows += ["like", "ilike"] if name in ("of_text", "of_varchar", "of_char", "of_domain") else []
        how = draw(st.sampled_from([*hows, "is_null"]))
        if how == "is_null":
            value = st.booleans()
        elif how in ("in", "not_in"):
            value = lists(value)
        elif how in ("like", "ilike"):
            value = st.sampled_from(["a%", "%", "_", "\x00%", "A\\%"])
        where[f"{name}{path}__{how}"] = draw(value)
    return where


def fields(new: type[NewThing]) -> list[str]:
    return [name for name in VALUES if name in columns(new)]


def first_rows(new: type[NewThing]) -> st.SearchStrategy[Call]:
    """What makes the rows that other calls find; the table may refuse one of them, and so all."""

    def call(contents: list[dict[str, Any]]) -> Call:
        return Call(
            "create_many", ([new(id=UUID(int=n), name="abcd"[n - 1], **row) for n, row in enumerate(contents, 1)],)
        )

    return st.lists(some(fields(new)), min_size=1, max_size=4).map(call)


def calls(new: type[NewThing]) -> st.SearchStrategy[Call]:
    """Any call, with rows of the class `new`."""
    names = fields(new)
    # The database makes the id, or it is one of a few.
    row = st.builds(lambda own, name, others: new(id=own, name=name, **others), st.none() | IDS, NAMES, some(names))
    where, ids, change = filters(names), st.lists(IDS, max_size=4), some(names, least=1)
    merged = st.fixed_dictionaries({"data": OBJECTS}, optional={"of_jsonb": OBJECTS})
    ordered = [name for name in names if name not in {*LISTED, "data", "of_json", "of_jsonb"}]
    order = st.lists(st.sampled_from([*ordered, *(f"-{name}" for name in ordered)]), min_size=1, max_size=2)
    listing = st.fixed_dictionaries({"where": where, "order_by": order})

    def call(method: str, *args: st.SearchStrategy[Any], by_name: Any = None) -> st.SearchStrategy[Call]:
        return st.builds(Call, st.just(method), st.tuples(*args), st.just({}) if by_name is None else by_name)

    single = st.one_of(
        call("create", row),
        call("create", row),
        call("_insert_or_update", row),
        call("create_many", st.lists(row, max_size=4)),
        call("update", IDS, by_name=change),
        call("patch", IDS, by_name=merged),
        call("get", IDS),
        call("require", IDS),
        call("delete", IDS),
        call("count", where),
        call("find", by_name=listing),
    )
    return st.one_of(
        single,
        single,
        call("batch", st.lists(single, max_size=5)),
        call("create_many", st.lists(row, max_size=9)),
        call("upsert", row),
        call("update_many", ids, change),
        call("find", by_name=listing.map(lambda given: {**given, "limit": 2, "offset": 1, "total": True})),
        call("page", by_name=listing),
        call("stream", by_name=listing),
        call("delete_many", ids),
        call("delete_where", where.filter(bool)),
    )


# ---- paths ----


@dataclass
class Path:
    """A way to the database, to a table of its own. With `inside` each call is made in a transaction of its own."""

    name: str
    storage: Any
    repository: Any
    inside: bool = False

    async def run(self, call: Call) -> Any:
        """The result of a call, or its error."""
        try:
            if not self.inside:
                return await self._run(self.storage, call)
            async with entered(self.storage.transaction()) as tx:
                return await self._run(tx, call)
        except StorageError as error:
            return error

    async def _run(self, runner: Any, call: Call) -> Any:
        things, kwargs = self.repository(runner), call.kwargs or {}
        if call.method == "batch":
            async with entered(runner.batch()) as batch:
                on = self.repository(batch)
                added = [batch.add(getattr(on, one.method), *one.args, **(one.kwargs or {})) for one in call.args[0]]
            return [later.result for later in added]
        if call.method == "page":
            return [page async for page in pages(things, kwargs)]
        if call.method == "stream":
            async with entered(things.stream(**kwargs)) as rows:
                return [row async for row in rows] if hasattr(rows, "__aiter__") else list(rows)
        return await done(getattr(things, call.method)(*call.args, **kwargs))


async def pages(things: Any, kwargs: dict[str, Any]) -> AsyncIterator[Page[Any]]:
    """The first pages, of two rows each."""
    cursor = None
    for _ in range(10):
        page = await done(things.page(**kwargs, limit=2, cursor=cursor, total=True))
        yield page
        if (cursor := page.next_cursor) is None:
            return


def shown(value: Any) -> Any:
    """A result or an error in a form that is equal where nobody could tell two of them apart.

    Ids that the database made, and moments that its clock gave, differ. A moment is the same in any time zone.
    """
    match value:
        case StorageError():
            text = re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}", lambda found: str(_id(UUID(found[0]))), str(value))
            known = (value.table, value.column, value.constraint, value.sqlstate, value.statement, value.outcome)
            return (type(value).__name__, text, *known)
        case Record():
            clock = {"created_at", "updated_at"}
            given_ = {name: shown(item) for name, item in value.__dict__.items() if name not in {"id", *clock}}
            return type(value).__name__, _id(value.id), given_
        case Page():
            return [shown(value.items), value.total, value.next_cursor is None]
        case Found():
            return [[shown(item) for item in value], value.total]
        case list():
            return [shown(item) for item in value]
        case datetime():
            return value.astimezone(UTC).isoformat()
        case _:
            return repr(value)


def _id(id_: UUID) -> UUID | str:
    return id_ if id_.int <= MOST else "an id that the database made"


# ---- what the table must hold ----


def same(a: Any, b: Any) -> bool:
    """Exactly equal: of one type, the sign of zero and NaN included; a moment is the same in any time zone."""
    if type(a) is not type(b):
        return False
    match a:
        case float():
            return (a == b and math.copysign(1, a) == math.copysign(1, b)) or (math.isnan(a) and math.isnan(b))
        case list():
            return len(a) == len(b) and all(map(same, a, b))
        case _:
            return bool(a == b)


def same_json(a: Any, b: Any) -> bool:
    """Equal documents, whole numbers and floats kept apart. JSON has one zero of each."""
    if type(a) is not type(b):
        return False
    match a:
        case list():
            return len(a) == len(b) and all(map(same_json, a, b))
        case dict():
            return a.keys() == b.keys() and all(same_json(item, b[key]) for key, item in a.items())
        case _:
            return bool(a == b)


def differences(row: Any, expected: dict[str, Any]) -> list[str]:
    """The fields of a row that are not what they must be."""
    made_by_the_database = {name for name in MAINTAINED if expected[name] is None}
    return [
        f"{name}: {expected[name]!r} was given and {getattr(row, name)!r} came back"
        for name, column in columns(type(row)).items()
        if name in expected and name not in made_by_the_database
        if not (same_json if column.json else same)(getattr(row, name), expected[name])
    ]


def merged(target: Any, patch: Any) -> Any:
    """What `patch` makes of a document."""
    if not (isinstance(target, dict) and isinstance(patch, dict)):
        return patch
    return {**target, **{key: merged(target.get(key), item) for key, item in patch.items()}}


class Model:
    """The table, by name, as the calls that succeeded have made it."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[str, Any]] = {}

    def _with(self, ids: list[UUID]) -> list[dict[str, Any]]:
        return [row for row in self.rows.values() if row["id"] in ids]

    def apply(self, call: Call, matched: list[str]) -> None:
        """`matched` are the names of the rows that the call's filter found."""
        args, kwargs = call.args, call.kwargs or {}
        match call.method:
            case "create" | "upsert" | "_insert_or_update":
                self._put(args[0])
            case "create_many":
                for new in args[0]:
                    self._put(new)
            case "update":
                self._with([args[0]])[0].update(kwargs)
            case "update_many":
                for row in self._with(args[0]):
                    row.update(args[1])
            case "patch":
                (row,) = self._with([args[0]])
                row.update({name: merged({} if row[name] is None else row[name], kwargs[name]) for name in kwargs})
            case "delete" | "delete_many":
                for row in self._with(args[0] if isinstance(args[0], list) else [args[0]]):
                    del self.rows[row["name"]]
            case "delete_where":
                for name in matched:
                    del self.rows[name]
            case "batch":
                for one in args[0]:
                    self.apply(one, [])
            case _:
                pass

    def _put(self, new: NewThing) -> None:
        before = self.rows.get(new.name)
        given = {name: getattr(new, name) for name in new.model_fields_set - {"id"}}
        self.rows[new.name] = {**before, **given} if before else dict(new.__dict__)

    def check(self, result: Any) -> None:
        """Every row of a result is as it must be."""
        for row in result if isinstance(result, list) else [result]:
            if isinstance(row, Page):
                self.check(row.items)
            elif isinstance(row, Record):
                assert not differences(row, self.rows[row.name])  # type: ignore[attr-defined]


async def compare(paths: list[Path], sequence: list[Call]) -> None:
    """Run a sequence on every path."""
    first, model = paths[0], Model()
    for call in sequence:
        matched = []
        if call.method == "delete_where":
            with suppress(StorageError):
                matched = [row.name for row in await done(first.repository(first.storage).find(*call.args))]
        results = [await path.run(call) for path in paths]
        for path, result in zip(paths, results, strict=True):
            assert shown(result) == shown(results[0]), f"{call} on the paths {path.name} and {first.name}"
        if not isinstance(results[0], StorageError):
            model.apply(call, matched)
            if call.method != "batch":
                model.check(results[0])
    for path in paths:
        rows = await path.run(Call("stream"))
        assert {row.name for row in rows} == set(model.rows), path.name
        for row in rows:
            assert not differences(row, model.rows[row.name]), path.name


# ---- the tests ----


@dataclass
class Everywhere:
    """All paths, and the event loop that they live in."""

    runner: asyncio.Runner
    paths: list[Path]
    admin: psycopg.Connection[Any]
    new: type[NewThing]

    def compare(self, sequence: list[Call]) -> None:
        """Run a sequence on every path, on empty tables."""
        for number, path in enumerate(self.paths):
            self.admin.execute(f"DELETE FROM path_{number}.{path.repository.table}")
        self.runner.run(compare(self.paths, sequence))


async def opened(stack: AsyncExitStack, conninfo: str, repository: Any, sync_repository: Any) -> list[Path]:
    """Every path, each on a schema of its own."""
    paths: list[Path] = []

    def url(**options: str) -> str:
        options = {"search_path": f"path_{len(paths)},public", **options}
        return make_conninfo(conninfo, options=" ".join(f"-c {name}={value}" for name, value in options.items()))

    for name, given_ in {
        "prepared": {"multiplex": 0},
        "multiplexed": {"multiplex": 2},
        "unprepared": {"prepare": False},
        "in a transaction": {"multiplex": 0},
        "in a transaction, unprepared": {"prepare": False},
    }.items():
        storage = await stack.enter_async_context(Storage(url(), pool_max=2, **given_))
        paths.append(Path(name, storage, repository, inside=name.startswith("in a transaction")))
    paths.append(Path("sync", stack.enter_context(sync.Storage(url())), sync_repository))
    # In another time zone, and with cursors that psycopg prepares.
    own = psycopg_pool.AsyncConnectionPool(url(TimeZone="America/St_Johns"), min_size=1, max_size=2, open=False)
    await stack.enter_async_context(own)
    paths.append(Path("own pool", Storage(conninfo)._on(Database.over(own)), repository))
    for path in paths:  # pools connect in the background
        assert await done(path.repository(path.storage).count()) == 0
    return paths


@pytest.fixture(params=["binary", "text"])
def everywhere(migrated: str, request: pytest.FixtureRequest) -> Iterator[Everywhere]:
    repository, sync_repository = (Things, SyncThings) if request.param == "binary" else (OddThings, SyncOddThings)
    with psycopg.connect(migrated, autocommit=True) as admin, asyncio.Runner() as runner:
        admin.execute(TYPES)
        for number in range(7):
            admin.execute(f"CREATE SCHEMA path_{number}; SET search_path = path_{number}, public; {TABLES}")
        stack = AsyncExitStack()
        try:
            paths = runner.run(opened(stack, migrated, repository, sync_repository))
            yield Everywhere(runner, paths, admin, repository.new)
        finally:
            runner.run(stack.aclose())


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few rows already are too many for one statement."""
    monkeypatch.setattr(statement, "UNDIVIDED", 5)
    monkeypatch.setattr(statement, "CHUNK", 2)


def test_the_table_has_what_the_records_say(migrated: str) -> None:
    with psycopg.connect(migrated, autocommit=True) as connection:
        connection.execute(TYPES + TABLES)
        found = check(connection, [Things, OddThings, SyncThings, SyncOddThings])  # type: ignore[list-item]
        assert [one for one in found if not any(rule in one.message for rule in ("description", "admit"))] == []


@pytest.mark.usefixtures("few")
def test_what_a_caller_sees_does_not_depend_on_the_path_of_its_call(everywhere: Everywhere) -> None:
    @settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
    @given(first_rows(everywhere.new), st.lists(calls(everywhere.new), min_size=1, max_size=9))
    def compared(first: Call, sequence: list[Call]) -> None:
        everywhere.compare([first, *sequence])

    compared()


def test_many_rows_are_made_alike(everywhere: Everywhere) -> None:
    refused = {"of_int2", "of_int8", "of_float4", "of_enum", "of_domain"}  # now and then: then nothing is made
    names = [name for name in fields(everywhere.new) if name not in refused]

    @settings(max_examples=2, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate])
    @given(st.lists(some(names), min_size=40, max_size=40))
    def compared(rows: list[dict[str, Any]]) -> None:
        news = [everywhere.new(name=f"{turn} {at}", **row) for turn in range(26) for at, row in enumerate(rows)]
        assert len(news) > statement.UNDIVIDED
        everywhere.compare([Call("create_many", (news,)), Call("count", ({},))])

    compared()


@pytest.mark.parametrize("number", [69614048.0, float.fromhex("0x1.99999ap-4")])
def test_a_float4_is_the_number_that_was_given_whatever_stands_beside_it(everywhere: Everywhere, number: float) -> None:
    everywhere.compare([Call("create", (everywhere.new(name="a", of_float4=number),))])
