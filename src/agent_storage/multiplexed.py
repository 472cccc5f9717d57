"""The database of the async face: statements outside a transaction share a few connections, see `compiled/lanes.py`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import psycopg

from .compiled.lanes import LIMIT, Lanes
from .compiled.parameters import Unsuitable
from .compiled.wire import Wired
from .connection import pool as pools
from .database import Database, configure
from .errors import ConnectionLost, translate
from .statement import Statement

T = TypeVar("T")


class MultiplexedDatabase(Database):
    """A pool, and lanes beside it. What a lane cannot take goes to the pool, as do transactions and streams."""

    _lanes: Lanes | None = None

    async def open(self) -> None:
        """Connect. Raises `Unavailable` when the database cannot be reached, `InvalidSettings` for a bad address."""
        await super().open()
        settings = self.settings
        if self._lanes is None and settings.multiplex and settings.compiled and not settings.pooler:
            self._lanes = Lanes(self._connect, settings.multiplex)
            await self._lanes.open()

    async def close(self) -> None:
        """Close every connection. May be called twice."""
        lanes, self._lanes = self._lanes, None
        if lanes is not None:
            lanes.close()
        await super().close()

    async def _connect(self) -> psycopg.AsyncConnection[Any] | None:
        """A connection for a lane; None where there can be none now, or ever (a pooler in between)."""
        try:
            connection = await Wired.connect(self.conninfo, **pools.connection_arguments(self.settings))
        except psycopg.Error:
            return None
        try:
            await configure(connection)
            limit = min(LIMIT, self.settings.statement_timeout or LIMIT)
            await connection.execute(f"SET statement_timeout = {round(limit * 1000)}".encode())
            cursor = await connection.execute("SHOW default_transaction_isolation")
            isolation = await cursor.fetchone()
        except BaseException as error:
            await connection.close()
            if isinstance(error, psycopg.Error):
                return None
            raise
        # Behind a pooler nothing may be prepared; above READ COMMITTED reads that share a Sync would share a snapshot.
        if connection.prepare_threshold is None or isolation != ("read committed",):
            await connection.close()
            return None
        return connection

    async def run_outside(self, statement: Statement[T], values: Sequence[Any]) -> T:
        """`run`, also inside a transaction block: on another connection."""
        lanes = self._lanes
        if lanes is None:
            return await super().run_outside(statement, values)
        self._opened()
        try:
            return await lanes.run(statement, values, self.codec)
        except Unsuitable:
            return await super().run_outside(statement, values)
        except psycopg.Error as error:
            fault = translate(error, statement=statement.name, table=statement.table, writes=statement.writes)
            if isinstance(fault, ConnectionLost) and not statement.writes:
                return await super().run_outside(statement, values)
            raise fault from error
