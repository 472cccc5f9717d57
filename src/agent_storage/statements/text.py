"""A reversible escape for characters that PostgreSQL's text and jsonb cannot store, and checks of JSON before sending.

PostgreSQL refuses NUL in text and lone surrogates in UTF-8, yet model and tool output contains both. They are stored as
the ASCII character SUBSTITUTE (U+001A, "stands for a character that cannot be represented") and four hexadecimal
digits: NUL becomes ``\\x1a0000``, U+D800 becomes ``\\x1aD800``, and SUBSTITUTE itself ``\\x1a001A``. Nothing else ever
changes. The dumpers and loaders of a connection do it on every parameter and every result, filters included, so both
directions always agree; psql shows the escaped form.
"""

from __future__ import annotations

import json
import math
import re
from datetime import datetime
from decimal import Decimal
from typing import Any, cast
from uuid import UUID

import orjson
import psycopg
from psycopg.abc import AdaptContext, Buffer
from psycopg.adapt import AdaptersMap, Dumper, Loader
from psycopg.pq import Format
from psycopg.types.string import StrDumper

from agent_storage.errors import InvalidValue

#: JSON nested deeper than this is refused: PostgreSQL stores it, but Python's parsers cannot read it back.
MAX_NESTING = 200

#: From here on Python writes a float without a decimal point.
_LARGE = 1e16
#: The first character of every escape.
SUBSTITUTE = "\x1a"
_BACKSLASH = ord("\\")
_ESCAPED_IN_JSON = re.compile(rb"\\u00(?:00|1a)")
_UNSTORABLE = re.compile("[\x00\x1a\ud800-\udfff]")
_ESCAPED = re.compile("\x1a(0000|001A|D[89ABCDEF][0-9A-F]{2})")
_SCALARS = frozenset({str, int, bool, type(None)})
#: Types that a typed document (a pydantic model) may contain besides JSON's types; its model reads them from text.
_TYPED = (UUID, datetime, Decimal)


def escape(text: str) -> str:
    """Return `text` with NUL, lone surrogates and SUBSTITUTE escaped; the same object when there is none."""
    return _UNSTORABLE.sub(lambda match: f"{SUBSTITUTE}{ord(match[0]):04X}", text)


def unescape(text: str) -> str:
    """Undo `escape`."""
    return _ESCAPED.sub(lambda match: chr(int(match[1], 16)), text) if SUBSTITUTE in text else text


def encode_text(text: str) -> bytes:
    """Return `text` escaped, as UTF-8. Looking for single bytes is many times as fast as the pattern."""
    try:
        raw = text.encode()
    except UnicodeEncodeError:  # a lone surrogate
        return escape(text).encode()
    return escape(text).encode() if 0x00 in raw or 0x1A in raw else raw


class JsonText(bytes):
    """A JSON document as it is sent: checked, escaped and encoded."""


def encode_json(value: object, *, limit: int, typed: bool = False) -> JsonText:
    """Return the document to send for `value`.

    Raises `InvalidValue`, with the place in `path`, for a value that would not come back equal: NaN and Infinity,
    integers beyond 64 bits, keys that are no strings, nesting beyond `MAX_NESTING`, other types than JSON's (`typed`
    documents may hold UUID, datetime and Decimal), and a document of more than `limit` bytes.
    """
    if not _storable(value, typed=typed):
        _refuse(value, "$", typed=typed)
        node = _with_points(value)
    else:
        node = value
    try:
        raw = orjson.dumps(node, default=_dump_typed)
    except TypeError:  # a lone surrogate, or an integer or a key that JSON cannot have
        _refuse(value, "$", typed=typed)
        raw = orjson.dumps(escape_all(node), default=_dump_typed)
    else:
        if unusual(raw):
            raw = orjson.dumps(escape_all(node), default=_dump_typed)
    if len(raw) > limit:
        raise InvalidValue(f"the JSON document has {len(raw):,} bytes; the limit is {limit:,} (setting json_limit)")
    return JsonText(raw)


def decode_json(data: Buffer) -> Any:
    """Undo `encode_json`. Return the JSON text of a document that Python's parsers refuse, which only SQL can write."""
    raw = bytes(data)
    try:
        value = orjson.loads(raw)
        return unescape_all(value) if unusual(raw) else value
    except (ValueError, RecursionError):
        return _decode_odd(raw)


def _decode_odd(raw: bytes) -> Any:
    """Numbers beyond a double are integers of Python; nesting and numbers beyond its limits stay text."""
    try:
        return unescape_all(json.loads(raw))
    except (ValueError, RecursionError):
        return unescape(raw.decode())


def unusual(raw: bytes) -> bool:
    """Return whether JSON text holds NUL or SUBSTITUTE.

    Most text has no backslash, and a search for it is much faster.
    """
    return _BACKSLASH in raw and _ESCAPED_IN_JSON.search(raw) is not None


def _storable(value: Any, *, typed: bool) -> bool:
    """Return whether every node is of a type that comes back equal. The walk by levels also bounds the depth."""
    level: list[Any] = [value]
    for _ in range(MAX_NESTING + 1):
        if _SCALARS.issuperset(map(type, level)):
            return True
        below: list[Any] = []
        for node in level:
            if type(node) in _SCALARS:
                continue
            if type(node) is dict:
                below += cast(dict[Any, Any], node).values()
            elif type(node) is list:
                below += cast(list[Any], node)
            elif not _fits(node, typed=typed):
                return False
        level = below
    return False


