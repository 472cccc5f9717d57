"""Declared statements as a connection has prepared them: everything that can be decided once is decided once.

psycopg's cursor finds out at each call what a declared statement knows before it runs: how the text is to be sent, of
which types the parameters are, which loaders the columns need. Here a statement is prepared and described once for each
connection, and from then on a call only encodes, sends and reads. `tests/compiled` compares it with the cursor, which
stays the reference.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from typing import Any, TypeVar

import psycopg
from psycopg.errors import error_from_result
from psycopg.pq import ExecStatus, Format
from psycopg.pq.abc import PGconn, PGresult

from ..connection.rows import Codec
from ..statement import Statement
from .parameters import encoding
from .results import Loading

T = TypeVar("T")

#: Statements that one connection keeps prepared; others go through the cursor. Each costs the server some 10 kB.
LIMIT = 1000

#: PostgreSQL's codes for a prepared statement that is gone, and for one whose result has changed with the schema.
GONE = frozenset({"26000", "0A000"})
#: What the server answers when all is well.
FINE = frozenset({ExecStatus.TUPLES_OK, ExecStatus.COMMAND_OK, ExecStatus.PIPELINE_SYNC})


class Failed(Exception):
    """One of several statements has failed: the one at `place`, with psycopg's `error`."""

    def __init__(self, place: int, error: psycopg.Error) -> None:
        super().__init__(place)
        self.place = place
        self.error = error


class Prepared:
    """One statement, as one connection has prepared it."""

    __slots__ = ("_encode", "_loading", "formats", "name")

    def __init__(self, name: bytes, description: PGresult, connection: psycopg.BaseConnection[Any]) -> None:
        encodings = [encoding(description.param_type(number)) for number in range(description.nparams)]
        self.name = name
        self.formats: list[Format] = [one.format for one in encodings]
        self._encode = [one.encode for one in encodings]
        self._loading = Loading(description, connection)

    def encode(self, values: Sequence[Any]) -> list[bytes | None]:
        """The parameters as they are sent. Raises `Unsuitable`: then the cursor has to do it."""
        return [None if value is None else encode(value) for encode, value in zip(self._encode, values, strict=True)]

    def result(self, statement: Statement[T], answer: PGresult, codec: Codec) -> T:
        """What the method returns. Raises psycopg's error for the server's."""
        if answer.status != ExecStatus.TUPLES_OK:
            if answer.status != ExecStatus.COMMAND_OK:
                raise error_from_result(answer)
            return statement.result(None, (), answer.command_tuples or 0, codec)
        return statement.result(self._loading.names, self._loading.rows(answer), answer.ntuples, codec)

    def rows(self, statement: Statement[Any], answer: PGresult, codec: Codec) -> list[Any]:
        """A value for each row of a part of the answer."""
        return statement.rows.make(self._loading.names, self._loading.rows(answer), codec)


class PreparedStatements:
    """The statements that one connection has prepared, by their text."""

    def __init__(self, connection: psycopg.BaseConnection[Any]) -> None:
        self._connection = connection
        self._known: dict[bytes, Prepared] = {}
        self._numbers = count(1)
        self.get = self._known.get

    @property
    def full(self) -> bool:
        """Whether no further statement is to be prepared."""
        return len(self._known) >= LIMIT

    def new_name(self) -> bytes:
        """A name that this connection has not had. psycopg's own begin with `_pg3_`."""
        return b"agent_storage_%d" % next(self._numbers)

    def add(self, statement: Statement[Any], name: bytes, description: PGresult) -> Prepared:
        """Keep what the server said about `statement`."""
        prepared = self._known[statement.query] = Prepared(name, description, self._connection)
        return prepared

    def require(self, statement: Statement[Any]) -> Prepared:
        """What is known of `statement`, which has been added."""
        return self._known[statement.query]

    def forget(self) -> None:
        """The server has lost them, or they are of no use."""
        self._known.clear()


def ask(pgconn: PGconn, name: bytes, statement: Statement[Any]) -> None:
    """Send, in pipeline mode, what prepares and describes `statement`; the Sync is the caller's."""
    pgconn.send_prepare(name, statement.query)
    pgconn.send_describe_prepared(name)


def checked(answers: Sequence[PGresult]) -> PGresult:
    """The last answer. Raises psycopg's error for the first that is one."""
    for answer in answers:
        if answer.status not in FINE:
            raise error_from_result(answer)
    return answers[-1]
