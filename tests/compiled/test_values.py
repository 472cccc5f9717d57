"""Each kind of value through the compiled path and through psycopg's cursor: the same comes back."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any, ClassVar
from uuid import UUID, uuid4

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import sql
from psycopg.conninfo import make_conninfo

from agent_storage import sync
from agent_storage.compiled.parameters import Unsuitable, encoding
from agent_storage.connection.rows import Codec
from agent_storage.connection.text import JsonText, encode_json, register
from agent_storage.statement import Shape, Statement
from agent_storage.sync.compiled.wire import Wire
from agent_storage.sync.database import Attached
from agent_storage.types import NewConversation

MOMENTS = st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30), timezones=st.just(UTC))  # noqa: DTZ001
TEXTS = st.text(st.characters(codec=None), max_size=40)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)
#: PostgreSQL's type, and values that the repositories send for it.
KINDS: dict[str, st.SearchStrategy[Any]] = {
    "uuid": st.uuids(),
    "text": TEXTS,
    "varchar": TEXTS,
    "jsonb": JSON.map(lambda value: encode_json(value, limit=10**6)),
    "bool": st.booleans(),
    "bytea": st.binary(max_size=40),
    "int2": st.integers(-(2**15), 2**15 - 1),
    "int4": st.integers(-(2**31), 2**31 - 1),
    "int8": st.integers(-(2**63), 2**63 - 1),
    "numeric": st.decimals(allow_nan=False, allow_infinity=False, places=6) | st.integers(),
    "float8": st.floats(),
    "timestamptz": MOMENTS,
}
WITH_ARRAYS = [name for name in KINDS if name not in {"numeric", "float8"}]


class Both:
    """One connection, its wire and its cursor."""

    statements: ClassVar[dict[str, Statement[Any]]] = {}

    def __init__(self, conninfo: str) -> None:
        self.connection = psycopg.connect(conninfo, autocommit=True, prepare_threshold=None)
        self.cursor = Attached(self.connection)
        register(self.connection)
        self.wire = Wire(self.connection)
        self.codec = Codec()

    def statement(self, kind: str) -> Statement[Any]:
        text = sql.SQL("SELECT $1::{} AS value").format(sql.SQL(kind)).as_string()  # type: ignore[arg-type]
        return self.statements.setdefault(kind, Statement("test.echo", text, Shape("one", Any), table="test"))

    def echo(self, kind: str, value: Any) -> tuple[Any, Any]:
        """What comes back: over the wire, and through the cursor."""
        statement = self.statement(kind)
        return self.wire.run(statement, [value], self.codec), self.cursor.run(statement, [value])


@pytest.fixture
def both(migrated: str) -> Iterator[Both]:
    both = Both(migrated)
    with both.connection:
        yield both


def same(a: Any, b: Any) -> bool:
    if isinstance(a, float) and isinstance(b, float) and math.isnan(a):
        return math.isnan(b)
    return type(a) is type(b) and a == b


@pytest.mark.parametrize("kind", KINDS)
def test_a_value_comes_back_as_the_cursor_gives_it(both: Both, kind: str) -> None:
    @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.none() | KINDS[kind])
    def check(value: Any) -> None:
        wire, cursor = both.echo(kind, value)
        assert same(wire, cursor)
        if not isinstance(value, JsonText):
            assert same(wire, value) or wire == value

    check()


@pytest.mark.parametrize("kind", WITH_ARRAYS)
def test_an_array_comes_back_as_the_cursor_gives_it(both: Both, kind: str) -> None:
    @settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(st.none() | KINDS[kind], max_size=8))
    def check(values: list[Any]) -> None:
        wire, cursor = both.echo(f"{kind}[]", values)
        assert wire == cursor

    check()


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("int4", 2**31),
        ("int4", True),
        ("int4", "7"),
        ("int8", 1.5),
        ("text", b"bytes"),
        ("uuid", str(uuid4())),
        ("bool", 1),
        ("bytea", "text"),
        ("jsonb", "{}"),
        ("numeric", Decimal("NaN")),
        ("numeric", 1.5),
        ("float8", 3),
        ("timestamptz", datetime(2026, 1, 1)),  # noqa: DTZ001
        ("timestamptz", "2026-01-01"),
        ("uuid[]", (UUID(int=1),)),
        ("uuid[]", ["x"]),
        ("int4[]", [[1]]),
        ("interval", timedelta(1)),
    ],
)
def test_a_value_of_an_unusual_type_is_left_to_the_cursor(kind: str, value: Any) -> None:
    array = kind.endswith("[]")
    info = psycopg.adapters.types[kind.removesuffix("[]")]
    with pytest.raises(Unsuitable):
        encoding(info.array_oid if array else info.oid).encode(value)


def test_a_moment_of_any_zone_is_the_same_moment(both: Both) -> None:
    moment = datetime(2026, 7, 1, 12, 30, 0, 123456, tzinfo=timezone(timedelta(hours=5, minutes=45)))
    wire, cursor = both.echo("timestamptz", moment)
    assert wire == cursor == moment


def test_text_for_a_type_that_is_not_listed_is_parsed_by_the_server(both: Both) -> None:
    assert both.echo("interval", "1 day") == (timedelta(1), timedelta(1))
    assert both.echo("date", "2026-01-02")[0] == datetime(2026, 1, 2).date()  # noqa: DTZ001


def test_a_large_value_goes_there_and_back(both: Both) -> None:
    text = "Märchen " * 2_000_000
    wire, cursor = both.echo("text", text)
    assert wire == cursor == text


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_text_is_utf8_whatever_the_environment_prefers(
    migrated: str, monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    monkeypatch.setenv("PGCLIENTENCODING", encoding)
    for url in (migrated, make_conninfo(migrated, client_encoding=encoding)):
        for compiled in (True, False):
            with sync.Storage.open(url, compiled=compiled) as storage:
                made = storage.conversations.create(NewConversation(title="Ærø, 東京", metadata={"ø": "\x00京"}))
                assert storage.conversations.get(made.id) == made
                assert (made.title, made.metadata) == ("Ærø, 東京", {"ø": "\x00京"})
