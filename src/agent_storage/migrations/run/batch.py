"""Sends runs of INSERT … VALUES together, for files that bring data: a round trip each would be most of their time.

They go as one message, as psql sends a line with several statements. The server still answers each on its own, and an
error in the middle ends the rest, so that it belongs to one statement. Everything but INSERT goes alone: it may take
long or wait for a lock, and then the terminal says which it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress

import psycopg
from psycopg import generators
from psycopg.abc import PQGen
from psycopg.errors import error_from_result
from psycopg.pq import ExecStatus, TransactionStatus
from psycopg.pq.abc import PGconn, PGresult

from agent_storage.migrations.files.splitter import Statement

#: How much goes together: enough that the round trip no longer counts.
_STATEMENTS, _CHARACTERS = 100, 100_000


def batches(statements: Sequence[Statement]) -> Iterator[list[Statement]]:
    """The statements in order, those that may be sent together in one list."""
    batch: list[Statement] = []
    for statement in statements:
        if batch and not (_is_plain_insert(statement) and _is_plain_insert(batch[0]) and _has_room(batch, statement)):
            yield batch
            batch = []
        batch.append(statement)
    if batch:
        yield batch


def _is_plain_insert(statement: Statement) -> bool:
    return statement.starts_with("INSERT", "INTO") and "VALUES" in statement.words and "SELECT" not in statement.words


def _has_room(batch: Sequence[Statement], further: Statement) -> bool:
    end = further.offset + len(further.text)
    return len(batch) < _STATEMENTS and end - batch[0].offset <= _CHARACTERS


def send(
    connection: psycopg.Connection, text: str, batch: Sequence[Statement], at: Callable[[Statement, int], None]
) -> None:
    """Run several statements of the file's `text`.

    If the server refuses one, `at` is told which, and the offset in the file from which the error's position counts.
    """
    start, end = batch[0].offset, batch[-1].offset + len(batch[-1].text)
    try:
        results = connection.wait(_exchange(connection.pgconn, text[start:end].encode()))
    except KeyboardInterrupt:
        _abandon(connection)
        raise
    if results[-1].status == ExecStatus.FATAL_ERROR:
        error = error_from_result(results[-1], connection.info.encoding)
        at(_refused(error, batch, len(results)), start)
        raise error


def _abandon(connection: psycopg.Connection) -> None:
    """Close the connection if the interrupt came where psycopg could not wait for the end: the server rolls back."""
    if connection.info.transaction_status == TransactionStatus.ACTIVE:
        with suppress(psycopg.Error):
            connection.cancel_safe(timeout=5)
        connection.close()


def _refused(error: psycopg.Error, batch: Sequence[Statement], answered: int) -> Statement:
    position = error.diag.statement_position
    if position is None:
        return batch[min(answered, len(batch)) - 1]
    # The text is parsed as a whole before its first statement runs: before a syntax error nothing was answered.
    at = batch[0].offset + int(position) - 1
    return next(statement for statement in reversed(batch) if statement.offset <= at)


def _exchange(pgconn: PGconn, text: bytes) -> PQGen[list[PGresult]]:
    """Send and receive in one go, which `Connection.wait` can cancel as a whole when a signal comes."""
    pgconn.send_query(text)
    return (yield from generators.execute(pgconn))
