"""Checkpoints in PostgreSQL."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Self, Unpack

from agent_storage.adapters.checkpoints.listing import Listing, row_id
from agent_storage.adapters.checkpoints.provider import CheckpointProvider
from agent_storage.statements.lists import Found, Page
from agent_storage.storage import Storage
from agent_storage.tables.checkpoints.checkpoints.record import (
    AgentStatistics,
    Checkpoint,
    CheckpointSummary,
    NewCheckpoint,
    Pruned,
)


class PostgresCheckpoints(CheckpointProvider):
    """Checkpoints in the table `checkpoints` of a PostgreSQL database.

    On a `Storage` that the caller opens and closes, or on one that it makes of a URL and the settings of `Storage()`.
    Connects and migrates when entered.
    """

    def __init__(self, storage: Storage | str | None = None, **settings: Any) -> None:
        """Raise `InvalidSettings`."""
        self._own = not isinstance(storage, Storage)
        self.storage = storage if isinstance(storage, Storage) else Storage(storage, **settings)

    async def open(self) -> Self:
        """Connect, unless the storage is the caller's. The database is migrated. May be called twice."""
        if self._own:
            await self.storage.connect()
        return self

    async def initialize(self) -> None:
        """Connect, and apply the pending migrations. May be called twice."""
        try:
            await self.storage.connect(migrate=True)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Close the storage, unless it is the caller's. May be called twice."""
        if self._own:
            await self.storage.close()

    async def __aenter__(self) -> Self:
        await self.initialize()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def store_checkpoint(self, checkpoint: NewCheckpoint) -> str:
        """Store a checkpoint. Return its id."""
        return str(await self.storage.checkpoints.store(checkpoint))

    async def store_checkpoints(self, checkpoints: Sequence[NewCheckpoint]) -> list[str]:
        """Store several checkpoints, all or none. Return their ids."""
        return [str(one.id) for one in await self.storage.checkpoints.store_many(checkpoints)]

    async def retrieve_checkpoint(self, id: str) -> Checkpoint | None:
        """Return the checkpoint with its state, or None."""
        row = row_id(id)
        return None if row is None else await self.storage.checkpoints.get(row)

    async def retrieve_checkpoints(
        self, session_id: str, at: datetime | None = None, *, owner: str | None = None, limit: int = 100
    ) -> Found[Checkpoint]:
        """Return the newest checkpoint of each agent of a session, as of the moment `at`."""
        return await self.storage.checkpoints.as_of(session_id, at, owner=owner, limit=limit)

    async def latest_checkpoint(
        self, agent_id: str, name: str | None = None, *, owner: str | None = None
    ) -> Checkpoint | None:
        """Return the newest checkpoint of an agent, or None."""
        return await self.storage.checkpoints.latest(agent_id, name, owner=owner)

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
        return await self.storage.checkpoints.summaries(
            agent_id, limit, session_id=session_id, before=before, after=after, **listing
        )

    async def delete_checkpoint(self, id: str) -> bool:
        """Delete the checkpoint. Return whether there was one."""
        row = row_id(id)
        return row is not None and await self.storage.checkpoints.delete(row)

    async def prune_checkpoints(
        self,
        max_age: timedelta | None = None,
        max_per_agent: int | None = None,
        *,
        owner: str | None = None,
        keep_latest: bool = True,
    ) -> Pruned:
        """Delete old and superfluous checkpoints. Return the freed amount."""
        return await self.storage.checkpoints.prune(max_age, max_per_agent, owner=owner, keep_latest=keep_latest)

    async def checkpoint_statistics(
        self, agent_id: str | None = None, *, owner: str | None = None, limit: int = 100
    ) -> Found[AgentStatistics]:
        """Return the number, the bytes and the newest time of each agent's checkpoints."""
        return await self.storage.checkpoints.statistics(agent_id, owner=owner, limit=limit)
