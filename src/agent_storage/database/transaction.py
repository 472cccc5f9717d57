"""Statements on one connection: transactions, savepoints, and attached connections."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from contextvars import ContextVar
from itertools import count
from typing import Any, Literal, TypeVar

import psycopg
from psycopg.pq import TransactionStatus

from agent_storage.database.fastpath.executor import Executor
from agent_storage.database.fastpath.prepared import Generation, StaleStatement
from agent_storage.database.forks import LoopHome
from agent_storage.database.listener import AsyncSignal
from agent_storage.database.settings import Settings
from agent_storage.errors import StorageError, translate
from agent_storage.statements.codec import Codec
from agent_storage.statements.encryption import Keyring
from agent_storage.statements.statement import Statement

T = TypeVar("T")
#: A statement and the values that it is sent with.
Asked = tuple[Statement[Any], Sequence[Any]]
Isolation = Literal["read committed", "repeatable read", "serializable"]

logger = logging.getLogger("agent_storage")

#: The transaction block that the current task is in, so that the pool is not used there by mistake.
current: ContextVar[Transaction | None] = ContextVar("agent_storage_transaction", default=None)

_savepoints = count(1)


class Transaction:
    """One open transaction, or a savepoint inside it. Its repositories share its connection.

    An exception that leaves its block rolls back. When the block has ended, everything on it is refused.
    """

    def __init__(self, executor: Executor, name: str, pool: object = None) -> None:
        self.connection = executor.connection
        self.executor = executor
        self.codec = executor.codec
        self.name = name
        #: How errors call it.
        self.label = f"transaction {name}"
        #: The pool of its connection.
        self.pool = pool
        self.ended = True
        self.committed = False
        self.callbacks: list[Callable[[], Awaitable[object]]] = []
        self._home = LoopHome()
        self._nested: Transaction | None = None

    def check(self) -> None:
        """Raise `StorageError` when its block has ended, and in another process or event loop.

        The executor calls it under the connection's lock.
        """
        self._home.check()
        if self.ended:
            raise StorageError(f"{self.label} has ended: nothing can run on it any more")
        if self._nested is not None and not self._nested.ended:
            raise StorageError(f"{self.label} has a nested transaction open: use that one's repositories meanwhile")

    def _end(self) -> None:
        self.check()
        self.ended = True
        if self._status() == TransactionStatus.INERROR:  # COMMIT would roll back, and say so not
            raise StorageError(
                f"{self.label} was rolled back: a statement in its block failed, and its error was caught; "
                "run what may fail in a nested transaction()"
            )

    def _status(self) -> TransactionStatus:
        return self.connection.info.transaction_status

    def after_commit(self, callback: Callable[[], Awaitable[object]]) -> None:
        """Call `callback` once the outermost transaction is committed; never when it rolls back."""
        self.callbacks.append(callback)

    async def run(self, statement: Statement[T], values: Sequence[Any]) -> T:
        """Return the statement's result."""
        return await self.executor.run(statement, values, self.check)

    async def run_chunked(self, statement: Statement[Any], arguments: Mapping[str, Any]) -> Any:
        """Return the result of a chunked statement, all or nothing."""
        chunks = statement.encode_chunks(arguments, self.codec)
        if chunks is None:
            return await self.run(statement, statement.encode(arguments, self.codec))
        return await self.executor.run_chunks(statement, chunks, self.check)

    def listen(self, channel: str, *payloads: str) -> AsyncSignal:
        """Raise `StorageError`: changes of other sessions are awaited outside a transaction."""
        raise StorageError("waiting for others needs the storage itself (or a pool), not one connection or transaction")

    async def run_all(self, asked: Sequence[Asked]) -> list[Any]:
        """Return the results of several statements in one round trip.

        A `StorageError` takes the place of a result that cannot be made.
        """
        return await self.executor.run_all(asked, self.check)

    def stream(
        self, statement: Statement[Any], values: Sequence[Any]
    ) -> AbstractAsyncContextManager[AsyncIterator[Any]]:
        """Stream the statement's rows through a server-side cursor, 500 to a round trip.

        The statement must be a SELECT. Other statements can run between two rows. Leaving the block early does not
        abort the transaction.
        """
        return self.executor.cursor(statement, values, self.check)

    @asynccontextmanager
    async def begin(
        self, isolation: Isolation | None = None, *, read_only: bool = False, name: str | None = None
    ) -> AsyncGenerator[Transaction]:
        """Begin a savepoint. An exception rolls back the block alone, and drops its callbacks."""
        if isolation or read_only:
            raise StorageError("a nested transaction is a savepoint and keeps the isolation of the outer one")
        async with self.savepoint(self.name) as inner:
            yield inner
        self.callbacks += inner.callbacks if inner.committed else ()

    def savepoint(self, name: str) -> AbstractAsyncContextManager[Transaction]:
        """Begin a savepoint. Nothing else runs here while it is open."""
        inner = Transaction(self.executor, name)
        inner.label = f"the savepoint in {name}"
        mark = b"agent_storage_%d" % next(_savepoints)

        def nest() -> None:
            self.check()
            self._nested = inner

        undo = b"ROLLBACK TO %s; RELEASE %s" % (mark, mark)
        return inner.block(b"SAVEPOINT " + mark, b"RELEASE " + mark, undo, nest)

    @asynccontextmanager
    async def block(
        self, begin: bytes, keep: bytes, undo: bytes, check: Callable[[], None]
    ) -> AsyncGenerator[Transaction]:
        """Run `begin`, the block, and `keep`; `undo` when an exception leaves it. psycopg's `Rollback` goes no further.

        Raises `OutcomeUnknown` when the connection breaks under COMMIT.
        """
        started = time.perf_counter()
        await self.executor.command(begin, check, name=self.label)
        self.ended = sent = False
        try:
            yield self
            sent = True
            await self.executor.command(keep, self._end, name=self.label)
            self.committed = True
        except BaseException as error:
            self.ended = True
            # Cut short, `keep` has failed, or has been done.
            undone = not sent or isinstance(error, Exception) or self._status() == TransactionStatus.INERROR
            if undone:
                await self.executor.undo(undo, name=self.label)
            if not isinstance(error, psycopg.Rollback):
                raise
        self.ended = True
        logger.debug("%s took %.1f ms", self.label, (time.perf_counter() - started) * 1000)

    async def call_back(self) -> None:
        """Call every callback, if it was committed; raises the first error, which does not undo the commit."""
        first: Exception | None = None
        for callback in self.callbacks if self.committed else ():
            try:
                await callback()
            except Exception as error:
                logger.exception("a callback after the commit of transaction %s failed", self.name)
                first = first or error
        if first is not None:
            first.add_note(f"transaction {self.name} was committed before this callback failed")
            raise first


