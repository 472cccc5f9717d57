"""Statements on one connection: transactions, savepoints, and connections of the caller's own."""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from contextvars import ContextVar
from itertools import count
from typing import Any, Literal, Protocol, TypeVar, runtime_checkable

import psycopg
from psycopg.pq import TransactionStatus

from agent_storage.connection.forks import LoopHome
from agent_storage.connection.listener import AsyncSignal
from agent_storage.connection.rows import Codec
from agent_storage.database.fastpath.executor import Executor
from agent_storage.database.fastpath.prepared import Failed, Generation, StaleStatement
from agent_storage.errors import StorageError, translate
from agent_storage.statement import Statement

T = TypeVar("T")
#: A statement and the values that it is sent with.
Asked = tuple[Statement[Any], Sequence[Any]]
Isolation = Literal["read committed", "repeatable read", "serializable"]

logger = logging.getLogger("agent_storage")

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


@contextmanager
def translated(statement: Statement[Any], *, writes: bool = False) -> Generator[None]:
    """Raise the package's error for psycopg's. `writes` says that a lost answer leaves the outcome unknown."""
    try:
        yield
    except psycopg.Error as error:
        raise translate(error, statement=statement.name, table=statement.table, writes=writes) from error


@contextmanager
def translated_batch(asked: Sequence[Asked], *, writes: bool = False) -> Generator[None]:
    """The same for one of several statements; when the answer was lost, for the first that may have written."""
    try:
        yield
    except Failed as failed:
        statement = asked[failed.place][0]
        raise translate(failed.error, statement=statement.name, table=statement.table, writes=writes) from failed.error
    except psycopg.Error as error:
        statement = next((one for one, _ in asked if not one.repeatable), asked[0][0])
        raise translate(error, statement=statement.name, table=statement.table, writes=writes) from error


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
        """The statement's result. Raises the package's error for the psycopg one."""
        try:
            return await self.executor.run(statement, values, self.check)
        except psycopg.Error as error:
            raise translate(error, statement=statement.name, table=statement.table) from error

    async def run_chunked(self, statement: Statement[Any], arguments: Mapping[str, Any]) -> Any:
        """The result of a chunked statement, all or nothing."""
        chunks = statement.encode_chunks(arguments, self.codec)
        if chunks is None:
            return await self.run(statement, statement.encode(arguments, self.codec))
        with translated(statement):
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
        with translated_batch(asked):
            return await self.executor.run_all(asked, check=self.check)

    @asynccontextmanager
    async def stream(self, statement: Statement[Any], values: Sequence[Any]) -> AsyncGenerator[AsyncIterator[Any]]:
        """The statement's rows through a server-side cursor, 500 to a round trip; it has to be a SELECT.

        Other statements can run between two rows. Leaving the block early spoils nothing.
        """
        with translated(statement):
            async with self.executor.cursor(statement, values, self.check) as rows:
                yield rows

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
        await self.command(f"BEGIN{level}{' READ ONLY' if read_only else ''}", self.check)

    async def commit(self) -> None:
        """COMMIT. Raises `OutcomeUnknown` when the connection breaks under it."""
        try:
            await self.executor.command(b"COMMIT", self.end)
        except psycopg.Error as error:
            raise translate(error, statement=self.label, committing=True) from error
        except StorageError:
            await self.rollback()
            raise
        self.committed = True

    async def rollback(self) -> None:
        """ROLLBACK; an error is only logged, since a connection that cannot roll back is closed by its pool."""
        self.ended = True
        if self.home.forked or self.connection.closed:
            return
        try:
            await self.executor.command(b"ROLLBACK")
        except (psycopg.Error, StorageError) as error:
            logger.warning("transaction %s could not be rolled back: %s", self.name, error)

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

    async def command(self, text: str, check: Callable[[], None]) -> None:
        """Run a command of the transaction's own. Raises the package's error for the psycopg one."""
        try:
            await self.executor.command(text.encode(), check)
        except psycopg.Error as error:
            raise translate(error, statement=self.label) from error


_LEVELS = {"read committed": "READ COMMITTED", "repeatable read": "REPEATABLE READ", "serializable": "SERIALIZABLE"}


@asynccontextmanager
async def savepoint(outer: OneConnection, name: str) -> AsyncGenerator[Transaction]:
    """A savepoint on the connection of `outer`, which has a transaction open."""
    inner = Transaction(outer.connection, outer.executor, outer.codec, name)
    inner.label = f"the savepoint in {name}"
    mark = f"agent_storage_{next(_savepoints)}"
    await inner.command(f"SAVEPOINT {mark}", outer.check)
    try:
        yield inner
    except BaseException as error:
        inner.ended = True
        await _undo(outer, mark, name)
        if isinstance(error, psycopg.Rollback):
            return
        raise
    try:
        await inner.command(f"RELEASE {mark}", inner.end)
    except StorageError:
        await _undo(outer, mark, name)
        raise


async def _undo(outer: OneConnection, mark: str, name: str) -> None:
    if outer.home.forked or outer.connection.closed:
        return
    try:
        await outer.executor.command(f"ROLLBACK TO {mark}; RELEASE {mark}".encode())
    except (psycopg.Error, StorageError) as error:
        logger.warning("a savepoint of transaction %s could not be rolled back: %s", name, error)


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


def executor_of(
    connection: psycopg.AsyncConnection[Any], codec: Codec, generation: Generation, *, spin: float = 0.0
) -> Executor:
    """The executor of a connection, made when it is first wanted: there is one, whoever uses the connection.

    On connections of the caller's own the server keeps no statements: psycopg deallocates all of them after a
    rollback when its cursors have prepared some.
    """
    found: Executor | None = getattr(connection, _EXECUTOR, None)
    if found is None:
        keep = getattr(connection, "keeps_statements", False)
        found = Executor(connection, codec, generation, keep=keep, spin=spin)
        setattr(connection, _EXECUTOR, found)
    return found


_EXECUTOR = "agent_storage_executor"
