"""Sends runs of INSERT … VALUES together, for files that bring data: a round trip each would be most of their time.

In psycopg's pipeline mode each statement stays one of its own for the server, so that an error still belongs to one.
Everything else goes alone: it may take long or wait for a lock, and then the terminal says which it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby, zip_longest

import psycopg

from .splitter import Statement

#: How many go together: enough that the round trip no longer counts, and an interruption is soon heard.
_TOGETHER = 100


def batches(statements: Sequence[Statement]) -> Iterator[list[Statement]]:
    """The statements in order, those that may be sent together in one list."""
    for plain, run in groupby(statements, _is_plain_insert):
        found = list(run)
        size = _TOGETHER if plain else 1
        yield from (found[start : start + size] for start in range(0, len(found), size))


def _is_plain_insert(statement: Statement) -> bool:
    return statement.starts_with("INSERT", "INTO") and "VALUES" in statement.words and "SELECT" not in statement.words


def send(connection: psycopg.Connection, batch: Sequence[Statement], at: Callable[[Statement], None]) -> None:
    """Run the statements; `at` is told which one is under way, and so which one an error is about."""
    at(batch[0])
    if len(batch) == 1 or not psycopg.Pipeline.is_supported():
        for statement in batch:
            at(statement)
            connection.execute(statement.text.encode())
        return
    sent: list[psycopg.Cursor] = []
    try:
        _pipeline(connection, batch, sent)
    except psycopg.Error:
        at(next(one for one, cursor in zip_longest(batch, sent) if cursor is None or cursor.statusmessage is None))
        raise


def _pipeline(connection: psycopg.Connection, batch: Sequence[Statement], sent: list[psycopg.Cursor]) -> None:
    """Send them and wait for all; `sent` gets their cursors."""
    failure: psycopg.Error | None = None
    try:
        with connection.pipeline():
            try:
                for statement in batch:
                    sent.append(connection.execute(statement.text.encode()))  # noqa: PERF401
            except psycopg.Error as error:
                failure = error
    except psycopg.Error as error:
        # After a failure the end of the pipeline fails too; inside the block psycopg would log it as ignored.
        failure = failure or error
    if failure is not None:
        raise failure
