"""The protocol that agents' frameworks expect of a storage of states, whatever database is below it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Protocol, Unpack, runtime_checkable

from agent_storage.adapters.checkpoints.listing import Listing
from agent_storage.statements.lists import Found, Page
from agent_storage.tables.checkpoints.checkpoints.record import (
    AgentStatistics,
    Checkpoint,
    CheckpointSummary,
    NewCheckpoint,
    Pruned,
)


@runtime_checkable
class CheckpointProvider(Protocol):
    """A storage of agents' states. Ids are text; results are the same in every database."""

    async def initialize(self) -> None:
        """Connect if necessary, and apply the pending migrations. May be called twice, and by processes at once.

        At head, and ahead of it, it only reads. Raises `MigrationError`, `Unavailable`.
        """
        ...

    async def close(self) -> None:
        """Close what was opened here. May be called twice."""
        ...

    async def store_checkpoint(self, checkpoint: NewCheckpoint) -> str:
        """Store a checkpoint. Return its id. With an `id` the call can be repeated.

        Raises `AlreadyExists` if a checkpoint with its id differs, `InvalidValue`, and `MissingReference` without its
        parent.
        """
        ...

    async def store_checkpoints(self, checkpoints: Sequence[NewCheckpoint]) -> list[str]:
        """Store the checkpoints of several agents, all or none. Return their ids, in the order given.

        Those without `captured_at` and `created_at` were captured at one moment. Raises as `store_checkpoint`.
        """
        ...

    async def retrieve_checkpoint(self, id: str) -> Checkpoint | None:
        """Return the checkpoint with its state, or None, also when `id` is no UUID."""
        ...

    async def retrieve_checkpoints(
        self, session_id: str, at: datetime | None = None, *, owner: str | None = None, limit: int = 100
    ) -> Found[Checkpoint]:
        """Return the newest checkpoint of each agent of a session, as of the moment `at`, by default now.

        In the order of agents, then of owners. `more` is whether there are further agents.
        """
        ...

    async def latest_checkpoint(
        self, agent_id: str, name: str | None = None, *, owner: str | None = None
    ) -> Checkpoint | None:
        """Return the newest checkpoint of an agent (of this name, of this owner, if given), or None."""
        ...

    async def list_checkpoints(
        self,
        agent_id: str | None = None,
        session_id: str | None = None,
        limit: int = 100,
        before: datetime | None = None,
        after: datetime | None = None,
        **listing: Unpack[Listing],
    ) -> Page[CheckpointSummary]:
        """Return a page of checkpoints without their states, by default those that were captured last first.

        `before` and `after` of their capture are exclusive. `cursor` is the `next_cursor` of the page before; `offset`
        leaves out as many. Raises `InvalidValue` for a limit that is not from 1 to 1000, a negative offset, a moment
        without a time zone, an unknown filter or order.
        """
        ...

    async def delete_checkpoint(self, id: str) -> bool:
        """Delete the checkpoint. Return whether there was one. Those that follow it lose their `parent_id`."""
        ...

    async def prune_checkpoints(
        self,
        max_age: timedelta | None = None,
        max_per_agent: int | None = None,
        *,
        owner: str | None = None,
        keep_latest: bool = True,
    ) -> Pruned:
        """Delete checkpoints (of an owner) older than `max_age`, and all but the newest `max_per_agent` of each agent.

        An agent's newest stays, however old, unless `keep_latest=False`. Agents of different owners are different
        agents. Works in batches, each committed on its own.
        """
        ...

    async def checkpoint_statistics(
        self, agent_id: str | None = None, *, owner: str | None = None, limit: int = 100
    ) -> Found[AgentStatistics]:
        """Return the number of checkpoints, their bytes and the newest time of each agent, the most bytes first.

        `bytes` are those of the JSON texts as the database stores them. Without `agent_id` it reads every row, though
        no state.
        """
        ...
