"""Statements on one connection: transactions, savepoints, and connections of the caller's own."""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from contextvars import ContextVar
from itertools import count
from typing import Any, Literal, Protocol, TypeVar, runtime_checkable

import psycopg
from psycopg.pq import TransactionStatus

from agent_storage.connection.forks import LoopHome
from agent_storage.connection.listener import AsyncSignal
from agent_storage.connection.rows import Codec
from agent_storage.database.fastpath.executor import Executor
from agent_storage.database.fastpath.prepared import Generation, StaleStatement
from agent_storage.errors import StorageError, translate
from agent_storage.statement import Statement

T = TypeVar("T")
#: A statement and the values that it is sent with.
Asked = tuple[Statement[Any], Sequence[Any]]
Isolation = Literal["read committed", "repeatable read", "serializable"]

logger = logging.getLogger("agent_storage")

#: The states of a connection that has a transaction open.
OPEN = (TransactionStatus.INTRANS, TransactionStatus.INERROR)

#: The transaction block that the current task is in, so that the pool is not used there by mistake.
current: ContextVar[Transaction | None] = ContextVar("agent_storage_transaction", default=None)

_savepoints = count(1)


@runtime_checkable
class Runner(Protocol):
    """What a repository needs: run a declared statement, stream one, open a transaction."""

    @property
    def codec(self) -> Codec:
        """How values are encoded."""
        ...

    async def run(self, statement: Statement[T], values: Sequence[Any]) -> T:
        """The statement's result."""
        ...

    async def run_chunked(self, statement: Statement[T], arguments: Mapping[str, Any]) -> T:
        """The result of a chunked statement, all or nothing."""
        ...

    def stream(
        self, statement: Statement[Any], values: Sequence[Any]
    ) -> AbstractAsyncContextManager[AsyncIterator[Any]]:
        """The statement's rows, one at a time, in bounded memory."""
        ...

    def begin(
        self, isolation: Isolation | None = None, *, read_only: bool = False, name: str | None = None
    ) -> AbstractAsyncContextManager[Transaction]:
        """A transaction, or a savepoint inside one."""
        ...

    def listen(self, channel: str, payload: str) -> AsyncSignal:
        """What is woken when `channel` says `payload`."""
        ...


def check_accepted(results: Sequence[Any]) -> None:
    """Raises the first result that is an error."""
    for result in results:
        if isinstance(result, StorageError):
            raise result


class OneConnection(ABC):
    """What a transaction and a connection of the caller's own have in common."""

    def __init__(self, connection: psycopg.AsyncConnection[Any], executor: Executor, codec: Codec) -> None:
        self.connection = connection
        self.executor = executor
        self.codec = codec
        self.home = LoopHome()

    @abstractmethod
    def check(self) -> None:
        """Raises `StorageError` where it cannot be used any more. Called under the connection's lock."""

    @abstractmethod
    def begin(
        self, isolation: Isolation | None = None, *, read_only: bool = False, name: str | None = None
    ) -> AbstractAsyncContextManager[Transaction]:
        """A transaction, or a savepoint inside one."""

    async def run(self, statement: Statement[T], values: Sequence[Any]) -> T:
        """The statement's result."""
        return await self.executor.run(statement, values, self.check)

    async def run_chunked(self, statement: Statement[Any], arguments: Mapping[str, Any]) -> Any:
        """The result of a chunked statement, all or nothing."""
        chunks = statement.encode_chunks(arguments, self.codec)
        if chunks is None:
            return await self.run(statement, statement.encode(arguments, self.codec))
        return await self.executor.run_chunks(statement, chunks, check=self.check)

    def listen(self, channel: str, payload: str) -> AsyncSignal:
        """Refused: what others commit is waited for outside a transaction."""
        raise StorageError("waiting for others needs the storage itself (or a pool), not one connection or transaction")


