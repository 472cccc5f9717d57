"""The database and its transactions: everything that implements `run(statement, values)`.

A repository is bound to one runner: the pool (`Database`), one transaction (`Transaction`), or a connection that a
service made itself (`Attached`). Reads and writes outside a transaction are one autocommit round trip.
"""

from __future__ import annotations

import asyncio
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from contextvars import ContextVar
from typing import Any, Literal, Protocol, TypeVar, cast, runtime_checkable
from weakref import WeakKeyDictionary

import psycopg
import psycopg_pool
from psycopg import sql
from psycopg.pq import TransactionStatus

from agent_storage.compiled.parameters import Unsuitable
from agent_storage.compiled.prepared import GONE
from agent_storage.connection import forks
from agent_storage.connection import pool as pools
from agent_storage.connection.callers import current_task, is_own_task
from agent_storage.connection.listener import AsyncSignal, Listener
from agent_storage.connection.rows import Codec
from agent_storage.connection.settings import Settings
from agent_storage.connection.text import register
from agent_storage.errors import (
    ConnectionLost,
    OutsideTransaction,
    PoolTimeout,
    Retryable,
    StorageError,
    translate,
)
from agent_storage.secrets import Keyring
from agent_storage.statement import Statement

from .compiled.wire import Wire, Wired

T = TypeVar("T")
Isolation = Literal["read committed", "repeatable read", "serializable"]

logger = logging.getLogger("agent_storage")

#: Rows that a stream fetches at a time: large enough to hide the round trip, small enough for flat memory.
_CHUNK = 1000 if psycopg.capabilities.has_stream_chunked() else 1

#: How often others may run before a stream counts as open: closing one that was left takes two, and two more for each
#: iterator around it.
_TICKS = 20

#: The database whose transaction the current task is in, so that its pool is not used there by mistake.
_inside: ContextVar[object] = ContextVar("agent_storage_inside", default=None)


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

    async def run_divided(self, statement: Statement[T], arguments: Mapping[str, Any]) -> T:
        """The result of a divisible statement, all or nothing."""
        ...

    def stream(self, statement: Statement[Any], values: Sequence[Any]) -> AsyncIterator[Any]:
        """The statement's rows, one at a time, in bounded memory."""
        ...

    def begin(
        self, isolation: Isolation | None = None, *, read_only: bool = False, name: str | None = None
    ) -> AbstractAsyncContextManager[Transaction]:
        """A transaction, or a savepoint inside one."""
        ...

    def listen(self, channel: str, payload: str) -> AsyncSignal:
        """What wakes who waits for `channel` to say `payload`."""
        ...


async def execute(
    connection: psycopg.AsyncConnection[Any], statement: Statement[T], values: Sequence[Any], codec: Codec
) -> T:
    """Run one statement on a connection and make its result: over its wire, where it has one, or through a cursor."""
    wire: Wire | None = getattr(connection, "wire", None)
    if wire is not None:
        try:
            return await wire.run(statement, values, codec)
        except Unsuitable:
            pass
    return await _fetch(connection, statement, values, codec)


async def _fetch(
    connection: psycopg.AsyncConnection[Any], statement: Statement[T], values: Sequence[Any], codec: Codec
) -> T:
    """The same through psycopg's cursor, the reference for the compiled path."""
    cursor = psycopg.AsyncRawCursor(connection)
    await cursor.execute(statement.query, values, binary=True)
    result = cursor.pgresult
    if result is None or not result.nfields:
        return statement.result(None, (), cursor.rowcount, codec)
    # Names alone: the cursor's description makes an object for each column, every time it is looked at.
    names = [(result.fname(number) or b"").decode() for number in range(result.nfields)]
    return statement.result(names, await cursor.fetchall(), cursor.rowcount, codec)


class _Stream:
    """The stream that is open on a connection: its rows, and the task that reads them."""

    def __init__(self) -> None:
        self.rows: AsyncGenerator[Any, None] | None = None
        self.reader: object = None
        #: Whether a statement that is cancelled spoils nothing that is to be kept.
        self.cancel = False
        #: The rows that a block's end has cut off.
        self.ended: AsyncGenerator[Any, None] | None = None

    async def close(self, *, cancel: bool) -> None:
        """End it, since the block ends that it is in; who holds its iterator hears of that."""
        rows, self.rows, self.reader = self.rows, None, None
        if rows is not None:
            self.cancel, self.ended = cancel, rows
            async with _ending(rows):
                pass


