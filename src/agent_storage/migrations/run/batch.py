"""Send consecutive INSERT … VALUES statements together, because a round trip each would dominate their time.

They are sent as one simple query, as psql sends a line with several statements. The server returns a result for each,
and an error ends the rest, so it belongs to one statement. Other statements are sent alone: they may run long or wait
for a lock, and then the terminal shows the statement.
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

from agent_storage.migrations.files.splitter import SqlStatement

#: The most statements and characters of a batch; enough to make the round trip negligible.
_STATEMENTS, _CHARACTERS = 100, 100_000


def batches(statements: Sequence[SqlStatement]) -> Iterator[list[SqlStatement]]:
    """Yield the statements in order, in lists of those that may be sent together."""
    batch: list[SqlStatement] = []
    for statement in statements:
        if batch and not (_is_plain_insert(statement) and _is_plain_insert(batch[0]) and _has_room(batch, statement)):
            yield batch
            batch = []
        batch.append(statement)
    if batch:
        yield batch


def _is_plain_insert(statement: SqlStatement) -> bool:
    return statement.starts_with("INSERT", "INTO") and "VALUES" in statement.words and "SELECT" not in statement.words


def _has_room(batch: Sequence[SqlStatement], further: SqlStatement) -> bool:
    end = further.offset + len(further.text)
    return len(batch) < _STATEMENTS and end - batch[0].offset <= _CHARACTERS


def send(
    connection: psycopg.Connection, text: str, batch: Sequence[SqlStatement], at: Callable[[SqlStatement, int], None]
) -> None:
    """Run several statements of the file's `text`.

    If the server rejects one, call `at` with it and with the offset in the file from which the error position counts.
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
    """Close the connection if psycopg was interrupted while it waited, so that the server rolls back."""
    if connection.info.transaction_status == TransactionStatus.ACTIVE:
        with suppress(psycopg.Error):
            connection.cancel_safe(timeout=5)
        connection.close()


def _refused(error: psycopg.Error, batch: Sequence[SqlStatement], answered: int) -> SqlStatement:
    position = error.diag.statement_position
    if position is None:
        return batch[min(answered, len(batch)) - 1]
    # The text is parsed as a whole before its first statement runs, so a syntax error precedes all results.
    at = batch[0].offset + int(position) - 1
    return next(statement for statement in reversed(batch) if statement.offset <= at)


def _exchange(pgconn: PGconn, text: bytes) -> PQGen[list[PGresult]]:
    """Send and receive in one generator, which `Connection.wait` can cancel as a whole on a signal."""
    pgconn.send_query(text)
    return (yield from generators.execute(pgconn))
