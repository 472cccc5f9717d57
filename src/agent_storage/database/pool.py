"""The database: a pool of connections, single statements on them, transactions and streams."""

from __future__ import annotations

import asyncio
import copy
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any, Self, TypeVar

import psycopg
import psycopg_pool
from psycopg.pq import PipelineStatus, TransactionStatus

from agent_storage.database import connections as pools
from agent_storage.database.calls import check_out, uncut
from agent_storage.database.fastpath.executor import Executor
from agent_storage.database.fastpath.faults import checked
from agent_storage.database.fastpath.prepared import Generation, StaleStatement
from agent_storage.database.fastpath.replies import Replies
from agent_storage.database.forks import LoopHome, ProcessHome
from agent_storage.database.listener import AsyncSignal, Listener
from agent_storage.database.outage import PAUSE, Outage
from agent_storage.database.settings import Settings
from agent_storage.database.transaction import Asked, Isolation, Transaction, current, executor_of, outermost
from agent_storage.errors import (
    READ_ONLY,
    ConnectionLost,
    PoolTimeout,
    PoolUsedInTransaction,
    StorageError,
    Unavailable,
)
from agent_storage.statements.codec import Codec
from agent_storage.statements.encryption import Keyring
from agent_storage.statements.statement import Statement

T = TypeVar("T")

logger = logging.getLogger("agent_storage")

#: The statements that begin the transaction of a stream.
_UNHURRIED = b"BEGIN; SET LOCAL statement_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = 0"


class PooledConnection(psycopg.AsyncConnection[Any]):
    """A connection of the package's pools."""

    #: Whether the server keeps prepared statements for it: not behind a pooler.
    keeps_statements = False
    #: The process that it belongs to, once it is connected.
    home: ProcessHome | None = None

    @classmethod
    async def connect(cls, conninfo: str = "", *, outage: Any, **kwargs: Any) -> Self:
        """Connect, and record in `outage` whether that succeeded."""
        try:
            connection = await super().connect(conninfo, **kwargs)
        except psycopg.Error as error:
            outage.failed(str(pools.unreachable(error, conninfo)))
            if outage.restart is None:
                raise
            await asyncio.to_thread(outage.restart)
            connection = await super().connect(conninfo, **kwargs)
        outage.connected(connection)
        connection.home = ProcessHome()
        return connection

    async def wait(self, *args: Any, **kwargs: Any) -> Any:
        """Wait for the server. Raises `StorageError` in a forked process."""
        if self.home is not None:
            self.home.check()
        return await super().wait(*args, **kwargs)

    async def close(self) -> None:
        """Close the connection. A forked process only forgets it: closing ends the session of its parent."""
        if self.home is None or not self.home.forked:
            await super().close()


class Pool(psycopg_pool.AsyncConnectionPool[Any]):
    """A pool that tries to connect at least twice a second, for as long as the server is down."""

    async def schedule_task(self, task: Any, delay: float) -> None:
        """Run `task` later. Back-off would keep a pool down long after the server is back."""
        await super().schedule_task(task, min(delay, PAUSE) if hasattr(task, "attempt") else delay)