class Transaction(OneConnection):
    """One open transaction, or a savepoint inside it. Its repositories share its connection.

    An exception that leaves its block rolls back. When the block has ended, everything on it is refused.
    """

    def __init__(
        self,
        connection: psycopg.AsyncConnection[Any],
        executor: Executor,
        codec: Codec,
        name: str,
        pool: object = None,
    ) -> None:
        super().__init__(connection, executor, codec)
        self.name = name
        #: How errors call it.
        self.label = f"transaction {name}"
        #: What its connection comes from.
        self.pool = pool
        self.ended = False
        self.committed = False
        self.callbacks: list[Callable[[], Awaitable[object]]] = []

    def check(self) -> None:
        """Raises `StorageError` when its block has ended, and in another process or event loop."""
        self.home.check()
        if self.ended:
            raise StorageError(f"{self.label} has ended: nothing can run on it any more")

    def end(self) -> None:
        """The same, and it ends. Raises also when COMMIT would keep nothing."""
        self.check()
        self.ended = True
        if self.connection.info.transaction_status == TransactionStatus.INERROR:
            raise StorageError(
                f"{self.label} was rolled back: a statement in its block failed, and its error was caught; "
                "run what may fail in a nested transaction()"
            )

    def after_commit(self, callback: Callable[[], Awaitable[object]]) -> None:
        """Call `callback` once the outermost transaction is committed; never when it rolls back."""
        self.callbacks.append(callback)

    async def run_all(self, asked: Sequence[Asked]) -> list[Any]:
        """The results of several statements in one round trip; one that cannot be made is the error that says so."""
        return await self.executor.run_all(asked, check=self.check)

    def stream(
        self, statement: Statement[Any], values: Sequence[Any]
    ) -> AbstractAsyncContextManager[AsyncIterator[Any]]:
        """The statement's rows through a server-side cursor, 500 to a round trip; it has to be a SELECT.

        Other statements can run between two rows. Leaving the block early spoils nothing.
        """
        return self.executor.cursor(statement, values, self.check)

    @asynccontextmanager
    async def begin(
        self, isolation: Isolation | None = None, *, read_only: bool = False, name: str | None = None
    ) -> AsyncGenerator[Transaction]:
        """A savepoint: an exception undoes the block alone, and its callbacks with it."""
        if isolation or read_only:
            raise StorageError("a nested transaction is a savepoint and keeps the isolation of the outer one")
        async with savepoint(self, self.name) as inner:
            yield inner
        self.callbacks += inner.callbacks

    async def start(self, isolation: Isolation | None, *, read_only: bool) -> None:
        """BEGIN."""
        level = f" ISOLATION LEVEL {_LEVELS[isolation]}" if isolation else ""
        begin = f"BEGIN{level}{' READ ONLY' if read_only else ''}"
        await self.executor.command(begin.encode(), self.check, name=self.label)

    async def commit(self) -> None:
        """COMMIT. Raises `OutcomeUnknown` when the connection breaks under it."""
        try:
            await self.executor.command(b"COMMIT", self.end, name=self.label)
        except StorageError:
            await self.rollback()
            raise
        self.committed = True

    async def rollback(self) -> None:
        """ROLLBACK; an error is only logged, since a connection that cannot roll back is closed by its pool."""
        self.ended = True
        await self.undo(b"ROLLBACK")

    async def undo(self, command: bytes) -> None:
        """Roll back, unless the server has done so already."""
        if self.home.forked or self.connection.info.transaction_status not in OPEN:
            return
        try:
            await self.executor.command(command, name=self.label)
        except StorageError as error:
            logger.warning("%s could not be rolled back: %s", self.label, error)

    async def call_back(self) -> None:
        """Call every callback; raises the first error, which does not undo the commit."""
        first: Exception | None = None
        for callback in self.callbacks:
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
async def savepoint(outer: OneConnection, name: str) -> AsyncGenerator[Transaction]:
    """A savepoint on the connection of `outer`, which has a transaction open."""
    inner = Transaction(outer.connection, outer.executor, outer.codec, name)
    inner.label = f"the savepoint in {name}"
    mark = b"agent_storage_%d" % next(_savepoints)
    back = b"ROLLBACK TO %s; RELEASE %s" % (mark, mark)
    await outer.executor.command(b"SAVEPOINT " + mark, outer.check, name=inner.label)
    try:
        yield inner
    except BaseException as error:
        inner.ended = True
        await inner.undo(back)
        if isinstance(error, psycopg.Rollback):
            return
        raise
    try:
        await inner.executor.command(b"RELEASE " + mark, inner.end, name=inner.label)
    except StorageError:
        await inner.undo(back)
        raise


