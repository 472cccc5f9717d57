"""The values of a result. Its loaders are chosen once, from its description; many rows are loaded a few at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import psycopg
from psycopg.adapt import Transformer
from psycopg.pq import Format
from psycopg.pq.abc import PGresult

from agent_storage.errors import Unreadable
from agent_storage.statements.types import FINISH, LOADERS, Row, loads_binary

#: How many rows are loaded at a time, so that few lists are alive beside the records that are made of them.
_SLICE = 100


class _Context:
    """The context of psycopg's loaders: the adapters and, for text, the styles of the connection, in UTC."""

    adapters = LOADERS

    def __init__(self, connection: psycopg.BaseConnection[Any] | None) -> None:
        self.connection = connection


class Loading:
    """The loaders of one result, chosen once from its description."""

    __slots__ = ("_finish", "_loaded", "_transformer", "format", "names", "types")

    def __init__(
        self, description: PGresult, connection: psycopg.BaseConnection[Any], format_: Format | None = None
    ) -> None:
        places = range(description.nfields)
        self.types = [description.ftype(place) for place in places]
        self.names = tuple((description.fname(place) or b"").decode() for place in places)
        wanted = Format.BINARY if loads_binary(self.types) else Format.TEXT
        self.format = wanted if format_ is None else format_
        finished = self.types if self.format == Format.BINARY else []
        self._finish = [(place, FINISH[oid]) for place, oid in enumerate(finished) if oid in FINISH]
        self._transformer = Transformer(_Context(None if self.format == Format.BINARY else connection))
        self._loaded = False

    def fits(self, answer: PGresult) -> bool:
        """Return whether `answer` has the columns that were described."""
        return [answer.ftype(place) for place in range(answer.nfields)] == self.types

    def rows(self, answer: PGresult) -> Iterable[Row]:
        """Return every row of `answer`, the values in the order of `names`; of many, a few are loaded at a time."""
        return self.load(answer, 0, answer.ntuples) if answer.ntuples <= _SLICE else _Slices(self, answer)

    def load(self, answer: PGresult, start: int, stop: int) -> list[Row]:
        """Return some of the rows. Raises `Unreadable` for a reply that is not to this statement."""
        transformer = self._transformer
        if answer.nfields != len(self.types):  # psycopg's C loaders would read beyond the row
            raise Unreadable(
                f"a reply of {answer.nfields} columns came to a statement of {len(self.types)}: what is between this "
                "process and the server lost or mixed up replies (set STORAGE_POOLER=1 for a pooler)"
            )
        transformer.set_pgresult(answer, set_loaders=not self._loaded, format=self.format)
        self._loaded = True
        try:
            rows: list[Row] = transformer.load_rows(start, stop, list)
        finally:
            transformer.set_pgresult(None, set_loaders=False)
        for place, finish in self._finish:
            finish(rows, place)
        return rows


class _Slices:
    """The rows of a large result, loaded a few at a time whenever they are iterated."""

    def __init__(self, loading: Loading, answer: PGresult) -> None:
        self._loading = loading
        self._answer = answer

    def __iter__(self) -> Iterator[Row]:
        number = self._answer.ntuples
        for start in range(0, number, _SLICE):
            yield from self._loading.load(self._answer, start, min(start + _SLICE, number))