@asynccontextmanager
async def _ending(rows: AsyncGenerator[Any, None]) -> AsyncGenerator[None, None]:
    """Close `rows` when the block ends. Where somebody reads them at that moment, he stops with his next row."""
    try:
        yield
    finally:
        try:
            async with aclosing(rows):
                pass
        except (RuntimeError, ValueError) as error:
            if "already" not in str(error):  # running, executing
                raise


async def _rows(
    connection: psycopg.AsyncConnection[Any],
    statement: Statement[Any],
    values: Sequence[Any],
    codec: Codec,
    stream: _Stream,
) -> AsyncGenerator[Any, None]:
    """The statement's rows. Closed early, it is cancelled, or else its other rows are read and dropped."""
    wire: Wire | None = getattr(connection, "wire", None)
    if wire is not None:
        try:
            async with aclosing(wire.stream(statement, values, codec, lambda: stream.cancel)) as parts:
                async for part in parts:
                    for row in part:
                        yield row
            return
        except Unsuitable:  # it comes before the first row
            pass
    cursor = psycopg.AsyncRawCursor(connection)
    made: Callable[[Sequence[Any]], Any] | None = None
    streamed = cursor.stream(statement.query, values, binary=True, size=_CHUNK)
    async with aclosing(cast(AsyncGenerator[Any, None], streamed)) as rows:
        try:
            async for row in rows:
                made = made or statement.rows.each([column.name for column in cursor.description or ()], codec)
                yield made(row)
        except GeneratorExit:
            if not stream.cancel:  # psycopg would
                async for _ in rows:
                    pass
            raise


async def _divided(runner: Runner, statement: Statement[Any], arguments: Mapping[str, Any]) -> Any:
    """One statement where there are few rows, else its parts in a transaction (a savepoint inside one)."""
    parts = statement.encode_parts(arguments, runner.codec)
    if parts is None:
        return await runner.run(statement, statement.encode(arguments, runner.codec))
    async with runner.begin(name=statement.name) as transaction:
        return await transaction.run_parts(statement, parts)


def _check_not_ended(stream: _Stream, rows: AsyncGenerator[Any, None]) -> None:
    if stream.ended is rows:
        raise StorageError("the transaction's block in which this stream was begun has ended")


#: That of each connection, whoever runs statements on it.
_streams: WeakKeyDictionary[psycopg.AsyncConnection[Any], _Stream] = WeakKeyDictionary()


class _OnConnection(ABC):
    """What a transaction and an attached connection have in common: one connection, used by one task."""

    def __init__(self, connection: psycopg.AsyncConnection[Any], codec: Codec) -> None:
        self.connection = connection
        self.codec = codec
        self.open_stream = _streams.setdefault(connection, _Stream())

    async def check_free(self) -> None:
        """Raises `StorageError` where waiting for the end of a stream would wait for ever: inside its own loop."""
        for _ in range(_TICKS):
            if self.open_stream.reader is None or not is_own_task(self.open_stream.reader):
                return
            await asyncio.sleep(0)  # the loop may have been left, and its iterator be closed in a moment
        raise StorageError(
            "a stream is open on this connection: read it to its end or close it first, or run the other statement on "
            "another connection"
        )

    @abstractmethod
    def begin(
        self, isolation: Isolation | None = None, *, read_only: bool = False, name: str | None = None
    ) -> AbstractAsyncContextManager[Transaction]:
        """A transaction, or a savepoint inside one."""

    async def run(self, statement: Statement[T], values: Sequence[Any]) -> T:
        """The statement's result. Raises the package's error for the psycopg one."""
        await self.check_free()
        try:
            return await execute(self.connection, statement, values, self.codec)
        except psycopg.Error as error:
            raise translate(error, statement=statement.name, table=statement.table) from error

    async def run_divided(self, statement: Statement[Any], arguments: Mapping[str, Any]) -> Any:
        """The result of a divisible statement, all or nothing."""
        return await _divided(self, statement, arguments)

    async def stream(self, statement: Statement[Any], values: Sequence[Any]) -> AsyncIterator[Any]:
        """The statement's rows; nothing else can run on this connection until the last one is read.

        A loop that is left early inside a transaction reads and drops the others: cancelling would spoil it.
        """
        await self.check_free()
        stream = self.open_stream
        alone = self.connection.info.transaction_status == TransactionStatus.IDLE
        rows = _rows(self.connection, statement, values, self.codec, stream)
        try:
            async with _ending(rows):
                async for row in rows:
                    _check_not_ended(stream, rows)
                    stream.rows, stream.reader, stream.cancel = rows, current_task(), alone
                    try:
                        yield row
                    except GeneratorExit:
                        stream.reader = None  # who comes now need not wait for long
                        raise
        except psycopg.Error as error:
            raise translate(error, statement=statement.name, table=statement.table) from error
        except (RuntimeError, ValueError):  # read while it is being closed
            _check_not_ended(stream, rows)
            raise
        finally:
            if stream.rows is rows:
                stream.rows = stream.reader = None
        _check_not_ended(stream, rows)

    def listen(self, channel: str, payload: str) -> AsyncSignal:
        """Refused: what others commit is waited for outside a transaction."""
        raise StorageError("waiting for others needs the storage itself (or a pool), not one connection or transaction")


