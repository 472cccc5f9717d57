"""Coding agents' sessions and where they come from."""

from __future__ import annotations

from uuid import UUID

from agent_storage.errors import NotFound
from agent_storage.repository import Repository, sql
from agent_storage.statements.records import Jsonb
from agent_storage.tables.coding.sessions.record import NewSession, Session, SessionData, SessionStatus


class Sessions(Repository[Session, NewSession]):
    """A coding agent at work. Sessions spawn and fork others; no session is its own ancestor."""

    table = "sessions"
    refers_to_itself = True

    @sql("SELECT {columns} FROM {table} WHERE status = %(status)s ORDER BY id DESC LIMIT %(limit)s", repeatable=True)
    async def by_status(self, status: SessionStatus, limit: int = 100) -> list[Session]:
        """The sessions of a status, newest first."""
        ...

    @sql(
        "SELECT {columns} FROM {table} WHERE board_id = %(board_id)s ORDER BY id DESC LIMIT %(limit)s", repeatable=True
    )
    async def by_board(self, board_id: UUID, limit: int = 100) -> list[Session]:
        """The sessions of a board, newest first."""
        ...

    @sql(
        """
        SELECT {columns}
          FROM {table}
         WHERE parent_session_id IS NULL AND forked_from_session_id IS NULL
         ORDER BY id DESC
         LIMIT %(limit)s
        """,
        repeatable=True,
    )
    async def roots(self, limit: int = 100) -> list[Session]:
        """The sessions that no other spawned and that were forked from none, newest first."""
        ...

    @sql(
        """
        SELECT {columns}
          FROM {table}
         WHERE parent_session_id = %(id)s OR forked_from_session_id = %(id)s
         ORDER BY id
        """,
        repeatable=True,
    )
    async def children(self, id: UUID) -> list[Session]:
        """The sessions that this one spawned or that were forked from it, oldest first."""
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
        SELECT {s.columns} FROM nearest JOIN sessions s USING (id) ORDER BY distance, id
        """,
        repeatable=True,
    )
    async def descendants(self, id: UUID) -> list[Session]:
        """All that came from this session, spawned or forked, nearest first; itself excluded. One round trip."""
        ...

    @sql(
        """
        WITH RECURSIVE above (id, distance) AS (
            SELECT coalesce(parent_session_id, forked_from_session_id), 1 FROM sessions WHERE id = %(id)s
             UNION ALL
            SELECT coalesce(s.parent_session_id, s.forked_from_session_id), distance + 1
              FROM above
              JOIN sessions s ON s.id = above.id
        )
        SELECT {s.columns} FROM above JOIN sessions s USING (id) ORDER BY distance
        """,
        repeatable=True,
    )
    async def ancestors(self, id: UUID) -> list[Session]:
        """Where this session comes from: its parent, else what it was forked from, and so on; nearest first."""
        ...

    @sql("""
        INSERT INTO sessions (agent, board_id, repo_id, parent_session_id, data)
        SELECT coalesce(%(agent)s, agent), board_id, repo_id, id,
               jsonb_merge(%(data)s, jsonb_strip_nulls(
                   jsonb_build_object('genealogy', jsonb_build_object('spawn_point_task_id', %(at_task)s::uuid))))
          FROM sessions
         WHERE id = %(parent)s
           AND (%(at_task)s IS NULL OR EXISTS (SELECT FROM tasks WHERE id = %(at_task)s AND session_id = %(parent)s))
        RETURNING {columns}
    """)
    async def insert_spawned(
        self, parent: UUID, agent: str | None, at_task: UUID | None, data: Jsonb[SessionData]
    ) -> Session | None:
        """A child; None without its parent or the parent's task."""
        ...

    @sql("""
        INSERT INTO sessions (agent, board_id, repo_id, forked_from_session_id, data)
        SELECT coalesce(%(agent)s, agent), board_id, repo_id, id,
               jsonb_merge(data - ARRAY['genealogy', 'tool_use_count', 'message_count'],
                           jsonb_merge(%(data)s, jsonb_strip_nulls(
                   jsonb_build_object('genealogy', jsonb_build_object('fork_point_task_id', %(at_task)s::uuid)))))
          FROM sessions
         WHERE id = %(session)s
           AND (%(at_task)s IS NULL OR EXISTS (SELECT FROM tasks WHERE id = %(at_task)s AND session_id = %(session)s))
        RETURNING {columns}
    """)
    async def insert_forked(
        self, session: UUID, agent: str | None, at_task: UUID | None, data: Jsonb[SessionData]
    ) -> Session | None:
        """A fork; None without its origin or the origin's task."""
        ...

    @sql("""
        UPDATE {table} SET status = %(status)s
         WHERE id = %(id)s AND status = ANY(%(present)s)
        RETURNING {columns}
    """)
    async def move(self, id: UUID, status: SessionStatus, present: list[str]) -> Session | None:
        """The session with its new status; None when its present one is not among those given."""
        ...

    async def spawn(
        self, parent: UUID, agent: str | None = None, *, at_task: UUID | None = None, data: SessionData | None = None
    ) -> Session:
        """Create a session that works for `parent`, on the same board and code; by default with the same agent.

        `at_task` is the parent's task that wanted it. One round trip. Raises `NotFound` for either.
        """
        made = await self.insert_spawned(parent, agent, at_task, data or SessionData())
        return made or await self._no_origin(parent, at_task)

    async def fork(
        self,
        session: UUID,
        at_task: UUID | None = None,
        agent: str | None = None,
        *,
        data: SessionData | None = None,
    ) -> Session:
        """A session that goes on from `session` as it was at one of its tasks, with its title, code and concepts.

        `data` takes precedence over copied values. One round trip. Raises `NotFound` for either.
        """
        made = await self.insert_forked(session, agent, at_task, data or SessionData())
        return made or await self._no_origin(session, at_task)

    async def start(self, id: UUID) -> Session:
        """An idle session runs. Raises `Conflict` when it is not idle, `NotFound`."""
        return await self.accepted(await self.move(id, "running", ["idle"]), id, "start")

    async def complete(self, id: UUID) -> Session:
        """A running session is done. Raises `Conflict` when it is not running, `NotFound`."""
        return await self.accepted(await self.move(id, "completed", ["running"]), id, "complete")

    async def fail(self, id: UUID) -> Session:
        """An idle or running session failed. Raises `Conflict` when it had ended, `NotFound`."""
        return await self.accepted(await self.move(id, "failed", ["idle", "running"]), id, "fail")

    async def _no_origin(self, origin: UUID, task: UUID | None) -> Session:
        await self.require(origin)
        raise NotFound(f"tasks has no row {task} of session {origin}", table="tasks")
