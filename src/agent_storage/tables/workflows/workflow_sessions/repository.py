"""Runs of workflows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Unpack, get_args
from uuid import UUID

from typing_extensions import TypeVar

from agent_storage.repository import Repository, sql
from agent_storage.statements.lists import Found, by_owner
from agent_storage.statements.records import Jsonb, JsonObject, Key
from agent_storage.tables.workflows.workflow_sessions.record import (
    NewWorkflowSession,
    PausedStatus,
    RunStatus,
    WorkflowSession,
)

if TYPE_CHECKING:
    from agent_storage.tables.changes import WorkflowSessionChanges

_WAITING = [status for status in get_args(PausedStatus) if status != "paused"]

R = TypeVar("R", bound=WorkflowSession, default=WorkflowSession, covariant=True)
N = TypeVar("N", bound=NewWorkflowSession, default=NewWorkflowSession, covariant=True)


class WorkflowSessions(Repository[R, N]):
    """Runs of workflows, with the definitions that they started with."""

    table = "workflow_sessions"
    references = {"workflow_id": "workflows"}

    @sql(
        """
        WITH made AS (
            INSERT INTO workflow_sessions (id, workflow_id, workflow_snapshot, owner, metadata)  -- without status
            SELECT coalesce(%(id)s, uuid_v7()), w.id, w.definition, coalesce(%(owner)s, w.owner),
                   coalesce(%(metadata)s, '{}'::jsonb)
              FROM workflows w
             WHERE w.id = %(workflow_id)s
            ON CONFLICT (id) DO NOTHING
            RETURNING *
        )
        SELECT {columns} FROM made
         UNION ALL
        SELECT {columns}        -- a run that exists keeps its snapshot
          FROM rows_as_given(NULL::workflow_sessions, jsonb_build_array(jsonb_build_object(
                   'id', %(id)s::uuid, 'workflow_id', %(workflow_id)s, 'metadata', coalesce(%(metadata)s, '{}'),
                   'owner', %(owner)s, '?', ARRAY['metadata', 'workflow_id']
                                            || CASE WHEN %(owner)s IS NOT NULL THEN ARRAY['owner'] END)), false)
         WHERE NOT EXISTS (SELECT FROM made)
    """,
        missing="workflows has no row %(workflow_id)s: create the workflow first",
    )
    async def create_from(
        self,
        workflow_id: UUID,
        metadata: Jsonb[JsonObject] | None = None,
        *,
        owner: Key | None = None,
        id: UUID | None = None,
    ) -> R:
        """Create a running session of the workflow as it is now; later changes do not reach it.

        `owner` defaults to the owner of the workflow. With an `id` the call can be repeated: a session that exists is
        returned, with the snapshot that it has. Raises `NotFound`, `AlreadyExists` for one of another workflow, or with
        another owner or other metadata.
        """
        ...

    @sql(by_owner("SELECT {columns} FROM {table} WHERE workflow_id = %(workflow_id)s"), repeatable=True)
    async def by_workflow(self, workflow_id: UUID, limit: int = 100, *, owner: str | None = None) -> Found[R]:
        """Return the runs of a workflow (and of an owner), newest first."""
        ...

    @sql(by_owner("SELECT {columns} FROM {table} WHERE status = %(status)s"), repeatable=True)
    async def by_status(self, status: RunStatus, limit: int = 100, *, owner: str | None = None) -> Found[R]:
        """Return the runs of a status (and of an owner), newest first."""
        ...

    @sql("""
        UPDATE {table} SET status = %(status)s
         WHERE id = %(id)s AND status = ANY(%(present)s)
        RETURNING {columns}
    """)
    async def _move(self, id: UUID, status: RunStatus, present: list[str]) -> R | None:
        """Return the run with its new status, or None if its present one is not among those given."""
        ...

    @sql("""
        WITH locked AS (  -- first, so that the requests are read as the last decision left them
            SELECT id AS run_id FROM {table} WHERE id = %(id)s FOR NO KEY UPDATE
        ), awaiting AS (
            SELECT run_id, awaited_by_run(run_id) AS awaited FROM locked
        )
        UPDATE {table} run
           SET status = coalesce(awaited, 'running')
          FROM awaiting
         WHERE id = run_id AND (status = 'paused' OR status LIKE 'waiting%%' AND awaited IS NULL)
        RETURNING {run.columns}
    """)
    async def _resume(self, id: UUID) -> R | None:
        """Return the run that goes on, or None if it is not paused."""
        ...

    @sql("""
        UPDATE {table}
           SET status = %(status)s
         WHERE id = %(id)s AND (status = 'running' OR status LIKE 'waiting%%' AND %(status)s = 'paused')
        RETURNING {columns}
    """)
    async def _pause(self, id: UUID, status: PausedStatus) -> R | None:
        """Return the paused run, or None if it has ended or waits already."""
        ...

    async def pause(self, id: UUID, status: PausedStatus = "paused") -> R:
        """Pause a running session; `status` is what it waits for. A waiting session can be paused, too.

        Raises `InvalidTransition`, `NotFound`.
        """
        return await self._accepted(await self._pause(id, status), id, "pause")

    async def resume(self, id: UUID) -> R:
        """Let a paused session go on: running, or waiting for its oldest pending approval request.

        A waiting session without a pending request goes on, too. Raises `InvalidTransition`, `NotFound`.
        """
        return await self._accepted(await self._resume(id), id, "resume")

    async def complete(self, id: UUID) -> R:
        """Complete a running session. Raises `InvalidTransition`, `NotFound`."""
        return await self._accepted(await self._move(id, "completed", ["running"]), id, "complete")

    async def fail(self, id: UUID) -> R:
        """Fail a session that has not ended. Raises `InvalidTransition`, `NotFound`."""
        return await self._accepted(await self._move(id, "failed", ["running", "paused", *_WAITING]), id, "fail")

    if TYPE_CHECKING:

        async def update(self, id: UUID, /, **changes: Unpack[WorkflowSessionChanges]) -> R: ...  # noqa: D102
