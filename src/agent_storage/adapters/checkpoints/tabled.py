"""Checkpoints in an SQLite file, or in MySQL and MariaDB."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Self, Unpack

from agent_storage.adapters.checkpoints.engines.engine import Engine
from agent_storage.adapters.checkpoints.engines.migrating import EngineMigrations
from agent_storage.adapters.checkpoints.engines.mysql import Mysql
from agent_storage.adapters.checkpoints.engines.rows import at_checked
from agent_storage.adapters.checkpoints.engines.sqlite import Sqlite
from agent_storage.adapters.checkpoints.engines.table import CheckpointTable
from agent_storage.adapters.checkpoints.listing import Listing, row_id
from agent_storage.adapters.checkpoints.provider import CheckpointProvider
from agent_storage.adapters.checkpoints.threads import Threads
from agent_storage.statements.lists import Found, Page, check_offset, given
from agent_storage.tables.checkpoints.checkpoints.record import (
    AgentStatistics,
    Checkpoint,
    CheckpointSummary,
    NewCheckpoint,
    Pruned,
)

_JSON_LIMIT = 4 * 1024 * 1024


class TabledCheckpoints(CheckpointProvider):
    """Checkpoints in one table of another database than PostgreSQL. Connects and migrates when entered."""

    def __init__(self, engine: Engine[Any], *, json_limit: int = _JSON_LIMIT) -> None:
        self.engine = engine
        self.migrations = EngineMigrations(engine)
        self._table = CheckpointTable(engine, json_limit=json_limit)
        self._threads = Threads(engine.pool_max)

    async def open(self) -> Self:
        """Connect; the database is migrated. May be called twice. Raises `Unavailable`."""
        await self._threads.run(self.engine.open)
        return self

    async def initialize(self) -> None:
        """Connect, and apply the pending migrations. May be called twice."""
        await self.open()
        try:
            await self._threads.run(self.migrations.up)
        except BaseException:
            await self.close()
            raise

    async def roll_back(self, steps: int = 1) -> list[str]:
        """Roll back the newest migrations, with their rows. Return their ids. Raises `MigrationError`."""
        return await self._threads.run(self.migrations.down, steps)

    async def close(self) -> None:
        """Close the connections. May be called twice."""
        self.engine.close()
        await self._threads.close()

    async def __aenter__(self) -> Self:
        await self.initialize()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def store_checkpoint(self, checkpoint: NewCheckpoint) -> str:
        """Store a checkpoint. Return its id."""
        return await self._threads.run(self._table.store, checkpoint)

    async def store_checkpoints(self, checkpoints: Sequence[NewCheckpoint]) -> list[str]:
        """Store several checkpoints, all or none. Return their ids."""
        return await self._threads.run(self._table.store_many, checkpoints)

    async def retrieve_checkpoint(self, id: str) -> Checkpoint | None:
        """Return the checkpoint with its state, or None."""
        row = row_id(id)
        return None if row is None else await self._threads.run(self._table.get, row)

    async def retrieve_checkpoints(
        self, session_id: str, at: datetime | None = None, *, owner: str | None = None, limit: int = 100
    ) -> Found[Checkpoint]:
        """Return the newest checkpoint of each agent of a session, as of the moment `at`."""
        return await self._threads.run(self._table.as_of, session_id, at_checked(at), owner, limit)

    async def latest_checkpoint(
        self, agent_id: str, name: str | None = None, *, owner: str | None = None
    ) -> Checkpoint | None:
        """Return the newest checkpoint of an agent, or None."""
        return await self._threads.run(self._table.latest, agent_id, name, owner)

    async def list_checkpoints(
        self,
        agent_id: str | None = None,
        session_id: str | None = None,
        limit: int = 100,
        before: datetime | None = None,
        after: datetime | None = None,
        **listing: Unpack[Listing],
    ) -> Page[CheckpointSummary]:
        """Return a page of checkpoints without their states."""
        asked: dict[str, Any] = dict(listing)
        where, order_by, cursor = (
            asked.pop("where", None),
            asked.pop("order_by", "-captured_at"),
            asked.pop("cursor", None),
        )
        offset, total = check_offset(asked.pop("offset", 0), cursor, "checkpoints"), asked.pop("total", False)
        filters = given(
            agent_id=agent_id, session_id=session_id, captured_at__lt=before, captured_at__gt=after, **asked
        )
        return await self._threads.run(self._table.summaries, where, filters, order_by, limit, offset, cursor, total)

    async def delete_checkpoint(self, id: str) -> bool:
        """Delete the checkpoint. Return whether there was one."""
        row = row_id(id)
        return row is not None and await self._threads.run(self._table.delete, row)

    async def prune_checkpoints(
        self,
        max_age: timedelta | None = None,
        max_per_agent: int | None = None,
        *,
        owner: str | None = None,
        keep_latest: bool = True,
    ) -> Pruned:
        """Delete old and superfluous checkpoints. Return the freed amount."""
        return await self._threads.run(self._table.prune, max_age, max_per_agent, owner, keep_latest)

    async def checkpoint_statistics(
        self, agent_id: str | None = None, *, owner: str | None = None, limit: int = 100
    ) -> Found[AgentStatistics]:
        """Return the number, the bytes and the newest time of each agent's checkpoints."""
        return await self._threads.run(self._table.statistics, agent_id, owner, limit)


class SqliteCheckpoints(TabledCheckpoints):
    """Checkpoints in an SQLite file, which is created if it does not exist.

    `busy_timeout`: how long a writer waits for others. `synchronous="normal"` is faster; a power failure may then undo
    the last writes, the end of a process does not.
    """

    def __init__(self, path: str | Path, *, json_limit: int = _JSON_LIMIT, **settings: Any) -> None:
        super().__init__(Sqlite(path, **settings), json_limit=json_limit)


class MysqlCheckpoints(TabledCheckpoints):
    """Checkpoints in a database of MySQL 8 or MariaDB, which exists. Needs the extra `mysql`.

    Beyond this computer the server's certificate is verified, unless `tls="require"` or `tls="off"`.
    """

    def __init__(self, url: str | None = None, *, json_limit: int = _JSON_LIMIT, **settings: Any) -> None:
        super().__init__(Mysql(url, **settings), json_limit=json_limit)