@asynccontextmanager
async def transaction_block(
    transaction: Transaction, isolation: Isolation | None, *, read_only: bool
) -> AsyncGenerator[Transaction]:
    """BEGIN, the block, COMMIT; ROLLBACK when an exception leaves it. The current task is inside meanwhile."""
    started = time.perf_counter()
    await transaction.start(isolation, read_only=read_only)
    before = current.get()
    current.set(transaction)
    try:
        try:
            yield transaction
        except psycopg.Rollback:
            await transaction.rollback()
            return
        except BaseException:
            await transaction.rollback()
            raise
        await transaction.commit()
    finally:
        transaction.ended = True
        if current.get() is transaction:  # the block may be left in another context than it was entered in
            current.set(before)
    elapsed = (time.perf_counter() - started) * 1000
    logger.debug("transaction %s committed in %.1f ms", transaction.name, elapsed)


class Attached(OneConnection):
    """A connection that the caller made and owns, for a repository that stands alone: `Messages(connection)`.

    Where it does not autocommit, a statement begins a transaction, as psycopg's own do, which the caller commits.
    """

    def __init__(self, connection: psycopg.AsyncConnection[Any], codec: Codec | None = None) -> None:
        codec = codec or Codec()
        super().__init__(connection, executor_of(connection, codec, Generation()), codec)

    def check(self) -> None:
        """Raises `StorageError` in another process or event loop."""
        self.home.check()

    async def run(self, statement: Statement[T], values: Sequence[Any]) -> T:
        """The statement's result. Raises the package's error for the psycopg one."""
        await self._begin_unless_autocommit()
        try:
            return await super().run(statement, values)
        except StaleStatement:
            if self._status() != TransactionStatus.IDLE:
                raise
            return await super().run(statement, values)

    async def run_chunked(self, statement: Statement[Any], arguments: Mapping[str, Any]) -> Any:
        """The result of a chunked statement, all or nothing."""
        await self._begin_unless_autocommit()
        return await super().run_chunked(statement, arguments)

    @asynccontextmanager
    async def stream(self, statement: Statement[Any], values: Sequence[Any]) -> AsyncGenerator[AsyncIterator[Any]]:
        """The statement's rows, inside the transaction that is open, or one of its own."""
        async with self.begin(name=statement.name) as transaction, transaction.stream(statement, values) as rows:
            yield rows

    @asynccontextmanager
    async def begin(
        self, isolation: Isolation | None = None, *, read_only: bool = False, name: str | None = None
    ) -> AsyncGenerator[Transaction]:
        """A transaction, or a savepoint inside the one that is open."""
        name = name or "unnamed"
        if self._status() == TransactionStatus.IDLE:
            transaction = Transaction(self.connection, self.executor, self.codec, name)
            async with transaction_block(transaction, isolation, read_only=read_only):
                yield transaction
        else:
            async with savepoint(self, name) as transaction:
                yield transaction
        await transaction.call_back()

    def _status(self) -> TransactionStatus:
        return self.connection.info.transaction_status

    async def _begin_unless_autocommit(self) -> None:
        if not self.connection.autocommit and self._status() == TransactionStatus.IDLE:
            try:
                await self.connection.execute(b"")  # psycopg begins it, with the isolation that the connection has
            except psycopg.Error as error:
                raise translate(error, statement="BEGIN") from error


def executor_of(connection: psycopg.AsyncConnection[Any], codec: Codec, generation: Generation) -> Executor:
    """The executor of a connection, made when it is first wanted: there is one, whoever uses the connection.

    On connections of the caller's own the server keeps no statements: psycopg deallocates all of them after a
    rollback when its cursors have prepared some.
    """
    found: Executor | None = getattr(connection, _EXECUTOR, None)
    if found is None:
        keep = getattr(connection, "keeps_statements", False)
        found = Executor(connection, codec, generation, keep=keep)
        setattr(connection, _EXECUTOR, found)
    return found


_EXECUTOR = "agent_storage_executor"