class Database:
    """A pool of connections to one PostgreSQL database."""

    pool_class: type[Pool] = Pool

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or Settings.load()
        self.codec = Codec(self.settings.json_limit, Keyring.from_setting(self.settings.secret_key))
        self.conninfo = ""
        self.generation = Generation()
        restart = partial(pools.locate, self.settings) if self.settings.embedded else None
        self.outage = Outage(self.settings.pool_timeout, restart)
        self._pool: psycopg_pool.AsyncConnectionPool[Any] | None = None
        #: The pool, if the caller made it. Nothing is prepared by name there: a pooler may be in between, and psycopg
        #: or the pool's own callbacks may deallocate what they do not know.
        self._own: psycopg_pool.AsyncConnectionPool[Any] | None = None
        self._home: LoopHome | None = None
        self._listener: Listener | None = None
        self._opening = asyncio.Lock()
        self._guarded = True

    @classmethod
    def over(cls, pool: psycopg_pool.AsyncConnectionPool[Any], settings: Settings | None = None) -> Database:
        """Return a database on a pool that the caller made, opens and closes."""
        database = cls(settings or Settings.load())
        database._pool = database._own = pool
        return database

    def __repr__(self) -> str:
        return f"<Database {'open' if self._pool else 'closed'}>"

    @property
    def opened(self) -> bool:
        """Return whether the pool is open."""
        return self._pool is not None

    async def open(self) -> None:
        """Connect. Raises `Unavailable` when the database cannot be reached, `InvalidSettings` for a bad address."""
        async with self._opening:
            if self._pool is None:
                try:
                    await self._open()
                except BaseException:
                    await uncut(self.close())  # given up half-way, it would stay open
                    raise

    async def _open(self) -> None:
        self.conninfo = await asyncio.to_thread(pools.locate, self.settings)
        await self._check_reachable()
        pool = self.pool_class(
            self.conninfo,
            connection_class=PooledConnection,
            kwargs=self._connection_arguments(),
            configure=self._configure if self.settings.prepare or self.settings.pooler else None,
            check=self._check,
            **pools.pool_arguments(self.settings),
        )
        self._pool, self._home = pool, LoopHome()
        await pool.open(wait=False)

    def _connection_arguments(self) -> dict[str, Any]:
        return pools.connection_arguments(self.settings) | {"outage": self.outage}

    async def _configure(self, connection: PooledConnection) -> None:
        """Let the server keep prepared statements, unless a pooler is in between: its process is then another one.

        A pooler also accepts connections that it has no server for. They are closed after `pool_timeout`.
        """
        limit = self.settings.pool_timeout
        try:
            connection.pgconn.send_query(b"SELECT pg_backend_pid()")
            answer = checked(await Replies(connection, 0, limit).read(0, limit))
        except BaseException:
            connection.pgconn.finish()
            raise
        if self.settings.pooler:
            return
        if answer.get_value(0, 0) == b"%d" % connection.info.backend_pid:
            connection.keeps_statements = True
        else:
            logger.warning("a connection pooler is in between: statements are not prepared (set STORAGE_POOLER=1)")

    async def _check_reachable(self) -> None:
        """Open one connection directly, because the pool retries in the background and would hide the reason."""
        try:
            connection = await psycopg.AsyncConnection.connect(self.conninfo)
        except psycopg.Error as error:
            raise pools.unreachable(error, self.conninfo) from error
        await connection.close()

    async def close(self) -> None:
        """Close every connection. May be called twice. After a fork, the child only forgets what its parent opened.

        Raises `StorageError` in another event loop, while that in which it was opened is not closed.
        """
        pool, listener, home = self._pool, self._listener, self._home
        if home is not None and not home.abandoned:
            home.check()
        self._pool = self._listener = self._home = None
        if home is not None and home.abandoned:
            return
        if listener is not None:
            await asyncio.to_thread(listener.close)
        if pool is not None:
            await pool.close()

    async def _check(self, connection: psycopg.AsyncConnection[Any]) -> None:
        """Called for each connection that leaves the pool; the first dead one clears the others out at once."""
        if pools.is_dead(connection.pgconn):
            await self._opened().drain()
            raise psycopg.OperationalError("the idle connection was closed by the server")

    def _opened(self) -> psycopg_pool.AsyncConnectionPool[Any]:
        if self._pool is None:
            raise StorageError("the storage is not open: use `async with Storage() as storage`")
        if self._home is None:  # the caller's pool, used here for the first time
            self._home = LoopHome()
        self._home.check()
        return self._pool

    async def _check_out(self, pool: psycopg_pool.AsyncConnectionPool[Any]) -> psycopg.AsyncConnection[Any]:
        if self.outage.since is not None:
            self.outage.check()
        try:
            return await check_out(pool)
        except (psycopg_pool.PoolTimeout, psycopg_pool.TooManyRequests) as error:
            raise PoolTimeout(
                f"no connection became free within {pool.timeout:g} s: the database is unreachable, or all "
                f"{pool.max_size} are in use (setting pool_max of the storage, max_size of a given pool): {error}"
            ) from error
        except psycopg_pool.PoolClosed as error:
            raise StorageError("the storage is closed") from error

    async def _give_back(
        self, pool: psycopg_pool.AsyncConnectionPool[Any], connection: psycopg.AsyncConnection[Any]
    ) -> None:
        if self._home is not None and self._home.forked:
            return
        if connection.pgconn.pipeline_status != PipelineStatus.OFF:  # a signal came between two steps
            connection.pgconn.finish()
        await uncut(pool.putconn(connection))  # half given back, it would be lost to the pool

    def _executor(self, connection: psycopg.AsyncConnection[Any]) -> Executor:
        settings = self.settings
        return executor_of(connection, self.codec, self.generation, settings.spin, settings.deadline)

    @asynccontextmanager
    async def connection(self) -> AsyncGenerator[psycopg.AsyncConnection[Any]]:
        """Check out a connection of the pool for other SQL, until the block ends.

        It autocommits: use `connection.transaction()` for what belongs together.
        """
        pool = self._opened()
        connection = await self._check_out(pool)
        try:
            yield connection
        finally:
            await self._give_back(pool, connection)

    def _check_not_in_transaction(self, what: str) -> None:
        inside = current.get()
        if inside is not None and not inside.ended and self._guarded and inside.pool is self._pool is not None:
            raise PoolUsedInTransaction(
                f"{what} was called on the storage inside a transaction() block: use the block's own repositories "
                "(async with storage.transaction() as tx: tx…), or storage.autonomous if you mean another connection"
            )

    async def run(self, statement: Statement[T], values: Sequence[Any]) -> T:
        """Return the statement's result, in one autocommit round trip.

        A statement whose prepared form was stale runs again, and so does a repeatable one whose connection was lost.
        Raises `PoolUsedInTransaction` inside a `transaction()` block.
        """
        self._check_not_in_transaction(statement.name)
        return await self._run(statement, values)

    async def _run(self, statement: Statement[T], values: Sequence[Any]) -> T:
        return await self._attempt(lambda executor: executor.run(statement, values), repeatable=statement.repeatable)

    async def _attempt(self, run: Callable[[Executor], Awaitable[T]], *, repeatable: bool = False) -> T:
        """Run on a connection of the pool. Repeats at most once, and only if nothing was executed before."""
        last = False
        while True:
            pool = self._opened()
            connection = await self._check_out(pool)
            try:
                return await run(self._executor(connection))
            except StaleStatement:
                if last:
                    raise
            except Unavailable as error:
                undone = await self._lost(pool, error)
                if last or not (undone or (repeatable and isinstance(error, ConnectionLost))):
                    raise
            finally:
                await self._give_back(pool, connection)
            last = True

    async def _lost(self, pool: psycopg_pool.AsyncConnectionPool[Any], error: Unavailable) -> bool:
        """Replace every connection of the pool after one died without a word from the server, or is read-only.

        They were made along the same path to the same server: each would cost its own time-out, or refuse the same.
        Return whether another server can run the statement.
        """
        read_only = error.sqlstate == READ_ONLY
        if isinstance(pool, Pool) and (read_only or (isinstance(error, ConnectionLost) and error.sqlstate is None)):
            await pool.drain()
        return read_only

    async def run_chunked(self, statement: Statement[Any], arguments: Mapping[str, Any]) -> Any:
        """Return the result of a chunked statement, all or nothing."""
        self._check_not_in_transaction(statement.name)
        if statement.encode_chunks(arguments, self.codec) is None:
            return await self._run(statement, statement.encode(arguments, self.codec))
        return await self._attempt(
            lambda executor: executor.run_chunks(statement, statement.encode_chunks(arguments, self.codec) or ())
        )

    async def run_all(self, asked: Sequence[Asked]) -> list[Any]:
        """Return the results of several statements, all or nothing.

        A `StorageError` may take the place of a result that cannot be made.
        """
        self._check_not_in_transaction("batch()")
        return await self._attempt(lambda executor: executor.run_all(asked))

    @asynccontextmanager
    async def stream(self, statement: Statement[Any], values: Sequence[Any]) -> AsyncGenerator[AsyncIterator[Any]]:
        """Stream the statement's rows in bounded memory, on a connection that is held until the block ends.

        It has no statement time-out, since the reader may be slow. Leaving the block early cancels the statement.
        """
        self._check_not_in_transaction(statement.name)
        last = False
        while True:
            async with AsyncExitStack() as stack:
                executor = await stack.enter_async_context(self._unhurried(statement.name))
                try:
                    rows = await stack.enter_async_context(executor.stream(statement, values))
                except StaleStatement:
                    if last:
                        raise
                else:
                    yield rows
                    return
            last = True

    @asynccontextmanager
    async def _unhurried(self, name: str) -> AsyncGenerator[Executor]:
        """An executor in a transaction without time limits. It is committed unless its statement was cut short."""
        async with self.connection() as connection:
            executor = self._executor(connection)
            await executor.command(_UNHURRIED, name=name)
            try:
                yield executor
                if connection.info.transaction_status == TransactionStatus.INTRANS:
                    await executor.command(b"COMMIT", name=name)
            finally:
                await executor.undo(b"ROLLBACK", name=name)

    @asynccontextmanager
    async def begin(
        self, isolation: Isolation | None = None, *, read_only: bool = False, name: str | None = None
    ) -> AsyncGenerator[Transaction]:
        """Begin a transaction on a connection of the pool.

        Raises `OutcomeUnknown` when the connection breaks at COMMIT.
        """
        self._check_not_in_transaction("transaction()")
        pool = self._opened()
        async with self.connection() as connection:
            executor = self._executor(connection)
            transaction = Transaction(executor, name or "unnamed", pool)
            try:
                async with outermost(transaction, isolation, read_only=read_only):
                    yield transaction
            except Unavailable as error:
                if not read_only:
                    await self._lost(pool, error)  # which close() may have closed meanwhile
                raise
        await transaction.call_back()

    def listen(self, channel: str, *payloads: str) -> AsyncSignal:
        """Return a signal that a notification with one of `payloads` sets.

        All signals share one connection beside the pool.
        """
        self._opened()
        if self._listener is None:
            url = self.settings.listen_url
            if url is None and self._own is not None:
                pools.address(self._own)  # raises here rather than in the listener's thread
                self._listener = Listener(partial(pools.address, self._own))
            elif url is not None:
                self._listener = Listener(partial(pools.listening, self.settings, url.get_secret_value()))
            else:
                self._listener = Listener(self.conninfo)
        return AsyncSignal(self._listener, channel, payloads)

    @property
    def autonomous(self) -> Self:
        """Return this database for autonomous statements: usable inside a transaction, on other connections."""
        view = copy.copy(self)
        view._guarded = False
        return view