_LEVELS = {"read committed": "READ COMMITTED", "repeatable read": "REPEATABLE READ", "serializable": "SERIALIZABLE"}


@asynccontextmanager
async def outermost(
    transaction: Transaction, isolation: Isolation | None, *, read_only: bool
) -> AsyncGenerator[Transaction]:
    """Run BEGIN, the block and COMMIT. The current task is inside the transaction meanwhile."""
    level = f" ISOLATION LEVEL {_LEVELS[isolation]}" if isolation else ""
    begin = f"BEGIN{level}{' READ ONLY' if read_only else ''}".encode()
    before = current.get()
    try:
        async with transaction.block(begin, b"COMMIT", b"ROLLBACK", lambda: None):
            current.set(transaction)
            yield transaction
    finally:
        if current.get() is transaction:  # the block may be left in another context than it was entered in
            current.set(before)


class Attached(Transaction):
    """A connection that the caller owns, for a repository without a storage: `Messages(connection)`.

    Where it does not autocommit, a statement begins a transaction, as psycopg's own do, which the caller commits.
    """

    def __init__(self, connection: psycopg.AsyncConnection[Any], codec: Codec | None = None) -> None:
        if codec is None:
            settings = Settings.load()
            codec = Codec(settings.json_limit, Keyring.from_setting(settings.secret_key))
        super().__init__(executor_of(connection, codec, Generation()), "on a connection of the caller's")

    def check(self) -> None:
        """Raise `StorageError` in another process or event loop."""
        self._home.check()

    async def run(self, statement: Statement[T], values: Sequence[Any]) -> T:
        """Return the statement's result."""
        await self._begin_unless_autocommit()
        try:
            return await super().run(statement, values)
        except StaleStatement:
            if self._status() != TransactionStatus.IDLE:
                raise
            return await super().run(statement, values)

    async def run_chunked(self, statement: Statement[Any], arguments: Mapping[str, Any]) -> Any:
        """Return the result of a chunked statement, all or nothing."""
        await self._begin_unless_autocommit()
        return await super().run_chunked(statement, arguments)

    @asynccontextmanager
    async def stream(self, statement: Statement[Any], values: Sequence[Any]) -> AsyncGenerator[AsyncIterator[Any]]:
        """Stream the statement's rows, in the open transaction, or in a new one that ends with the block.

        In the latter case an exception that leaves the block undoes what was written on the connection meanwhile.
        """
        async with self.begin(name=statement.name) as transaction, transaction.stream(statement, values) as rows:
            yield rows

    @asynccontextmanager
    async def begin(
        self, isolation: Isolation | None = None, *, read_only: bool = False, name: str | None = None
    ) -> AsyncGenerator[Transaction]:
        """Begin a transaction, or a savepoint inside the one that is open."""
        self.check()
        name = name or "unnamed"
        if self._status() == TransactionStatus.IDLE:
            transaction = Transaction(self.executor, name)
            async with outermost(transaction, isolation, read_only=read_only):
                yield transaction
        else:
            async with self.savepoint(name) as transaction:
                yield transaction
        await transaction.call_back()

    async def _begin_unless_autocommit(self) -> None:
        self.check()
        if not self.connection.autocommit and self._status() == TransactionStatus.IDLE:
            try:
                await self.connection.execute(b"")  # psycopg begins it, with the isolation that the connection has
            except psycopg.Error as error:
                raise translate(error, statement="BEGIN") from error


def executor_of(
    connection: psycopg.AsyncConnection[Any],
    codec: Codec,
    generation: Generation,
    spin: float = 0,
    deadline: float | None = None,
) -> Executor:
    """Return the executor of a connection, created on first use. Each connection has one.

    Statements are not prepared on attached connections, because psycopg deallocates all of them after a rollback if
    its cursors have prepared some.
    """
    found: Executor | None = getattr(connection, _EXECUTOR, None)
    if found is None:
        if connection.info.encoding != "utf-8":
            raise StorageError(
                f"text travels as UTF-8: set the connection's client_encoding (it is {connection.info.encoding})"
            )
        keep = getattr(connection, "keeps_statements", False)
        found = Executor(connection, codec, generation, keep=keep, spin=spin, deadline=deadline)
        setattr(connection, _EXECUTOR, found)
    return found


_EXECUTOR = "agent_storage_executor"
