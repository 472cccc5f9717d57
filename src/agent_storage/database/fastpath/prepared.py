"""Statements as one connection knows them: described once by the server, then encoded, sent and loaded.

psycopg's cursor finds out at each call what a declared statement knows before it runs: how the text is to be sent, of
which types the parameters are, which loaders the columns need. Here the server says it once for each connection.
A statement that must not be prepared on the server (behind a pooler, on an attached connection) is described once too,
and its text is sent each time. So values are encoded and loaded alike on every path.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from itertools import count
from typing import Any, TypeVar

import psycopg
from psycopg.pq import ExecStatus, Format
from psycopg.pq.abc import PGconn, PGresult

from agent_storage.database.fastpath.faults import is_stale
from agent_storage.database.fastpath.loading import Loading
from agent_storage.errors import InvalidValue, Retryable, StorageError, Unreadable, translate
from agent_storage.statements.codec import Codec
from agent_storage.statements.statement import Statement
from agent_storage.statements.text import encode_text
from agent_storage.statements.types import Unusual, encoding, to_text

T = TypeVar("T")
Parameters = tuple[list[bytes | None], list[Format]]

#: Statements that one connection knows at a time; the one that was not used for longest makes room. Each costs the
#: server some 10 kB.
LIMIT = 1000

#: The errors of psycopg's loaders, and those of JSON and UUID, for a value that Python cannot represent.
_UNREADABLE = (psycopg.Error, ValueError, NotImplementedError)


class StaleStatement(Retryable):
    """The server refused a prepared statement before it ran: it is gone, or no longer fits the schema."""


class Generation:
    """Counts how often a statement of one database was found stale. Then every connection prepares its own again."""

    def __init__(self) -> None:
        self.number = 0


class Prepared:
    """The text of a statement, as one connection knows it. Statements that make other things of its rows share it."""

    __slots__ = ("_connection", "_encode", "_formats", "_loading", "_query", "_types", "name")

    def __init__(
        self, statement: Statement[Any], name: bytes, description: PGresult, connection: psycopg.BaseConnection[Any]
    ) -> None:
        self._query = statement.query
        #: The server's name for it; empty where it does not keep it.
        self.name = name
        self._connection = connection
        self._types = [description.param_type(number) for number in range(description.nparams)]
        encodings = [encoding(oid) for oid in self._types]
        self._formats: list[Format] = [one.format for one in encodings]
        self._encode = [one.encode for one in encodings]
        self._loading = Loading(description, connection)

    def encode(self, statement: Statement[Any], values: Sequence[Any]) -> Parameters:
        """Return the parameters and their formats. Raises `InvalidValue` for a value that has no form in PostgreSQL."""
        try:
            encoded = [
                None if value is None else encode(value) for encode, value in zip(self._encode, values, strict=True)
            ]
        except (Unusual, TypeError, ValueError, OverflowError):
            return _encode_as_text(statement, values), [Format.TEXT] * len(values)
        return encoded, self._formats

    def send(self, pgconn: PGconn, parameters: Parameters) -> None:
        """Send the statement. The caller reads the reply."""
        given, formats = parameters
        if self.name:
            pgconn.send_query_prepared(self.name, given, formats, self._loading.format)
        else:
            pgconn.send_query_params(self._query, given, self._types, formats, self._loading.format)

    def declare(self, pgconn: PGconn, cursor: bytes, parameters: Parameters) -> None:
        """Send the DECLARE of a cursor of that name for the statement."""
        given, formats = parameters
        text = b"DECLARE %s NO SCROLL CURSOR FOR %s" % (cursor, self._query)
        pgconn.send_query_params(text, given, self._types, formats)

    def fetch(self, pgconn: PGconn, cursor: bytes, count: int) -> None:
        """Send the FETCH of the next rows of a cursor."""
        pgconn.send_query_params(
            b"FETCH FORWARD %d FROM %s" % (count, cursor), None, result_format=self._loading.format
        )

    def result(
        self, statement: Statement[T], answer: PGresult, values: Sequence[Any], codec: Codec, *, kept: bool
    ) -> T:
        """Return the statement's result. Raises `NotFound` when a required row is missing.

        Raises `Unreadable` for a row that cannot be made; with `kept` the error says that the write was committed.
        """
        if answer.status == ExecStatus.COMMAND_OK:
            return statement.result(None, (), answer.command_tuples or 0, values, codec)
        # The server refuses a prepared statement whose columns have changed; one that it does not keep it parses.
        loading = self._loading if self.name else self._loading_of(answer)
        try:
            return statement.result(loading.names, loading.rows(answer), answer.ntuples, values, codec)
        except Unreadable as error:
            if kept:
                error.say_kept()
            raise
        except _UNREADABLE as error:
            raise _unreadable(statement, kept=kept) from error

    def made(self, statement: Statement[Any], answer: PGresult, codec: Codec) -> list[Any]:
        """Return a value for each row of a chunk. Raises `Unreadable`."""
        loading = self._loading_of(answer)
        try:
            return statement.rows.make(loading.names, loading.rows(answer), codec)
        except _UNREADABLE as error:
            raise _unreadable(statement) from error

    def _loading_of(self, answer: PGresult) -> Loading:
        known = self._loading
        return known if known.fits(answer) else Loading(answer, self._connection, known.format)


def _unreadable(statement: Statement[Any], *, kept: bool = False) -> Unreadable:
    fault = Unreadable(
        f"{statement.table} holds a value that Python cannot express, such as a moment beyond the year 9999"
        f" (statement {statement.name})",
        table=statement.table,
        statement=statement.name,
    )
    if kept:
        fault.say_kept()
    return fault


def _encode_as_text(statement: Statement[Any], values: Sequence[Any]) -> list[bytes | None]:
    parameters: list[bytes | None] = []
    for number, value in enumerate(values, start=1):
        try:
            parameters.append(None if value is None else encode_text(to_text(value)))
        except (TypeError, ValueError, OverflowError) as error:
            named = statement.parameters
            name = named[number - 1].name if number <= len(named) else f"${number}"
            raise InvalidValue(
                f"{statement.table}: the parameter {name} of {statement.name} cannot be sent: {error}",
                table=statement.table,
                statement=statement.name,
            ) from None
    return parameters


class PreparedStatements:
    """The statements that one connection knows, by their text."""

    def __init__(self, connection: psycopg.BaseConnection[Any], generation: Generation, *, keep: bool) -> None:
        self._connection = connection
        self._generation = generation
        self._seen = generation.number
        self._keep = keep
        self._known: OrderedDict[bytes, Prepared] = OrderedDict()
        self._numbers = count(1)
        self._superfluous: list[bytes] = []

    def get(self, statement: Statement[Any]) -> Prepared | None:
        """Return the description of `statement`, if any."""
        if self._seen != self._generation.number:
            self._seen = self._generation.number
            self._superfluous += [one.name for one in self._known.values() if one.name]
            self._known.clear()
        found = self._known.get(statement.query)
        if found is not None:
            self._known.move_to_end(statement.query)
        return found

    def ask(self, statement: Statement[Any]) -> bytes:
        """Send, in pipeline mode, Parse and Describe for `statement`. Return its name. Two replies follow."""
        pgconn = self._connection.pgconn
        name = b"agent_storage_%d" % next(self._numbers) if self._keep else b""
        pgconn.send_prepare(name, statement.query)
        pgconn.send_describe_prepared(name)
        return name

    def close(self) -> int:
        """Close, in pipeline mode, the statements that are no longer needed. Return how many replies follow."""
        names, self._superfluous = self._superfluous, []
        for name in names:
            self._connection.pgconn.send_close_prepared(name)
        return len(names)

    def add(self, statement: Statement[Any], name: bytes, description: PGresult) -> Prepared:
        """Keep the server's description of `statement`."""
        prepared = self._known[statement.query] = Prepared(statement, name, description, self._connection)
        if len(self._known) > LIMIT:
            _, oldest = self._known.popitem(last=False)
            if oldest.name:
                self._superfluous.append(oldest.name)
        return prepared

    def fault(
        self, error: psycopg.Error, statement: Statement[Any], prepared: Prepared | None, *, commits: bool = False
    ) -> StorageError:
        """Return the package's error. `commits`: the statement is a transaction by itself.

        It is `StaleStatement` where `error` says that a `prepared` statement is gone or fits no more. Then nothing of
        it was executed, and every connection of the database prepares its statements again.
        """
        if prepared is not None and is_stale(error):
            self._generation.number += 1
            return StaleStatement(
                f"the schema has changed under a prepared statement, or it is gone (statement {statement.name}); "
                "run the transaction again",
                table=statement.table,
                statement=statement.name,
                sqlstate=error.sqlstate,
            )
        writes = commits and not statement.repeatable
        return translate(error, statement=statement.name, table=statement.table, writes=writes)