class Transaction(_OnConnection):
    """One open transaction. Its repositories share its connection; an exception in its block rolls back."""

    def __init__(self, connection: psycopg.AsyncConnection[Any], codec: Codec, name: str) -> None:
        super().__init__(connection, codec)
        self.name = name
        self.callbacks: list[Callable[[], Awaitable[object]]] = []

    def after_commit(self, callback: Callable[[], Awaitable[object]]) -> None:
        """Call `callback` once the outermost transaction is committed; never when it rolls back."""
        self.callbacks.append(callback)

    async def run_parts(self, statement: Statement[list[T]], parts: Iterable[Sequence[Any]]) -> list[T]:
        """What the parts of a statement give, together. When one fails, the block has to be left with its error."""
        wire: Wire | None = getattr(self.connection, "wire", None)
        if wire is not None:
            try:
                return await wire.run_parts(statement, parts, self.codec)
            except Unsuitable:
                pass
            except psycopg.Error as error:
                raise translate(error, statement=statement.name, table=statement.table) from error
        made: list[T] = []
        for values in parts:
            made += await self.run(statement, values)
        return made

    async def copy(self, table: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        """Add rows by COPY; the values are encoded as for any statement. Raises what an INSERT would."""
        await self.check_free()
        text = sql.SQL("COPY {} ({}) FROM STDIN").format(
            sql.Identifier(table), sql.SQL(", ").join(map(sql.Identifier, columns))
        )
        try:
            async with self.connection.cursor() as cursor, cursor.copy(text) as copy:
                for row in rows:
                    await copy.write_row(row)
        except psycopg.Error as error:
            raise translate(error, statement=f"{table}.copy", table=table) from error

    @asynccontextmanager
    async def begin(
        self, isolation: Isolation | None = None, *, read_only: bool = False, name: str | None = None
    ) -> AsyncGenerator[Transaction, None]:
        """A savepoint: an exception undoes the block alone, and its callbacks with it."""
        if isolation or read_only:
            raise StorageError("a nested transaction is a savepoint and keeps the isolation of the outer one")
        await self.check_free()
        before, finished = len(self.callbacks), False
        try:
            async with self.connection.transaction():
                try:
                    yield self
                except BaseException:
                    await self._close_own_stream(cancel=True)
                    raise
                await self._close_own_stream(cancel=False)
                await _check_kept(self.connection, f"the savepoint in {self.name}")
                finished = True
        except psycopg.Error as error:
            raise translate(error, statement=f"savepoint in {self.name}") from error
        finally:
            if not finished:
                del self.callbacks[before:]

    async def _close_own_stream(self, *, cancel: bool) -> None:
        if is_own_task(self.open_stream.reader):  # another task's is waited for
            await self.open_stream.close(cancel=cancel)


class Attached(_OnConnection):
    """A connection that the caller made and owns, for a repository that stands alone: `Messages(connection)`."""

    def __init__(self, connection: psycopg.AsyncConnection[Any], codec: Codec | None = None) -> None:
        register(connection)
        super().__init__(connection, codec or Codec())

    @asynccontextmanager
    async def begin(
        self, isolation: Isolation | None = None, *, read_only: bool = False, name: str | None = None
    ) -> AsyncGenerator[Transaction, None]:
        """A transaction on this connection, or a savepoint when one is open."""
        await self.check_free()
        transaction = Transaction(self.connection, self.codec, name or "attached")
        async with _transaction(transaction, isolation, read_only=read_only):
            yield transaction


@asynccontextmanager
async def _transaction(
    transaction: Transaction, isolation: Isolation | None, *, read_only: bool
) -> AsyncGenerator[None, None]:
    """BEGIN … COMMIT around the block; a connection that breaks at COMMIT leaves the outcome unknown."""
    connection, finished, started = transaction.connection, False, time.perf_counter()
    try:
        async with connection.transaction():
            if isolation or read_only:
                mode = f"ISOLATION LEVEL {_ISOLATION[isolation]}" if isolation else ""
                await connection.execute(f"SET TRANSACTION {mode} {'READ ONLY' if read_only else ''}".encode())
            try:
                yield
            except BaseException:
                await transaction.open_stream.close(cancel=True)
                raise
            await transaction.open_stream.close(cancel=False)
            await _check_kept(connection, f"transaction {transaction.name}")
            finished = True
    except psycopg.Error as error:
        raise translate(error, statement=f"transaction {transaction.name}", writes=finished) from error
    if not finished:
        return  # psycopg.Rollback
    elapsed = (time.perf_counter() - started) * 1000
    logger.debug("transaction %s committed in %.1f ms", transaction.name, elapsed)
    for callback in transaction.callbacks:
        await callback()


async def _check_kept(connection: psycopg.AsyncConnection[Any], name: str) -> None:
    """Raises where COMMIT would say nothing, though nothing is kept: psycopg looks at neither."""
    if connection.closed:
        raise psycopg.OperationalError("the connection was lost inside the block")
    async with connection.lock:  # what other tasks of the block have sent is part of it
        failed = connection.info.transaction_status == TransactionStatus.INERROR
    if failed:
        raise StorageError(
            f"{name} was rolled back: a statement in its block failed, and its error was caught (or came when a stream "
            "that was left early was read to its end); run what may fail in a nested transaction()"
        )


_ISOLATION = {
    "read committed": "READ COMMITTED",
    "repeatable read": "REPEATABLE READ",
    "serializable": "SERIALIZABLE",
}


class Database:
    """A pool of connections to one PostgreSQL database."""

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or Settings.load()
        self.codec = Codec(self.settings.json_limit, Keyring.from_setting(self.settings.secret_key))
        self.conninfo = ""
        self._pool: psycopg_pool.AsyncConnectionPool[Any] | None = None
        self._forks = forks.count
        self._listener: Listener | None = None

    @classmethod
    def over(cls, pool: psycopg_pool.AsyncConnectionPool[Any], settings: Settings | None = None) -> Database:
        """A database on a pool that the caller made, opens and closes."""
        database = cls(settings or Settings.load())
        database._pool = pool
        database.conninfo = pool.conninfo if isinstance(pool.conninfo, str) else ""
        return database

    def __repr__(self) -> str:
        return f"<Database {'open' if self._pool else 'closed'}>"

    async def open(self) -> None:
        """Connect. Raises `Unavailable` when the database cannot be reached, `InvalidSettings` for a bad address."""
        if self._pool is not None:
            return
        self.conninfo = await asyncio.to_thread(pools.locate, self.settings)
        await self._check_reachable()
        pool = psycopg_pool.AsyncConnectionPool(
            self.conninfo,
            connection_class=Wired,
            kwargs=pools.connection_arguments(self.settings),
            configure=_configure_wired if self.settings.compiled else configure,
            check=self._check,
            **pools.pool_arguments(self.settings),
        )
        await pool.open(wait=False)
        self._pool = pool
        self._forks = forks.count

    async def _check_reachable(self) -> None:
        """One connection of our own, since the pool retries in the background and would hide the reason."""
        try:
            connection = await psycopg.AsyncConnection.connect(self.conninfo)
        except psycopg.Error as error:
            raise pools.unreachable(error, self.conninfo) from error
        await connection.close()

    async def close(self) -> None:
        """Close every connection. May be called twice."""
        listener, self._listener = self._listener, None
        if listener is not None:
            await asyncio.to_thread(listener.close)
        pool, self._pool = self._pool, None
        if pool is not None:
            await pool.close()

    async def _check(self, connection: psycopg.AsyncConnection[Any]) -> None:
        """Called for each connection that leaves the pool; the first dead one clears the others out at once."""
        if pools.is_dead(connection.pgconn):
            await self._opened().drain()
            raise psycopg.OperationalError("the idle connection was closed by the server")

    def _opened(self) -> psycopg_pool.AsyncConnectionPool[Any]:
        if self._pool is None:
            raise StorageError("the storage is not open: use `async with Storage.open() as storage`")
        if self._forks != forks.count:
            raise StorageError("the storage was opened before fork(): open another one in the child process")
        return self._pool

    @asynccontextmanager
    async def connection(self) -> AsyncGenerator[psycopg.AsyncConnection[Any], None]:
        """A connection of the pool, for SQL of your own; it goes back when the block ends."""
        pool = self._opened()
        connection = await self._checked_out(pool)
        try:
            async with connection:
                yield connection
        finally:
            await pool.putconn(connection)

    async def _checked_out(self, pool: psycopg_pool.AsyncConnectionPool[Any]) -> psycopg.AsyncConnection[Any]:
        try:
            return await pool.getconn()
        except psycopg_pool.PoolTimeout as error:
            raise PoolTimeout(
                f"no connection became free within {self.settings.pool_timeout:g} s: the database is unreachable, "
                f"or all {self.settings.pool_max} are in use (setting pool_max)"
            ) from error
        except psycopg_pool.TooManyRequests as error:
            raise PoolTimeout("too many tasks wait for a connection; raise pool_max or start fewer") from error
        except psycopg_pool.PoolClosed as error:
            raise StorageError("the storage is closed") from error

    def _not_inside(self, what: str) -> None:
        if _inside.get() is self:
            raise OutsideTransaction(
                f"{what} was called on the storage inside a transaction() block: use the block's own repositories "
                "(async with storage.transaction() as tx: tx…), or storage.outside if you mean another connection"
            )

    async def run(self, statement: Statement[T], values: Sequence[Any]) -> T:
        """The statement's result, in one autocommit round trip.

        A read whose connection turned out to be dead is run once more. Raises `OutsideTransaction` inside a
        `transaction()` block.
        """
        self._not_inside(statement.name)
        return await self.run_outside(statement, values)

    async def run_divided(self, statement: Statement[Any], arguments: Mapping[str, Any]) -> Any:
        """The result of a divisible statement, all or nothing; in a transaction of its own where it is divided."""
        self._not_inside(statement.name)
        return await self.run_divided_outside(statement, arguments)

    async def run_divided_outside(self, statement: Statement[Any], arguments: Mapping[str, Any]) -> Any:
        """`run_divided`, also inside a transaction block: on another connection."""
        for _ in range(self.settings.pool_max):
            try:
                return await _divided(self, statement, arguments)
            except Retryable as error:
                if error.sqlstate not in GONE:
                    raise  # else that connection prepares it anew the next time; the next one may have to, as well
        return await _divided(self, statement, arguments)

    async def run_outside(self, statement: Statement[T], values: Sequence[Any]) -> T:
        """`run`, also inside a transaction block: on another connection."""
        try:
            return await self._run_once(statement, values)
        except ConnectionLost:
            if statement.writes:
                raise
            return await self._run_once(statement, values)

    async def _run_once(self, statement: Statement[T], values: Sequence[Any]) -> T:
        pool = self._opened()
        connection = await self._checked_out(pool)
        try:
            return await self._replanned(connection, statement, values)
        except psycopg.Error as error:
            raise translate(error, statement=statement.name, table=statement.table, writes=statement.writes) from error
        finally:
            await pool.putconn(connection)

    async def _replanned(
        self, connection: psycopg.AsyncConnection[Any], statement: Statement[T], values: Sequence[Any]
    ) -> T:
        """Run; when a schema change or a DISCARD made the prepared statement useless, prepare it anew and run again."""
        try:
            return await execute(connection, statement, values, self.codec)
        except psycopg.Error as error:
            if error.sqlstate not in GONE:
                raise
            await connection.execute("DEALLOCATE ALL")
            return await execute(connection, statement, values, self.codec)

    async def stream(self, statement: Statement[Any], values: Sequence[Any]) -> AsyncIterator[Any]:
        """The statement's rows in bounded memory, on a connection that is held until the last one is read.

        It has no statement time-out: a slow reader is no fault of the query. Close the iterator when you leave early.
        """
        self._not_inside(statement.name)
        begun, stream = False, _Stream()
        stream.cancel = True  # nothing else is done in its transaction
        tries = self.settings.pool_max
        while True:
            try:
                async with self.connection() as connection, connection.transaction():
                    await connection.execute("SET LOCAL statement_timeout = 0")
                    async with aclosing(_rows(connection, statement, values, self.codec, stream)) as rows:
                        async for row in rows:
                            begun = True
                            yield row
                return
            except psycopg.Error as error:
                fault = translate(error, statement=statement.name, table=statement.table)
                if begun or not tries or error.sqlstate not in GONE or not isinstance(fault, Retryable):
                    raise fault from error
                tries -= 1  # each connection has to prepare it anew

    @asynccontextmanager
    async def begin(
        self, isolation: Isolation | None = None, *, read_only: bool = False, name: str | None = None
    ) -> AsyncGenerator[Transaction, None]:
        """A transaction on a connection of its own. Raises `OutcomeUnknown` when the connection breaks at COMMIT."""
        self._not_inside("transaction()")
        async with self.connection() as connection:
            transaction = Transaction(connection, self.codec, name or "unnamed")
            token = _inside.set(self)
            try:
                async with _transaction(transaction, isolation, read_only=read_only):
                    yield transaction
            finally:
                _inside.reset(token)

    def listen(self, channel: str, payload: str) -> AsyncSignal:
        """What wakes who waits for `channel` to say `payload`; all of them share one connection beside the pool."""
        self._opened()
        if self._listener is None:
            url = self.settings.listen_url
            self._listener = Listener(self.settings.conninfo(url.get_secret_value()) if url else self.conninfo)
        return AsyncSignal(self._listener, channel, payload)

    @property
    def outside(self) -> Outside:
        """This database, usable inside a transaction block on purpose."""
        return Outside(self)


class Outside:
    """A database whose statements run on their own connection, whatever block the task is in."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.codec = database.codec

    async def run(self, statement: Statement[T], values: Sequence[Any]) -> T:
        """The statement's result, committed on its own."""
        return await self._database.run_outside(statement, values)

    async def run_divided(self, statement: Statement[Any], arguments: Mapping[str, Any]) -> Any:
        """The result of a divisible statement, committed on its own."""
        token = _inside.set(None)
        try:
            return await self._database.run_divided_outside(statement, arguments)
        finally:
            _inside.reset(token)

    def listen(self, channel: str, payload: str) -> AsyncSignal:
        """What wakes who waits for `channel` to say `payload`."""
        return self._database.listen(channel, payload)

    async def stream(self, statement: Statement[Any], values: Sequence[Any]) -> AsyncIterator[Any]:
        """The statement's rows."""
        token = _inside.set(None)
        try:
            async for row in self._database.stream(statement, values):
                yield row
        finally:
            _inside.reset(token)

    @asynccontextmanager
    async def begin(
        self, isolation: Isolation | None = None, *, read_only: bool = False, name: str | None = None
    ) -> AsyncGenerator[Transaction, None]:
        """A second transaction beside the one the task is in."""
        token = _inside.set(None)
        try:
            async with self._database.begin(isolation, read_only=read_only, name=name) as transaction:
                yield transaction
        finally:
            _inside.reset(token)


async def configure(connection: psycopg.AsyncConnection[Any]) -> None:
    """A new connection: behind a pooler the server's process is not the one that libpq was told of; never prepare."""
    if connection.prepare_threshold is None:
        return
    cursor = await connection.execute("SELECT pg_backend_pid()", prepare=False)
    row = await cursor.fetchone()
    if row is None or row[0] != connection.info.backend_pid:
        connection.prepare_threshold = None
        logger.warning("a connection pooler is in between: statements are not prepared (set STORAGE_POOLER=1)")


async def _configure_wired(connection: Wired) -> None:
    """The same, with a wire where statements may be prepared."""
    await configure(connection)
    if connection.prepare_threshold is not None:
        # The cursor prepares nothing then: when it has, it deallocates everything after a rollback, ours included.
        connection.prepare_threshold = None
        connection.wire = Wire(connection)
