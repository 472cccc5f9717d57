"""Checkpoints of agents."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Unpack
from uuid import UUID

from typing_extensions import TypeVar

from agent_storage.errors import InvalidValue
from agent_storage.repository import IDENTIFIED, Repository, sql
from agent_storage.statements.lists import Found, Page, by_owner, given
from agent_storage.statements.records import Timestamp
from agent_storage.statements.where import Order, Where, all_of
from agent_storage.tables.checkpoints.checkpoints.record import (
    AgentStatistics,
    Checkpoint,
    CheckpointSummary,
    NewCheckpoint,
    Pruned,
)

if TYPE_CHECKING:
    from agent_storage.tables.changes import CheckpointChanges

#: How many checkpoints a prune looks up, and deletes, at a time: short transactions, whatever there is to do.
_LOOKED_UP, _DELETED = 10_000, 500

R = TypeVar("R", bound=Checkpoint, default=Checkpoint, covariant=True)
N = TypeVar("N", bound=NewCheckpoint, default=NewCheckpoint, covariant=True)


class Checkpoints(Repository[R, N]):
    """Saved states of agents, from which they can continue."""

    table = "checkpoints"
    refers_to_itself = True
    references = {"parent_id": "checkpoints"}

    @sql(
        "INSERT INTO {table} ({new.columns}) VALUES ({new.values}) RETURNING id",
        certain=True,
        identified=IDENTIFIED + "SELECT found.id FROM found",
    )
    async def store(self, new: N) -> UUID:  # pyright: ignore[reportGeneralTypeIssues]
        """Create a checkpoint and return its id alone. With an `id` the call can be repeated, as for `create`.

        Raises `AlreadyExists`, `MissingReference` for its parent.
        """
        ...

    @sql(
        by_owner(
            "SELECT {columns} FROM {table}"
            " WHERE agent_id = %(agent_id)s AND (%(name)s::text IS NULL OR name = %(name)s)",
            "captured_at DESC, id DESC",
            "1",
        ),
        repeatable=True,
    )
    async def latest(self, agent_id: str, name: str | None = None, *, owner: str | None = None) -> R | None:
        """Return the newest checkpoint of an agent (of this name, of this owner, if given), or None."""
        ...

    async def by_agent(self, agent_id: str, limit: int = 100, *, owner: str | None = None) -> Page[CheckpointSummary]:
        """Return the checkpoints of an agent (and of an owner) without their states, newest first."""
        return await self.summaries(agent_id, limit, owner=owner)

    @sql(
        """
        SELECT coalesce((SELECT captured_at FROM {table} WHERE id = ANY(%(ids)s) LIMIT 1), clock_timestamp())
        """,
        repeatable=True,
    )
    async def _moment(self, ids: list[UUID]) -> datetime:
        """Return the present time, or that of the checkpoints that a first attempt has made."""
        ...

    async def store_many(self, new: Sequence[N]) -> list[R]:
        """Create the checkpoints of several agents, all or none. Return them in the order given.

        Those without `captured_at` and `created_at` were captured at one moment. Two round trips. With ids the call can
        be repeated, as for `create_many`.
        """
        untimed = [one for one in new if one.captured_at is None and one.created_at is None]
        if untimed:
            now = await self._moment([one.id for one in untimed if one.id is not None])
            new = [
                one.model_copy(update={"captured_at": now})
                if one.captured_at is None and one.created_at is None
                else one
                for one in new
            ]
        return await self.create_many(new)

    @sql(
        """
        SELECT {c.columns}
          FROM (SELECT DISTINCT ON (agent_id, owner) id
                  FROM checkpoints
                 WHERE session_id = %(session_id)s
                   AND captured_at <= coalesce(%(at)s::timestamptz, 'infinity')
                   AND (%(owner)s::text IS NULL OR owner = %(owner)s)
                 ORDER BY agent_id, owner, captured_at DESC, id DESC) newest
          JOIN checkpoints c USING (id)
         ORDER BY c.agent_id COLLATE "C", c.owner COLLATE "C"
         LIMIT %(limit)s
        """,
        repeatable=True,
    )
    async def as_of(
        self, session_id: str, at: Timestamp | None = None, *, owner: str | None = None, limit: int = 100
    ) -> Found[R]:
        """Return the newest checkpoint of each agent of a session, as of the moment `at`, by default now.

        In the order of agents, then of owners. `more` is whether there are further agents.
        """
        ...

    @sql(
        """
        SELECT agent_id, owner, checkpoints, bytes, newest
          FROM (SELECT agent_id, owner, count(*) AS checkpoints, sum(size_bytes)::bigint AS bytes,
                       max(captured_at) AS newest
                  FROM checkpoints
                 WHERE %(agent_id)s::text IS NULL AND (%(owner)s::text IS NULL OR owner = %(owner)s)
                 GROUP BY agent_id, owner
                 UNION ALL
                SELECT agent_id, owner, count(*), sum(size_bytes)::bigint, max(captured_at)
                  FROM checkpoints
                 WHERE agent_id = %(agent_id)s AND (%(owner)s::text IS NULL OR owner = %(owner)s)
                 GROUP BY agent_id, owner) agents
         ORDER BY bytes DESC, agent_id COLLATE "C", owner COLLATE "C"
         LIMIT %(limit)s
        """,
        repeatable=True,
    )
    async def statistics(
        self, agent_id: str | None = None, *, owner: str | None = None, limit: int = 100
    ) -> Found[AgentStatistics]:
        """Return the number of checkpoints, their bytes and the newest time of each agent, the most bytes first.

        Without `agent_id` it reads every row, though no state.
        """
        ...

    async def summaries(
        self,
        agent_id: str | None = None,
        limit: int = 100,
        cursor: str | None = None,
        *,
        session_id: str | None = None,
        agent_type: str | None = None,
        name: str | None = None,
        owner: str | None = None,
        before: datetime | None = None,
        after: datetime | None = None,
        where: Where | None = None,
        order_by: Order = "-captured_at",
        offset: int = 0,
        total: bool = False,
    ) -> Page[CheckpointSummary]:
        """Return a page of checkpoints without their states, by default those that were captured last first.

        `before` and `after` of their capture are exclusive; `where` and `order_by` are those of `page`. `offset`
        leaves out as many; a cursor takes none. With `total=True` the page says how many match, from the same snapshot.
        """
        filters = given(agent_id=agent_id, session_id=session_id, agent_type=agent_type, name=name, owner=owner)
        filters |= given(captured_at__lt=before, captured_at__gt=after)
        asked = filters if where is None else all_of(filters, where)
        return await self._page_of(CheckpointSummary, asked, order_by, limit, cursor, offset=offset, total=total)

    @sql(
        """
        SELECT id
          FROM (SELECT id, captured_at,
                       row_number() OVER (PARTITION BY agent_id, owner ORDER BY captured_at DESC, id DESC) AS nth
                  FROM checkpoints
                 WHERE %(owner)s::text IS NULL OR owner = %(owner)s) ranked
         WHERE (nth > 1 OR NOT %(keep_latest)s)
           AND (captured_at < clock_timestamp() - %(max_age)s::interval OR nth > %(max_per_agent)s::integer)
         LIMIT %(limit)s
        """,
        repeatable=True,
    )
    async def _superfluous(
        self, max_age: timedelta | None, max_per_agent: int | None, *, owner: str | None, keep_latest: bool, limit: int
    ) -> list[UUID]:
        """Return the ids of checkpoints that are too old, or that have enough newer ones of their agent and owner."""
        ...

    @sql("""
        WITH locked AS MATERIALIZED (
            SELECT lock_for_delete('checkpoints', %(ids)s)
        ), gone AS (
            DELETE FROM checkpoints c
             USING locked
             WHERE id = ANY(%(ids)s)
               AND (NOT %(keep_latest)s       -- checked again: another may have become its agent's newest
                    OR CASE WHEN c.owner IS NULL       -- a plan for each: with an owner, also the owner's index
                            THEN EXISTS (SELECT FROM checkpoints newer
                                          WHERE newer.agent_id = c.agent_id AND newer.owner IS NULL
                                            AND (newer.captured_at, newer.id) > (c.captured_at, c.id))
                            ELSE EXISTS (SELECT FROM checkpoints newer
                                          WHERE newer.agent_id = c.agent_id AND newer.owner = c.owner
                                            AND (newer.captured_at, newer.id) > (c.captured_at, c.id)) END)
            RETURNING size_bytes
        )
        SELECT count(*) AS checkpoints, coalesce(sum(size_bytes), 0) AS bytes FROM gone
    """)
    async def _remove(self, ids: list[UUID], *, keep_latest: bool) -> Pruned:
        """Delete checkpoints, but with `keep_latest` never an agent's newest."""
        ...

    async def prune(
        self,
        max_age: timedelta | None = None,
        max_per_agent: int | None = None,
        *,
        owner: str | None = None,
        keep_latest: bool = True,
    ) -> Pruned:
        """Delete checkpoints (of an owner) older than `max_age`, and all but the newest `max_per_agent` of each agent.

        An agent's newest stays, however old, unless `keep_latest=False`. Agents of different owners are different
        agents. Works in batches, each committed on its own: stopped halfway, the rest is left for the next time.
        Returns the freed amount.
        """
        if max_age is None and max_per_agent is None:
            raise InvalidValue("checkpoints: prune needs max_age, max_per_agent or both", table=self.table)
        if max_per_agent is not None and max_per_agent < 0:
            raise InvalidValue("checkpoints: max_per_agent must not be negative", table=self.table)
        checkpoints = size = 0
        while ids := await self._superfluous(
            max_age, max_per_agent, owner=owner, keep_latest=keep_latest, limit=_LOOKED_UP
        ):
            found = checkpoints
            for batch in _batches(ids):
                gone = await self._remove(batch, keep_latest=keep_latest)
                checkpoints, size = checkpoints + gone.checkpoints, size + gone.bytes
            if len(ids) < _LOOKED_UP or checkpoints == found:
                break
        return Pruned(checkpoints=checkpoints, bytes=size)

    if TYPE_CHECKING:

        async def update(self, id: UUID, /, **changes: Unpack[CheckpointChanges]) -> R: ...  # noqa: D102


def _batches(ids: list[UUID]) -> list[list[UUID]]:
    return [ids[start : start + _DELETED] for start in range(0, len(ids), _DELETED)]
