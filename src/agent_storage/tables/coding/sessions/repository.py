"""Coding agents' sessions and where they come from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Unpack
from uuid import UUID

from typing_extensions import TypeVar

from agent_storage.errors import NotFound
from agent_storage.repository import Repository, sql
from agent_storage.statements.lists import Found, by_owner
from agent_storage.statements.records import Jsonb, Key
from agent_storage.tables.coding.sessions.record import NewSession, Session, SessionData, SessionStatus

if TYPE_CHECKING:
    from agent_storage.tables.changes import SessionChanges

R = TypeVar("R", bound=Session, default=Session, covariant=True)
N = TypeVar("N", bound=NewSession, default=NewSession, covariant=True)


class Sessions(Repository[R, N]):
    """Sessions of coding agents, which may spawn and fork others."""

    table = "sessions"
    refers_to_itself = True
    references = {
        "board_id": "boards",
        "repo_id": "repos",
        "parent_session_id": "sessions",
        "forked_from_session_id": "sessions",
    }

    @sql(by_owner("SELECT {columns} FROM {table} WHERE status = %(status)s"), repeatable=True)
    async def by_status(self, status: SessionStatus, limit: int = 100, *, owner: str | None = None) -> Found[R]:
        """Return the sessions of a status (and of an owner), newest first."""
        ...

    @sql(by_owner("SELECT {columns} FROM {table} WHERE board_id = %(board_id)s"), repeatable=True)
    async def by_board(self, board_id: UUID, limit: int = 100, *, owner: str | None = None) -> Found[R]:
        """Return the sessions of a board (and of an owner), newest first."""
        ...

    @sql(
        by_owner("SELECT {columns} FROM {table} WHERE parent_session_id IS NULL AND forked_from_session_id IS NULL"),
        repeatable=True,
    )
    async def roots(self, limit: int = 100, *, owner: str | None = None) -> Found[R]:
        """Return the sessions (of an owner) that were neither spawned nor forked, newest first."""
        ...

    @sql(
        """
        SELECT {columns}
          FROM {table}
         WHERE (parent_session_id = %(id)s OR forked_from_session_id = %(id)s)
           AND (%(owner)s::text IS NULL OR owner = %(owner)s)
         ORDER BY id DESC
         LIMIT %(limit)s
        """,
        repeatable=True,
    )
    async def children(self, id: UUID, limit: int = 100, *, owner: str | None = None) -> Found[R]:
        """Return the sessions (of an owner) that this one spawned or that were forked from it, newest first."""
        ...

    @sql(
        """
        WITH RECURSIVE below (id, distance) AS (
            SELECT %(id)s::uuid, 0
             UNION
            SELECT child.id, distance + 1
              FROM below
             CROSS JOIN LATERAL (SELECT s.id FROM sessions s WHERE s.parent_session_id = below.id
                                  UNION ALL
                                 SELECT s.id FROM sessions s WHERE s.forked_from_session_id = below.id) child
        ), nearest AS (
            SELECT id, min(distance) AS distance FROM below WHERE distance > 0 GROUP BY id
        )
        SELECT {s.columns}
          FROM nearest
          JOIN sessions s USING (id)
         WHERE %(owner)s::text IS NULL OR s.owner = %(owner)s
         ORDER BY distance, id
         LIMIT %(limit)s
        """,
        repeatable=True,
    )
    async def descendants(self, id: UUID, limit: int = 100, *, owner: str | None = None) -> Found[R]:
        """Return all sessions (of an owner) that descend from this one, spawned or forked, nearest first.

        One round trip.
        """
        ...

    @sql(
        """
        WITH RECURSIVE above (id, distance) AS (
            SELECT %(id)s::uuid, 0
             UNION
            SELECT link.id, distance + 1
              FROM above
             CROSS JOIN LATERAL (SELECT s.parent_session_id, s.forked_from_session_id
                                   FROM sessions s
                                  WHERE s.id = above.id
                                  LIMIT 1) origin
             CROSS JOIN unnest(ARRAY[origin.parent_session_id, origin.forked_from_session_id]) AS link (id)
             WHERE link.id IS NOT NULL
        ), nearest AS (
            SELECT id, min(distance) AS distance FROM above WHERE distance > 0 GROUP BY id
        )
        SELECT {s.columns}
          FROM nearest
          JOIN sessions s USING (id)
         WHERE %(owner)s::text IS NULL OR s.owner = %(owner)s
         ORDER BY distance, id
         LIMIT %(limit)s
        """,
        repeatable=True,
    )
    async def ancestors(self, id: UUID, limit: int = 100, *, owner: str | None = None) -> Found[R]:
        """Return the parent of this session and the one it was forked from, and theirs in turn; nearest first.

        Each is there once. One round trip. With `owner`, those of this owner, also beyond one of another owner.
        """
        ...

    @sql("""
        INSERT INTO sessions (agent, owner, board_id, repo_id, parent_session_id, data)
               -- without status, forked_from_session_id
        SELECT coalesce(%(agent)s, agent), owner, board_id, repo_id, id,
               jsonb_merge(%(data)s, jsonb_strip_nulls(
                   jsonb_build_object('genealogy', jsonb_build_object('spawn_point_task_id', %(at_task)s::uuid))))
          FROM sessions
         WHERE id = %(id)s
           AND (%(at_task)s IS NULL OR EXISTS (SELECT FROM tasks WHERE id = %(at_task)s AND session_id = %(id)s))
        RETURNING {columns}
    """)
    async def _spawn(self, id: UUID, agent: Key | None, at_task: UUID | None, data: Jsonb[SessionData]) -> R | None:
        """Return the child, or None without its parent or the task of the parent."""
        ...

    @sql("""
        INSERT INTO sessions (agent, owner, board_id, repo_id, forked_from_session_id, data)
               -- without status, parent_session_id
        SELECT coalesce(%(agent)s, agent), owner, board_id, repo_id, id,
               jsonb_merge(data - ARRAY['genealogy', 'tool_use_count', 'message_count'],
                           jsonb_merge(%(data)s, jsonb_strip_nulls(
                   jsonb_build_object('genealogy', jsonb_build_object('fork_point_task_id', %(at_task)s::uuid)))))
          FROM sessions
         WHERE id = %(id)s
           AND (%(at_task)s IS NULL OR EXISTS (SELECT FROM tasks WHERE id = %(at_task)s AND session_id = %(id)s))
        RETURNING {columns}
    """)
    async def _fork(self, id: UUID, agent: Key | None, at_task: UUID | None, data: Jsonb[SessionData]) -> R | None:
        """Return the fork, or None without its origin or the task of the origin."""
        ...

    @sql("""
        UPDATE {table} SET status = %(status)s
         WHERE id = %(id)s AND status = ANY(%(present)s)
        RETURNING {columns}
    """)
    async def _move(self, id: UUID, status: SessionStatus, present: list[str]) -> R | None:
        """Return the session with its new status, or None if its present one is not among those given."""
        ...

    async def spawn(
        self, id: UUID, agent: str | None = None, *, at_task: UUID | None = None, data: SessionData | None = None
    ) -> R:
        """Create a child of the session, on its board and code and with its owner; by default with the same agent.

        `at_task` is the task of the session that the child works for. One round trip. Raises `NotFound` for either.
        """
        made = await self._spawn(id, agent, at_task, data or SessionData())
        return made or await self._no_origin(id, at_task)

    async def fork(
        self,
        id: UUID,
        at_task: UUID | None = None,
        agent: str | None = None,
        *,
        data: SessionData | None = None,
    ) -> R:
        """Create a session that continues from this one at one of its tasks, with its owner, title, code and concepts.

        `data` takes precedence over the copied fields. One round trip. Raises `NotFound` for either.
        """
        made = await self._fork(id, agent, at_task, data or SessionData())
        return made or await self._no_origin(id, at_task)

    async def start(self, id: UUID) -> R:
        """Start an idle session. Raises `InvalidTransition`, `NotFound`."""
        return await self._accepted(await self._move(id, "running", ["idle"]), id, "start")

    async def complete(self, id: UUID) -> R:
        """Complete a running session. Raises `InvalidTransition`, `NotFound`."""
        return await self._accepted(await self._move(id, "completed", ["running"]), id, "complete")

    async def fail(self, id: UUID) -> R:
        """Fail an idle or running session. Raises `InvalidTransition`, `NotFound`."""
        return await self._accepted(await self._move(id, "failed", ["idle", "running"]), id, "fail")

    async def _no_origin(self, id: UUID, task: UUID | None) -> R:
        await self.require(id)
        raise NotFound(f"tasks has no row {task} of session {id}", table="tasks")

    if TYPE_CHECKING:

        async def update(self, id: UUID, /, **changes: Unpack[SessionChanges]) -> R: ...  # noqa: D102
