"""Checkpoints of agents."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

from agent_storage.errors import InvalidValue
from agent_storage.repository import Repository, sql
from agent_storage.statements.pagination import Page
from agent_storage.tables.checkpoints.checkpoints.record import Checkpoint, CheckpointSummary, NewCheckpoint, Pruned

#: How many checkpoints a prune looks up, and deletes, at a time: short transactions, whatever there is to do.
_LOOKED_UP, _DELETED = 10_000, 500


class Checkpoints(Repository[Checkpoint, NewCheckpoint]):
    """The state of an agent at a moment, from which it can resume."""

    table = "checkpoints"
    refers_to_itself = True

    @sql("INSERT INTO {table} ({new.columns}) VALUES ({new.values}) RETURNING id", certain=True)
    async def store(self, new: NewCheckpoint) -> UUID:
        """The id of the new checkpoint; its state is not sent back. Raises `MissingReference` for its parent."""
        ...

    async def retrieve(self, id: UUID) -> Checkpoint | None:
        """The checkpoint with its state, or None."""
        return await self.get(id)

    @sql(
        """
        SELECT {columns}
          FROM {table}
         WHERE agent_id = %(agent_id)s
           AND (%(name)s::text IS NULL OR name = %(name)s)
         ORDER BY captured_at DESC, id DESC
         LIMIT 1
        """,
        repeatable=True,
    )
    async def latest(self, agent_id: str, name: str | None = None) -> Checkpoint | None:
        """The checkpoint that an agent captured last (with this name, when given), or None."""
        ...

    async def history(self, agent_id: str, limit: int = 100) -> list[CheckpointSummary]:
        """An agent's checkpoints without their states, newest first."""
        return (await self.summaries(agent_id, limit=limit)).items

    async def summaries(
        self,
        agent_id: str | None = None,
        limit: int = 100,
        cursor: str | None = None,
        *,
        session_id: str | None = None,
        agent_type: str | None = None,
        before: datetime | None = None,
        after: datetime | None = None,
        ascending: bool = False,
        total: bool = False,
    ) -> Page[CheckpointSummary]:
        """Checkpoints without their states, by when they were captured: newest first, unless `ascending`.

        `before` and `after` are exclusive. With `total=True` the page says how many match, from the same snapshot.
        """
        asked = {
            "agent_id": agent_id,
            "session_id": session_id,
            "agent_type": agent_type,
            "captured_at__lt": before,
            "captured_at__gt": after,
        }
        where = {name: value for name, value in asked.items() if value is not None}
        order = ["captured_at", "id"] if ascending else ["-captured_at", "-id"]
        return await self.page_of(CheckpointSummary, where, order, limit, cursor, total=total)

    @sql(
        """
        SELECT id
          FROM (SELECT id, captured_at,
                       row_number() OVER (PARTITION BY agent_id ORDER BY captured_at DESC, id DESC) AS nth
                  FROM checkpoints) ranked
         WHERE (nth > 1 OR NOT %(keep_latest)s)
           AND (captured_at < %(captured_before)s::timestamptz OR nth > %(max_per_agent)s::integer)
         LIMIT %(limit)s
        """,
        repeatable=True,
    )
    async def superfluous(
        self, captured_before: datetime | None, max_per_agent: int | None, *, keep_latest: bool, limit: int
    ) -> list[UUID]:
        """The ids of checkpoints that are too old, or of which their agent has enough newer ones."""
        ...

    @sql("""
        WITH gone AS (
            DELETE FROM checkpoints c
             WHERE id = ANY(%(ids)s)
               AND (NOT %(keep_latest)s       -- asked anew: another may have become its agent's newest
                    OR EXISTS (SELECT FROM checkpoints newer
                                WHERE newer.agent_id = c.agent_id
                                  AND (newer.captured_at, newer.id) > (c.captured_at, c.id)))
            RETURNING size_bytes
        )
        SELECT count(*) AS checkpoints, coalesce(sum(size_bytes), 0) AS bytes FROM gone
    """)
    async def remove(self, ids: list[UUID], *, keep_latest: bool) -> Pruned:
        """Delete checkpoints, but with `keep_latest` never an agent's newest."""
        ...

    async def prune(
        self, max_age: timedelta | None = None, max_per_agent: int | None = None, *, keep_latest: bool = True
    ) -> Pruned:
        """Delete checkpoints older than `max_age`, and all but the newest `max_per_agent` of each agent.

        An agent's newest stays, however old, unless `keep_latest=False`. Works in batches, each committed on its own:
        stopped halfway, the rest is left for the next time. Returns the freed amount.
        """
        if max_age is None and max_per_agent is None:
            raise InvalidValue("checkpoints: prune needs max_age, max_per_agent or both", table=self.table)
        if max_per_agent is not None and max_per_agent < 0:
            raise InvalidValue("checkpoints: max_per_agent must not be negative", table=self.table)
        captured_before = None if max_age is None else datetime.now(UTC) - max_age
        checkpoints = size = 0
        while ids := await self.superfluous(captured_before, max_per_agent, keep_latest=keep_latest, limit=_LOOKED_UP):
            found = checkpoints
            for batch in _batches(ids):
                gone = await self.remove(batch, keep_latest=keep_latest)
                checkpoints, size = checkpoints + gone.checkpoints, size + gone.bytes
            if len(ids) < _LOOKED_UP or checkpoints == found:
                break
        return Pruned(checkpoints=checkpoints, bytes=size)


def _batches(ids: list[UUID]) -> list[list[UUID]]:
    return [ids[start : start + _DELETED] for start in range(0, len(ids), _DELETED)]
