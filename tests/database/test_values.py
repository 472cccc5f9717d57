"""Each kind of value through every executor (prepared, unprepared, shared): what comes back equals what went in."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID, uuid4

import orjson
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.conninfo import make_conninfo
from psycopg.pq import Format
from pydantic import BaseModel

from agent_storage import InvalidValue, Storage, StorageError, sync
from agent_storage.database import multiplexed
from agent_storage.statements.statement import Shape, Statement
from agent_storage.statements.text import JsonText, encode_json, escape_all
from agent_storage.statements.types import TYPES, Unusual, encoding, to_json, to_text
from agent_storage.types import NewConversation

from ..conftest import fresh_database
from .test_multiplexer import known

# ---- values ----


def document(value: Any) -> JsonText:
    return encode_json(value, limit=10**6)


TEXTS = st.text(st.characters(codec=None), max_size=40)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)
ZONES = st.builds(timezone, st.timedeltas(timedelta(hours=-23, minutes=-59), timedelta(hours=23, minutes=59)))
#: For each type, the values that it can hold.
KINDS: dict[str, st.SearchStrategy[Any]] = {
    "uuid": st.uuids(),
    "text": TEXTS,
    "varchar": TEXTS,
    "bpchar": TEXTS,
    "json": JSON,
    "jsonb": JSON,
    "bool": st.booleans(),
    "bytea": st.binary(max_size=40),
    "int2": st.integers(-(2**15), 2**15 - 1),
    "int4": st.integers(-(2**31), 2**31 - 1),
    "int8": st.integers(-(2**63), 2**63 - 1),
    "float4": st.floats(width=32),
    "float8": st.floats(),
    "numeric": st.decimals(-(10**30), 10**30, allow_nan=False)
    | st.sampled_from([Decimal(text) for text in ("NaN", "Infinity", "-Infinity", "1E+40", "1E-40")]),
    "timestamptz": st.datetimes(datetime(1, 1, 3), datetime(9999, 12, 29), timezones=ZONES),  # noqa: DTZ001
    "date": st.dates(),
    "time": st.times(),
    "interval": st.timedeltas(),
}
#: What is sent for a value, where it is not the value itself.
SENT: dict[str, Callable[[Any], Any]] = {"json": document, "jsonb": document}
#: Types that the table does not have. A row with a column of one travels as text.
MOODS = "CREATE TYPE mood AS ENUM ('calm', 'wild'); CREATE DOMAIN short AS text CHECK (length(VALUE) < 100)"


def sent(kind: str, value: Any) -> Any:
    """What an executor is given for a value, or for the list of an array."""
    if kind.endswith("[]"):
        return [None if item is None else sent(kind.removesuffix("[]"), item) for item in value]
    return SENT.get(kind, lambda same: same)(value)


def same(a: Any, b: Any) -> bool:
    """Equal, and of equal types at any depth."""
    if type(a) is not type(b):
        return False
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (float, Decimal)) and math.isnan(a):
        return math.isnan(b)
    return a == b


# ---- executors ----


class Pair(BaseModel):
    value: Any
    mood: str


class Echo(NamedTuple):
    """Statements that give one parameter of a type back: alone, beside a column that no table knows, out of JSON."""

    alone: Statement[Any]
    beside: Statement[Pair]
    from_json: Statement[Any]

    @classmethod
    def of(cls, kind: str) -> Echo:
        def statement(name: str, text: str, item: Any) -> Statement[Any]:
            return Statement(f"test.{name}", text, Shape("one", item), table="test", repeatable=True)

        return cls(
            statement("alone", f"SELECT $1::{kind} AS value", Any),
            statement("beside", f"SELECT $1::{kind} AS value, 'calm'::mood AS mood", Pair),
            statement("from_json", f"SELECT value FROM jsonb_to_recordset($1) AS rows(value {kind})", Any),
        )


class Executors:
    """The three ways of one database."""

    def __init__(self, conninfo: str) -> None:
        self._runner = asyncio.Runner()
        self._unshared = [sync.Storage(conninfo, pool_max=1, prepare=prepare) for prepare in (True, False)]
        for storage in self._unshared:
            storage.connect()
        self._shared = self._runner.run(Storage(conninfo, pool_max=1, multiplex=1).connect())

    def close(self) -> None:
        for storage in self._unshared:
            storage.close()
        self._runner.run(self._shared.close())
        self._runner.close()

    def run(self, statement: Statement[Any], *values: Any) -> list[Any]:
        """What comes back: prepared, unprepared, shared. An error is one, too."""

        def settled(run: Callable[[], Any]) -> Any:
            try:
                return run()
            except StorageError as error:
                return error

        return [
            *(settled(lambda one=one: one.database.run(statement, values)) for one in self._unshared),
            settled(lambda: self._runner.run(self._shared.database.run(statement, values))),
        ]

    def share(self, *statements: Statement[Any]) -> None:
        """Let the shared connection know the statements, so that none of their calls goes to the pool."""
        for one in statements:
            call = {one.name.split(".")[1]: lambda one=one: self._shared.database.run(one, [None])}
            self._runner.run(known(self._shared, **call))


@pytest.fixture(scope="module")
def conninfo(server_conninfo: str) -> Iterator[str]:
    with fresh_database(server_conninfo) as conninfo:
        with psycopg.connect(conninfo) as admin:
            admin.execute(MOODS)
        yield conninfo


@pytest.fixture
def executors(conninfo: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Executors]:
    monkeypatch.setattr(multiplexed, "LIMIT", 60.0)  # a busy machine sends no call to the pool either
    executors = Executors(conninfo)
    yield executors
    executors.close()


def examples(number: int) -> settings:
    return settings(max_examples=number, deadline=None, suppress_health_check=list(HealthCheck))


# ---- what goes in comes out ----


def test_every_type_of_the_table_is_tried() -> None:
    assert set(KINDS) == {one.name for one in TYPES}


@pytest.mark.parametrize("kind", KINDS)
def test_a_value_comes_back_as_it_went_in(executors: Executors, kind: str) -> None:
    echo = Echo.of(kind)
    executors.share(echo.alone)

    @examples(100)
    @given(KINDS[kind])
    def check(value: Any) -> None:
        for found in executors.run(echo.alone, sent(kind, value)):
            assert same(found, value)
        for pair in executors.run(echo.beside, sent(kind, value)):
            assert same(pair.value, value)

    check()
    assert executors.run(echo.alone, None) == [None] * 3


@pytest.mark.parametrize("kind", KINDS)
def test_an_array_comes_back_as_it_went_in(executors: Executors, kind: str) -> None:
    echo = Echo.of(f"{kind}[]")
    executors.share(echo.alone)

    @examples(50)
    @given(st.lists(st.none() | KINDS[kind].filter(lambda value: value is not None), max_size=8))
    def check(values: list[Any]) -> None:
        for found in executors.run(echo.alone, sent(f"{kind}[]", values)):
            assert same(found, values)
        for pair in executors.run(echo.beside, sent(f"{kind}[]", values)):
            assert same(pair.value, values)

    check()


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("int4[]", [[1, 2], [3, 4]]),
        ("text[]", [["a", 'quoted " and \\'], [None, "{,} NULL"]]),
        ("text[]", ["NULL", "null", "", " ", "a,b", "\x00", None]),
        ("uuid[]", [[UUID(int=1)], [UUID(int=2)]]),
        ("timestamptz[]", [[datetime(2026, 1, 1, tzinfo=UTC)]]),
    ],
)
def test_an_array_of_several_dimensions_or_of_odd_texts_comes_back_too(
    executors: Executors, kind: str, value: Any
) -> None:
    assert executors.run(Echo.of(kind).alone, value) == [value] * 3


def test_a_moment_of_any_zone_is_the_same_moment(executors: Executors) -> None:
    echo = Echo.of("timestamptz")
    for offset in (timedelta(hours=5, minutes=45), timedelta(hours=-16), timedelta(minutes=53, seconds=28)):
        moment = datetime(2026, 7, 1, 12, 30, 0, 123456, tzinfo=timezone(offset))
        for given_ in (moment, to_text(moment)):
            assert executors.run(echo.alone, given_) == [moment] * 3


def test_a_large_value_goes_there_and_back(executors: Executors) -> None:
    text = "Märchen " * 1_000_000
    assert executors.run(Echo.of("text").alone, text) == [text] * 3


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("mood", "wild"),
        ("short", "with \x00 and \ud800"),
        ("timestamp", datetime(2026, 1, 2, 3, 4, 5, 678)),  # noqa: DTZ001
        ("interval", "1 day"),
        ("date", "2026-01-02"),
        ("point", "(1,2)"),
        ("int4", "7"),
        ("uuid", str(UUID(int=3))),
        ("bool", 1),
        ("jsonb", '{"a": 1}'),
        ("numeric", 1.5),
        ("numeric", 10**40),
        ("float8", 3),
        ("timestamptz", datetime(2026, 1, 1)),  # noqa: DTZ001
        ("uuid[]", (UUID(int=1),)),
    ],
)
def test_a_value_or_a_type_that_has_no_binary_form_here_travels_as_text_which_the_server_reads(
    executors: Executors, conninfo: str, kind: str, value: Any
) -> None:
    expected = {
        "interval": timedelta(1), "date": date(2026, 1, 2), "int4": 7, "bool": True, "jsonb": {"a": 1},
        "timestamptz": datetime(2026, 1, 1, tzinfo=UTC), "uuid[]": [UUID(int=1)],
    }.get(kind, value)  # fmt: skip
    expected = {"uuid": UUID, "numeric": lambda number: Decimal(str(number)), "float8": float}.get(
        kind, lambda given_: given_
    )(expected)
    with psycopg.connect(conninfo) as connection:
        info = psycopg.types.TypeInfo.fetch(connection, kind.removesuffix("[]"))
    assert info is not None
    encodes = encoding(info.array_oid if kind.endswith("[]") else info.oid)
    if encodes.format == Format.BINARY:
        with pytest.raises(Unusual):
            encodes.encode(value)
    for found in executors.run(Echo.of(kind).alone, value):
        assert same(found, expected)


def test_one_value_that_travels_as_text_takes_the_others_with_it_unharmed(executors: Executors) -> None:
    class All(BaseModel):
        id: UUID
        text: str
        document: Any
        raw: bytes
        names: list[str]
        moment: datetime

    statement: Statement[All] = Statement(
        "test.all",
        "SELECT $1::uuid AS id, $2::text AS text, $3::jsonb AS document, $4::bytea AS raw, $5::text[] AS names,"
        " $6::timestamptz AS moment",
        Shape("one", All),
        table="test",
    )
    row = All(
        id=uuid4(), text="\x00Ø\ud800", document={"\x00": 1e300}, raw=b"\x00\\x", names=["\x00", "{}", '"'],
        moment=datetime(2026, 1, 1, tzinfo=UTC),
    )  # fmt: skip
    for id_ in (row.id, str(row.id)):
        values = (id_, row.text, document(row.document), row.raw, row.names, row.moment)
        assert executors.run(statement, *values) == [row] * 3


# ---- what cannot go in ----


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("int4", 2**31),
        ("int8", 1.5),
        ("int4", "seven"),
        ("int4", True),
        ("uuid", "no id"),
        ("date", "2026-02-30"),
        ("mood", "sad"),
        ("jsonb", "{"),
        ("int4[]", "1, 2"),
        ("numeric", Decimal("1E+200000")),
    ],
)
def test_what_the_type_cannot_hold_is_refused_alike_on_every_path(executors: Executors, kind: str, value: Any) -> None:
    errors = executors.run(Echo.of(kind).alone, value)
    assert [type(error) for error in errors] == [InvalidValue] * 3
    assert len({str(error) for error in errors}) == 1
    assert {error.outcome for error in errors} == {"not kept"}
    assert executors.run(Echo.of("int4").alone, 7) == [7] * 3


@pytest.mark.parametrize("value", [object(), {"a": 1}, {1}, [object()], 1j, lambda: None])
def test_what_has_no_form_in_postgresql_is_refused_before_it_is_sent(executors: Executors, value: Any) -> None:
    for kind in ("int4", "text", "jsonb", "date", "text[]"):
        for error in executors.run(Echo.of(kind).alone, value):
            assert isinstance(error, InvalidValue)
            assert "the parameter $1 of test.alone cannot be sent" in str(error)
    assert executors.run(Echo.of("int4").alone, 7) == [7] * 3


# ---- text and JSON ----


@pytest.mark.parametrize("kind", KINDS)
def test_the_text_form_of_a_value_is_the_value(executors: Executors, kind: str) -> None:
    one, many = Echo.of(kind), Echo.of(f"{kind}[]")

    @examples(60)
    @given(KINDS[kind], st.lists(st.none() | KINDS[kind].filter(lambda value: value is not None), max_size=4))
    def check(value: Any, values: list[Any]) -> None:
        for found in executors.run(one.alone, to_text(sent(kind, value))):
            assert same(found, value)
        for found in executors.run(many.alone, to_text(sent(f"{kind}[]", values))):
            assert same(found, values)

    check()


@pytest.mark.parametrize("kind", KINDS)
def test_the_json_form_of_a_value_is_the_value(executors: Executors, kind: str) -> None:
    def row(value: Any) -> JsonText:
        return JsonText(
            orjson.dumps(escape_all([{"value": to_json(value)}]), default=lambda raw: orjson.Fragment(bytes(raw)))
        )

    there = KINDS[kind].filter(lambda value: value is not None)  # JSON's null stands for SQL's
    one, many = Echo.of(kind), Echo.of(f"{kind}[]")

    @examples(60)
    @given(there, st.lists(st.none() | there, max_size=4))
    def check(value: Any, values: list[Any]) -> None:
        for found in executors.run(one.from_json, row(sent(kind, value))):
            assert same(found, value)
        if kind not in SENT:  # in JSON, a list of documents is a document
            for found in executors.run(many.from_json, row(values)):
                assert same(found, values)

    check()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (True, "t"),
        (-7, "-7"),
        (1e16, "1e+16"),
        (math.inf, "inf"),
        (math.nan, "nan"),
        (Decimal("1.50"), "1.50"),
        (b"\x00\xff", "\\x00ff"),
        (time(1, 2, 3, 4), "01:02:03.000004"),
        (timedelta(days=-1, microseconds=1), "P-1DT0.000001S"),
        (datetime(2026, 1, 1, 12, tzinfo=timezone(timedelta(seconds=28))), "2026-01-01T11:59:32+00:00"),
        ([1, None, [2]], '{"1",NULL,{"2"}}'),
        (['"\\'], '{"\\"\\\\"}'),
    ],
)
def test_what_the_text_form_looks_like(value: Any, text: str) -> None:
    assert to_text(value) == text


def test_json_keeps_what_it_can_hold_and_carries_the_rest_as_text() -> None:
    for value in ("text", True, None, UUID(int=1), 2**63 - 1, JsonText(b"{}"), ["a", None], []):
        assert to_json(value) is value
    for value in (math.inf, Decimal("1.5"), 2**63, b"\x00", time(1), timedelta(1), date(2026, 1, 1), [1.5], [2**70]):
        assert to_json(value) == to_text(value)


# ---- the environment ----


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_text_is_utf8_whatever_the_environment_prefers(
    migrated: str, monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    monkeypatch.setenv("PGCLIENTENCODING", encoding)
    for url in (migrated, make_conninfo(migrated, client_encoding=encoding)):
        for prepare in (True, False):
            with sync.Storage(url, prepare=prepare) as storage:
                made = storage.conversations.create(NewConversation(title="Ærø, 東京", metadata={"ø": "\x00京"}))
                assert storage.conversations.get(made.id) == made
                assert (made.title, made.metadata) == ("Ærø, 東京", {"ø": "\x00京"})
