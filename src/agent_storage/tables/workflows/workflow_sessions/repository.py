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

_PAUSED = list(get_args(PausedStatus))

R = TypeVar("R", bound=WorkflowSession, default=WorkflowSession, covariant=True)
N = TypeVar("N", bound=NewWorkflowSession, default=NewWorkflowSession, covariant=True)


class WorkflowSessions(Repository[R, N]):
    """Runs of workflows, with the definitions that they started with."""

    table = "workflow_sessions"

    @sql(
        """
        INSERT INTO workflow_sessions (id, workflow_id, workflow_snapshot, owner, metadata)  -- without status
        SELECT coalesce(%(id)s, uuid_v7()), w.id, w.definition, coalesce(%(owner)s, w.owner),
               coalesce(%(metadata)s, '{}'::jsonb)
          FROM workflows w
         WHERE w.id = %(workflow_id)s
        RETURNING {columns}
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
        """Create a running session of the workflow as it is now; later changes do not reach it. Raises `NotFound`.

        `owner` defaults to the owner of the workflow.
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

    @sql("UPDATE {table} SET status = %(status)s WHERE id = %(id)s AND status = 'running' RETURNING {columns}")
    async def _pause(self, id: UUID, status: PausedStatus) -> R | None:
        """Return the paused run, or None if it is not running."""
        ...

    async def pause(self, id: UUID, status: PausedStatus = "paused") -> R:
        """Pause a running session; `status` is what it waits for. Raises `InvalidTransition`, `NotFound`."""
        return await self._accepted(await self._pause(id, status), id, "pause")

    async def start(self, id: UUID) -> R:
        """Start a paused or waiting session again. Raises `InvalidTransition`, `NotFound`."""
        return await self._accepted(await self._move(id, "running", _PAUSED), id, "start")

    async def complete(self, id: UUID) -> R:
        """Complete a running session. Raises `InvalidTransition`, `NotFound`."""
        return await self._accepted(await self._move(id, "completed", ["running"]), id, "complete")

    async def fail(self, id: UUID) -> R:
        """Fail a session that has not ended. Raises `InvalidTransition`, `NotFound`."""
        return await self._accepted(await self._move(id, "failed", ["running", *_PAUSED]), id, "fail")

    if TYPE_CHECKING:

        async def update(self, id: UUID, /, **changes: Unpack[WorkflowSessionChanges]) -> R: ...  # noqa: D102
