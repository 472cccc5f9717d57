"""PostgreSQL's types, one row each: which Python types meet it, how a value is encoded, how a loaded one is finished.

Every path takes its encoders from here. A parameter travels in the binary format where the type has a binary encoder
and the value the Python type that goes with it; anything else travels as text (`to_text`), which the server parses with
the type's own input function. So a type that is not in the table (an enum, a domain, `vector`) works too, as text.
A row inside a JSON array (`create_many`) carries what JSON cannot hold exactly in the same text form (`to_json`).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from functools import cache
from operator import attrgetter
from typing import Any, NamedTuple, cast
from uuid import UUID

import psycopg
from psycopg.abc import Buffer
from psycopg.adapt import AdaptersMap
from psycopg.pq import Format
from psycopg.types.datetime import IntervalLoader
from psycopg.types.numeric import FloatLoader
from psycopg.types.string import ByteaBinaryLoader
from pydantic import SecretStr

from agent_storage.statements.text import (
    SUBSTITUTE,
    JsonLoader,
    JsonText,
    TextBinaryLoader,
    TextLoader,
    decode_json,
    encode_text,
    unescape,
    unescape_all,
)

Row = list[Any]
Encode = Callable[[Any], bytes]
#: Finishes one column of loaded rows, in place.
Finish = Callable[[list[Row], int], None]

_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_NULL = b"\xff\xff\xff\xff"


class Unusual(Exception):
    """The value is not of the Python type that goes with the parameter's type: it travels as text."""


def _exactly(kind: type, encode: Callable[[Any], bytes]) -> Encode:
    """Values of one Python type, and of no subclass."""

    def encoder(value: Any) -> bytes:
        if type(value) is kind:
            return encode(value)
        raise Unusual

    return encoder


def _integer(size: int) -> Encode:
    return _exactly(int, lambda value: value.to_bytes(size, signed=True))


def _timestamptz(value: datetime) -> bytes:
    if value.tzinfo is None:
        raise Unusual
    since = value - _EPOCH
    return (since.microseconds + 1_000_000 * (86_400 * since.days + since.seconds)).to_bytes(8, signed=True)


def _array(oid: int, encode: Encode) -> Encode:
    """One-dimensional arrays of the type `oid`, in PostgreSQL's binary form (array_recv in its sources)."""
    head = b"\x00\x00\x00\x01" + b"\x00\x00\x00\x01" + oid.to_bytes(4)
    empty = bytes(8) + oid.to_bytes(4)

    def encode_all(value: Any) -> bytes:
        if type(value) is not list:
            raise Unusual
        items = cast(list[Any], value)
        if not items:
            return empty
        parts = [head, len(items).to_bytes(4), b"\x00\x00\x00\x01"]
        for item in items:
            if item is None:
                parts.append(_NULL)
            else:
                raw = encode(item)
                parts += (len(raw).to_bytes(4), raw)
        return b"".join(parts)

    return encode_all


class _IntervalLoader(IntervalLoader):
    """psycopg's own makes zero of infinity."""

    def load(self, data: Buffer) -> timedelta:
        if b"infinity" in bytes(data):
            raise psycopg.DataError("an interval is infinite")
        return super().load(data)


class _Float4Loader(FloatLoader):
    """The text is the shortest that names a float4; the binary format gives the float4 itself."""

    def load(self, data: Buffer) -> float:
        return struct.unpack("f", struct.pack("f", super().load(data)))[0]


def _loaders() -> AdaptersMap:
    """psycopg's loaders. In text, ours for text, JSON and unknown types; in binary, documents come as bytes."""
    adapters = AdaptersMap(psycopg.adapters)
    for name in (0, "text", "varchar", "bpchar"):
        adapters.register_loader(name, TextLoader)
    adapters.register_loader(0, TextBinaryLoader)
    for name in ("json", "jsonb"):
        adapters.register_loader(name, JsonLoader)
        adapters.register_loader(name, ByteaBinaryLoader)
    adapters.register_loader("interval", _IntervalLoader)
    adapters.register_loader("float4", _Float4Loader)
    return adapters


LOADERS = _loaders()


def _finish_texts(rows: list[Row], place: int) -> None:
    for row in rows:
        text = row[place]
        if text and SUBSTITUTE in text:
            row[place] = unescape(text)


def _finish_each(finish: Callable[[Any], Any]) -> Finish:
    def finish_column(rows: list[Row], place: int) -> None:
        for row in rows:
            value = row[place]
            if value is not None:
                row[place] = finish(value)

    return finish_column


class PgType(NamedTuple):
    """One type: its name in `pg_type`, the Python types that meet it, its binary encoder, what finishes a column."""

    name: str
    python: tuple[type, ...]
    encode: Encode | None = None
    finish: Finish | None = None


