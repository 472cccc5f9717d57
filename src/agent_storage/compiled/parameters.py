"""Parameters as the server wants them: an encoder for each PostgreSQL type, chosen once for a prepared statement.

psycopg chooses by the Python type of each value, at each call. Here the server has said what it wants, so the choice is
made once; a value of another Python type than the usual one is `Unsuitable`, and the call takes psycopg's way.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, NamedTuple, cast
from uuid import UUID

import psycopg
from psycopg.pq import Format

from ..connection.text import JsonText, encode_text


class Unsuitable(Exception):
    """The value is not of the Python type that goes with the parameter's PostgreSQL type."""


class Encoding(NamedTuple):
    """How the values of one PostgreSQL type travel."""

    format: Format
    encode: Callable[[Any], bytes]


_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)


def _uuid(value: Any) -> bytes:
    if type(value) is UUID:
        return value.bytes
    raise Unsuitable


def _text(value: Any) -> bytes:
    if type(value) is str:
        return encode_text(value)
    raise Unsuitable


def _json(value: Any) -> bytes:
    if type(value) is JsonText:
        return value
    raise Unsuitable


def _jsonb(value: Any) -> bytes:
    if type(value) is JsonText:
        return b"\x01" + value  # the version of jsonb's wire format
    raise Unsuitable


def _bool(value: Any) -> bytes:
    if type(value) is bool:
        return b"\x01" if value else b"\x00"
    raise Unsuitable


def _bytes(value: Any) -> bytes:
    if type(value) is bytes:
        return value
    raise Unsuitable


def _integer(size: int) -> Callable[[Any], bytes]:
    """Whole numbers of `size` bytes. What is too large goes psycopg's way, as a wider type: it may only be compared."""

    def encode(value: Any) -> bytes:
        if type(value) is int:
            try:
                return value.to_bytes(size, signed=True)
            except OverflowError:
                pass
        raise Unsuitable

    return encode


def _number(value: Any) -> bytes:
    if type(value) is int or (type(value) is Decimal and value.is_finite()):
        return str(value).encode()
    raise Unsuitable


def _float(value: Any) -> bytes:
    if type(value) is float:
        return repr(value).encode()
    raise Unsuitable


def _timestamptz(value: Any) -> bytes:
    if type(value) is datetime and value.tzinfo is not None:
        since = value - _EPOCH
        return (since.microseconds + 1_000_000 * (86_400 * since.days + since.seconds)).to_bytes(8, signed=True)
    raise Unsuitable


def _array(oid: int, encode: Callable[[Any], bytes]) -> Callable[[Any], bytes]:
    """One-dimensional arrays of the type `oid`, in PostgreSQL's binary form (array_recv in its sources)."""
    head = b"\x00\x00\x00\x01" + b"\x00\x00\x00\x01" + oid.to_bytes(4)
    empty = bytes(8) + oid.to_bytes(4)
    null = b"\xff\xff\xff\xff"

    def encode_all(value: Any) -> bytes:
        if type(value) is not list:
            raise Unsuitable
        items = cast(list[Any], value)
        if not items:
            return empty
        parts = [head, len(items).to_bytes(4), b"\x00\x00\x00\x01"]
        for item in items:
            if item is None:
                parts.append(null)
            else:
                raw = encode(item)
                parts += (len(raw).to_bytes(4), raw)
        return b"".join(parts)

    return encode_all


_SCALARS: dict[str, tuple[Format, Callable[[Any], bytes]]] = {
    "uuid": (Format.BINARY, _uuid),
    "text": (Format.BINARY, _text),
    "varchar": (Format.BINARY, _text),
    "json": (Format.BINARY, _json),
    "jsonb": (Format.BINARY, _jsonb),
    "bool": (Format.BINARY, _bool),
    "bytea": (Format.BINARY, _bytes),
    "int2": (Format.BINARY, _integer(2)),
    "int4": (Format.BINARY, _integer(4)),
    "int8": (Format.BINARY, _integer(8)),
    "timestamptz": (Format.BINARY, _timestamptz),
    "numeric": (Format.TEXT, _number),
    "float8": (Format.TEXT, _float),
}


def _encodings() -> dict[int, Encoding]:
    found: dict[int, Encoding] = {}
    for name, (format_, encode) in _SCALARS.items():
        info = psycopg.adapters.types[name]
        found[info.oid] = Encoding(format_, encode)
        if format_ == Format.BINARY:
            found[info.array_oid] = Encoding(Format.BINARY, _array(info.oid, encode))
    return found


_ENCODINGS = _encodings()
#: Types that are not listed: text is parsed by the server, as it is when psycopg sends it; nothing else is sure.
_OTHER = Encoding(Format.TEXT, _text)


def encoding(oid: int) -> Encoding:
    """How values for a parameter of the type `oid` travel."""
    return _ENCODINGS.get(oid, _OTHER)
