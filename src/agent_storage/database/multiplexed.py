"""The database of the async face: single statements share a few connections, see `fastpath/multiplexer.py`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

import psycopg
from psycopg.conninfo import conninfo_to_dict

from agent_storage.database.fastpath.multiplexer import LIMIT, Multiplexer
from agent_storage.database.fastpath.prepared import StaleStatement
from agent_storage.database.fastpath.shared import NotShared
from agent_storage.database.pool import Database, Pool, PooledConnection
from agent_storage.errors import ConnectionLost, Unavailable
from agent_storage.statements.statement import Statement

T = TypeVar("T")


class _Pool(Pool):
    """psycopg_pool's workers swallow their cancellation, and would never end: it is repeated once."""

    def run_task(self, task: Any) -> None:
        """Let a worker run `task`. Some tasks come again and again: each is wrapped once."""
        if "run" not in vars(task):
            task.run = partial(_insistent, task.run)
        super().run_task(task)


async def _insistent(run: Callable[[], Awaitable[None]]) -> None:
    try:
        await run()
    finally:
        worker = asyncio.current_task()
        if worker is not None and worker.cancelling():
            asyncio.get_running_loop().call_soon(worker.cancel)


class MultiplexedDatabase(Database):
    """A pool, and shared connections beside it. Calls that these cannot run use the pool."""

    pool_class = _Pool
    _multiplexer: Multiplexer | None = None

    async def _open(self) -> None:
        await super()._open()
        settings = self.settings
        if settings.multiplex and settings.prepare and not settings.pooler:
            self._multiplexer = Multiplexer(
                self._connect,
                settings.multiplex,
                self.generation,
                self.codec,
                patience=settings.pool_timeout,
                spin=settings.spin,
                deadline=settings.deadline,
            )
            await self._multiplexer.connect(1)

    async def close(self) -> None:
        """Close every connection. May be called twice. After a fork, the child only forgets what its parent opened."""
        home, multiplexer = self._home, self._multiplexer
        if multiplexer is not None and home is not None and not home.abandoned:
            home.check()
            multiplexer.close()
        self._multiplexer = None
        await super().close()

    async def _connect(self) -> psycopg.AsyncConnection[Any] | None:
        """A connection to share; None where there is none now. Behind a pooler there is never one."""
        settings = self.settings
        limit = round(min(LIMIT, settings.statement_timeout or LIMIT) * 1000)
        options = f"{conninfo_to_dict(self.conninfo).get('options') or ''} -c statement_timeout={limit}ms"
        arguments = self._connection_arguments()
        with suppress(psycopg.Error):
            connection = await PooledConnection.connect(self.conninfo, options=options, **arguments)
            try:
                await self._configure(connection)
                if connection.keeps_statements:
                    return connection
                if self._multiplexer is not None:
                    self._multiplexer.drop()
            finally:
                if not connection.keeps_statements:
                    await connection.close()
        return None

    async def _run(self, statement: Statement[T], values: Sequence[Any]) -> T:
        multiplexer = self._multiplexer
        if multiplexer is None:
            return await super()._run(statement, values)
        pool = self._opened()
        try:
            return await multiplexer.run(statement, values)
        except (NotShared, StaleStatement):
            pass
        except Unavailable as error:
            undone = await self._lost(pool, error)
            if undone:
                multiplexer.renew()
            if not (undone or (statement.repeatable and isinstance(error, ConnectionLost))):
                raise
        return await super()._run(statement, values)