def _with_points(node: Any) -> Any:
    """The same with a decimal point in each large float: JSON text like `1e16` is an integer to jsonb."""
    if isinstance(node, float) and not -_LARGE < node < _LARGE:
        return orjson.Fragment(f"{Decimal(repr(node)):f}.0")
    if isinstance(node, dict):
        return {key: _with_points(item) for key, item in _items(node)}
    if isinstance(node, list):
        return [_with_points(item) for item in cast(list[Any], node)]
    return node


def _fits(node: Any, *, typed: bool) -> bool:
    if isinstance(node, float):
        return -_LARGE < node < _LARGE
    return isinstance(node, (str, int)) or (typed and isinstance(node, _TYPED))


def _refuse(node: Any, path: str, *, typed: bool, depth: int = 0) -> None:
    """Raise `InvalidValue` for the first node that cannot be stored, with its path."""
    fault: str | None = None
    if depth > MAX_NESTING:
        path, fault = "$", f"is nested deeper than {MAX_NESTING} levels"
    elif isinstance(node, dict):
        for key, item in _items(node):
            if not isinstance(key, str):
                _raise(path, f"has a key of type {type(key).__name__}; JSON keys are strings")
            _refuse(item, f"{path}.{escape(key)}", typed=typed, depth=depth + 1)
    elif isinstance(node, list):
        for index, item in enumerate(cast(list[Any], node)):
            _refuse(item, f"{path}[{index}]", typed=typed, depth=depth + 1)
    elif isinstance(node, float):
        fault = None if math.isfinite(node) else "is NaN or infinite, which JSON cannot hold"
    elif isinstance(node, int) and not -(2**63) <= node < 2**64:
        fault = "is an integer of more than 64 bits; store it as a string"
    elif node is not None and not _fits(node, typed=typed):
        fault = f"is of type {type(node).__name__}, which is not JSON"
    if fault:
        _raise(path, fault)


def _items(node: Any) -> list[tuple[Any, Any]]:
    return list(node.items())


def _raise(path: str, fault: str) -> None:
    error = InvalidValue(f"{path} {fault}")
    error.path = path
    raise error


def escape_all(node: Any) -> Any:
    """Return `value` with every text in lists and dicts escaped, keys too; anything else as it is."""
    if isinstance(node, str):
        return escape(node)
    if isinstance(node, dict):
        return {escape(key): escape_all(item) for key, item in _items(node)}
    if isinstance(node, list):
        return [escape_all(item) for item in cast(list[Any], node)]
    return node


def unescape_all(node: Any) -> Any:
    """Undo `escape_all`."""
    if isinstance(node, str):
        return unescape(node)
    if isinstance(node, dict):
        return {unescape(key): unescape_all(item) for key, item in _items(node)}
    if isinstance(node, list):
        return [unescape_all(item) for item in cast(list[Any], node)]
    return node


def _dump_typed(node: object) -> str:
    if isinstance(node, Decimal):
        return str(node)
    raise TypeError(type(node).__name__)


class _TextDumper(StrDumper):
    """Text, escaped. Sent with no type, so that PostgreSQL takes it for whatever the place wants (a date, a name)."""

    oid = 0

    def dump(self, obj: str) -> Buffer | None:
        return encode_text(obj)


class TextLoader(Loader):
    """Text in PostgreSQL's text format, unescaped."""

    format = Format.TEXT

    def load(self, data: Buffer) -> str:
        """Return the text."""
        return unescape(str(data, "utf-8"))


class TextBinaryLoader(TextLoader):
    """The same in the binary format, which for text is no other."""

    format = Format.BINARY


class _JsonDumper(Dumper):
    oid = psycopg.adapters.types["jsonb"].oid

    def dump(self, obj: JsonText) -> Buffer | None:
        return obj


class JsonLoader(Loader):
    """A JSON document in PostgreSQL's text format."""

    format = Format.TEXT

    def load(self, data: Buffer) -> Any:
        """Return the document."""
        return decode_json(data)


class _JsonBinaryLoader(JsonLoader):
    format = Format.BINARY


class _JsonbBinaryLoader(Loader):
    format = Format.BINARY

    def load(self, data: Buffer) -> Any:
        return decode_json(data[1:])  # the first byte is the version of jsonb's wire format


def register(context: AdaptContext) -> None:
    """Set up a connection (or an adapters map) to send and read text and JSON as this module describes."""
    adapters = context.adapters
    adapters.register_dumper(str, _TextDumper)
    adapters.register_dumper(JsonText, _JsonDumper)
    for name in ("text", "varchar", "bpchar"):
        adapters.register_loader(name, TextLoader)
        adapters.register_loader(name, TextBinaryLoader)
    adapters.register_loader("json", JsonLoader)
    adapters.register_loader("json", _JsonBinaryLoader)
    adapters.register_loader("jsonb", JsonLoader)
    adapters.register_loader("jsonb", _JsonbBinaryLoader)


def adapters() -> AdaptersMap:
    """Return psycopg's adapters with this module's on top, as a `context` for new connections."""
    result = AdaptersMap(psycopg.adapters)
    register(result)
    return result