TYPES = (
    PgType("uuid", (UUID,), _exactly(UUID, attrgetter("bytes"))),
    PgType("text", (str, SecretStr), _exactly(str, encode_text), _finish_texts),
    PgType("varchar", (str, SecretStr), _exactly(str, encode_text), _finish_texts),
    PgType("bpchar", (str, SecretStr), _exactly(str, encode_text), _finish_texts),
    PgType("json", (), _exactly(JsonText, bytes), _finish_each(decode_json)),
    # The first byte is the version of jsonb's wire format.
    PgType("jsonb", (), _exactly(JsonText, b"\x01".__add__), _finish_each(lambda raw: decode_json(raw[1:]))),
    PgType("bool", (bool,), _exactly(bool, lambda value: b"\x01" if value else b"\x00")),
    PgType("bytea", (bytes,), _exactly(bytes, bytes)),
    PgType("int2", (int,), _integer(2)),
    PgType("int4", (int,), _integer(4)),
    PgType("int8", (int,), _integer(8)),
    PgType("float4", (float,)),
    PgType("float8", (float,)),
    PgType("numeric", (Decimal, float)),
    PgType("timestamptz", (datetime,), _exactly(datetime, _timestamptz)),
    PgType("date", (date,)),
    PgType("time", (time,)),
    PgType("interval", (timedelta,)),
)


@cache
def accepted(python: Any) -> frozenset[str]:
    """Return the names of the types that a Python type may meet; none for one that is not in the table."""
    return frozenset(one.name for one in TYPES if python in one.python)


class Encoding(NamedTuple):
    """The format and the encoder of one parameter."""

    format: Format
    encode: Encode


def _as_text(value: Any) -> bytes:
    return encode_text(to_text(value))


#: A type without a binary encoder, or without a row: the server parses the text.
_AS_TEXT = Encoding(Format.TEXT, _as_text)
_ENCODINGS: dict[int, Encoding] = {}
#: The conversion of a loaded column of a type. Values of other types are used as psycopg's binary loaders return them.
FINISH: dict[int, Finish] = {}
_LOADED: set[int] = {psycopg.adapters.types["oid"].oid}


def _read_table() -> None:
    for one in TYPES:
        info = psycopg.adapters.types[one.name]
        _LOADED.add(info.oid)
        if one.encode is not None:
            _ENCODINGS[info.oid] = Encoding(Format.BINARY, one.encode)
            _ENCODINGS[info.array_oid] = Encoding(Format.BINARY, _array(info.oid, one.encode))
        if one.finish is not None:
            FINISH[info.oid] = one.finish
        if one.finish is None or one.finish is _finish_texts:
            _LOADED.add(info.array_oid)
        if one.finish is _finish_texts:
            FINISH[info.array_oid] = _finish_each(unescape_all)


_read_table()


def encoding(oid: int) -> Encoding:
    """Return how values for a parameter of the type `oid` are encoded."""
    return _ENCODINGS.get(oid, _AS_TEXT)


def loads_binary(oids: Iterable[int]) -> bool:
    """Return whether columns of these types are loaded from the binary format. Of others only the text is known."""
    return _LOADED.issuperset(oids)


def to_text(value: Any) -> str:
    """Return the value as PostgreSQL's input function for its type reads it, not yet escaped.

    Raises `TypeError` for a Python type that has no such form.
    """
    match value:
        case str():
            return str.__str__(value)
        case bool():
            return "t" if value else "f"
        case float():
            return float.__repr__(value)
        case int():
            return int.__repr__(value)
        case Decimal() | UUID():
            return str(value)
        case datetime():
            # In UTC: PostgreSQL takes offsets below 16 hours only.
            return (value if value.tzinfo is None else value.astimezone(UTC)).isoformat()
        case date() | time():
            return value.isoformat()
        case timedelta():
            return f"P{value.days}DT{value.seconds}.{value.microseconds:06}S"  # the same in every IntervalStyle
        case JsonText():
            return value.decode()
        case bytes():
            return f"\\x{value.hex()}"
        case list() | tuple():
            return "{" + ",".join(_element(item) for item in cast(list[Any], value)) + "}"
        case _:
            raise TypeError(f"{type(value).__name__} has no PostgreSQL type")


def _element(value: Any) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, (list, tuple)):
        return to_text(value)
    text = to_text(value).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'


#: The types that orjson writes as PostgreSQL reads them.
_IN_JSON = frozenset({str, bool, type(None), UUID, JsonText})


def to_json(value: Any) -> Any:
    """Return the value for a JSON row: unchanged where JSON holds it exactly, else its text form."""
    kind = cast(Any, type(value))
    if kind in _IN_JSON:
        return value
    if kind is int and -(2**63) <= value < 2**63:
        return value
    if kind is list and _IN_JSON.issuperset(map(type, cast(list[Any], value))):
        return value
    return to_text(value)
