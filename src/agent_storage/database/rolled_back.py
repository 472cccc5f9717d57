"""A database for one test: everything that runs on it is in one transaction, which is rolled back at the end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Self, TypeVar

import psycopg

from agent_storage.database.listener import AsyncSignal
from agent_storage.database.pool import Database
from agent_storage.database.transaction import Asked, Isolation, Transaction, current
from agent_storage.errors import StorageError
from agent_storage.statements.statement import Statement

T = TypeVar("T")


class RolledBack(Database):
    """A database that behaves as the one it was made from, on one connection and without a commit.

    Each statement, batch and transaction is a savepoint, so that an error undoes it alone. They take turns.
    """

    _transaction: Transaction
    _turn: asyncio.Lock

    @classmethod
    @asynccontextmanager
    async def within(cls, database: Database) -> AsyncGenerator[Self]:
        """Yield a database in a transaction of `database`, which is rolled back when the block ends."""
        async with database.begin(name="rolled back") as transaction:
            made = object.__new__(cls)
            vars(made).update(vars(database))
            made._transaction, made._turn = transaction, asyncio.Lock()
            made._pool = made  # pyright: ignore[reportAttributeAccessIssue]  # no pool's, for the guard of transactions
            yield made
            raise psycopg.Rollback

    def __repr__(self) -> str:
        return "<RolledBack>"

    async def open(self) -> None:
        """Do nothing: its connection is open."""

    async def close(self) -> None:
        """Do nothing: its connection belongs to the block that made it."""

    async def _alone(self, name: str, work: Callable[[Transaction], Awaitable[T]]) -> T:
        self._check_not_in_transaction(name)
        async with self._turn, self._transaction.savepoint(name) as inner:
            return await work(inner)

    async def run(self, statement: Statement[T], values: Sequence[Any]) -> T:
        """Return the statement's result. An error undoes it alone."""
        return await self._alone(statement.name, lambda inner: inner.run(statement, values))

    async def run_chunked(self, statement: Statement[Any], arguments: Mapping[str, Any]) -> Any:
        """Return the result of a chunked statement, all or nothing."""
        return await self._alone(statement.name, lambda inner: inner.run_chunked(statement, arguments))

    async def run_all(self, asked: Sequence[Asked]) -> list[Any]:
        """Return the results of several statements, all or nothing."""
        self._check_not_in_transaction("batch()")
        async with self._turn, self._transaction.savepoint("batch") as inner:
            results = await inner.run_all(asked)
            for result in results:
                if isinstance(result, StorageError):
                    raise result
            return results

    @asynccontextmanager
    async def stream(self, statement: Statement[Any], values: Sequence[Any]) -> AsyncGenerator[AsyncIterator[Any]]:
        """Stream the statement's rows through a cursor, beside other statements."""
        self._check_not_in_transaction(statement.name)
        async with AsyncExitStack() as stack:
            async with self._turn:
                rows = await stack.enter_async_context(self._transaction.stream(statement, values))
            yield rows

    @asynccontextmanager
    async def begin(
        self, isolation: Isolation | None = None, *, read_only: bool = False, name: str | None = None
    ) -> AsyncGenerator[Transaction]:
        """Begin a savepoint that behaves as a transaction; isolation and `read_only` have no effect.

        Its callbacks are called when it ends, as after a commit.
        """
        self._check_not_in_transaction("transaction()")
        async with self._turn, self._transaction.savepoint(name or "unnamed") as inner:
            inner.pool = self._pool
            before = current.get()
            current.set(inner)
            try:
                yield inner
            finally:
                if current.get() is inner:
                    current.set(before)
        await inner.call_back()

    @asynccontextmanager
    async def connection(self) -> AsyncGenerator[psycopg.AsyncConnection[Any]]:
        """Yield the connection for other SQL. A failed statement there aborts the whole transaction."""
        yield self._transaction.connection

    def listen(self, channel: str, *payloads: str) -> AsyncSignal:
        """Raise `StorageError`: notifications are sent at COMMIT, and there is none."""
        raise StorageError("nothing is notified in a transaction that is rolled back: test this on a separate database")

    @property
    def autonomous(self) -> Self:
        """Raise `StorageError`: another connection does not see what is not committed, and would commit."""
        raise StorageError("there is no other connection to this transaction: test this on a separate database")
