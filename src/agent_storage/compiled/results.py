"""Rows of a result: loaded by psycopg's loaders in C, and then what those do not do, a column at a time.

A loader that is written in Python is called through psycopg for each value, which costs more than the work it does for
text and JSON (`connection/text.py`). So the compiled path reads text and documents raw, and finishes them in one loop
for each column. Results that hold types not listed here are loaded as the cursor loads them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import psycopg
from psycopg.adapt import AdaptersMap, Transformer
from psycopg.pq import Format
from psycopg.pq.abc import PGresult
from psycopg.types.string import ByteaBinaryLoader

from ..connection.text import SUBSTITUTE, decode_json, unescape, unescape_all

Row = list[Any]

#: How many rows are loaded at a time, so that few lists are alive beside the records that are made of them.
_SLICE = 100
Finish = Callable[[list[Row], int], None]


def _finish_texts(rows: list[Row], place: int) -> None:
    for row in rows:
        text = row[place]
        if text and SUBSTITUTE in text:
            row[place] = unescape(text)


def _finish_lists_of_texts(rows: list[Row], place: int) -> None:
    for row in rows:
        row[place] = unescape_all(row[place])


def _finish_json(rows: list[Row], place: int) -> None:
    for row in rows:
        raw = row[place]
        if raw is not None:
            row[place] = decode_json(raw)


def _finish_jsonb(rows: list[Row], place: int) -> None:
    for row in rows:
        raw = row[place]
        if raw is not None:
            row[place] = decode_json(raw[1:])  # the first byte is the version of jsonb's wire format


def _oids(*names: str) -> list[int]:
    return [psycopg.adapters.types[name].oid for name in names]


_TEXTS = _oids("text", "varchar", "bpchar")
_FINISH: dict[int, Finish] = {
    **dict.fromkeys(_TEXTS, _finish_texts),
    **{psycopg.adapters.types[oid].array_oid: _finish_lists_of_texts for oid in _TEXTS},
    **dict.fromkeys(_oids("json"), _finish_json),
    **dict.fromkeys(_oids("jsonb"), _finish_jsonb),
}
#: Types that psycopg's own loaders give as they are wanted.
_SIMPLE = ("uuid", "bool", "bytea", "int2", "int4", "int8", "float4", "float8", "numeric", "timestamptz", "date")
_KNOWN = frozenset(
    [*_FINISH, *_oids(*_SIMPLE), *(psycopg.adapters.types[name].array_oid for name in _SIMPLE), *_oids("oid")]
)


def _raw_adapters() -> AdaptersMap:
    adapters = AdaptersMap(psycopg.adapters)
    for name in ("json", "jsonb"):
        adapters.register_loader(name, ByteaBinaryLoader)
    return adapters


class _Raw:
    """Loads as psycopg does, but documents as bytes; the connection says the time zone."""

    adapters = _raw_adapters()

    def __init__(self, connection: psycopg.BaseConnection[Any]) -> None:
        self.connection = connection


class Loading:
    """How the rows of one prepared statement are loaded: chosen when it is described."""

    __slots__ = ("_finish", "_loaded", "_transformer", "names")

    def __init__(self, description: PGresult, connection: psycopg.BaseConnection[Any]) -> None:
        places = range(description.nfields)
        types = [description.ftype(place) for place in places]
        known = _KNOWN.issuperset(types)
        self.names = tuple((description.fname(place) or b"").decode() for place in places)
        self._finish = [(place, _FINISH[oid]) for place, oid in enumerate(types) if known and oid in _FINISH]
        self._transformer = Transformer(_Raw(connection) if known else connection)
        self._loaded = False

    def rows(self, answer: PGresult) -> Iterable[Row]:
        """Every row of `answer`, the values in the order of `names`; of many, a few are loaded at a time."""
        count = answer.ntuples
        return self._load(answer, 0, count) if count <= _SLICE else self._slices(answer, count)

    def _slices(self, answer: PGresult, count: int) -> Iterator[Row]:
        for start in range(0, count, _SLICE):
            yield from self._load(answer, start, min(start + _SLICE, count))

    def _load(self, answer: PGresult, start: int, stop: int) -> list[Row]:
        transformer = self._transformer
        transformer.set_pgresult(answer, set_loaders=not self._loaded, format=Format.BINARY)
        self._loaded = True
        try:
            rows: list[Row] = transformer.load_rows(start, stop, list)
        finally:
            transformer.set_pgresult(None, set_loaders=False)
        for place, finish in self._finish:
            finish(rows, place)
        return rows
