"""Tasks of sessions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Unpack
from uuid import UUID

from typing_extensions import TypeVar

from agent_storage.repository import Repository, sql
from agent_storage.statements.lists import Found
from agent_storage.statements.records import Json, Jsonb
from agent_storage.tables.coding.tasks.record import NewTask, Task, TaskStatus

if TYPE_CHECKING:
    from agent_storage.tables.changes import TaskChanges

R = TypeVar("R", bound=Task, default=Task, covariant=True)
N = TypeVar("N", bound=NewTask, default=NewTask, covariant=True)


class Tasks(Repository[R, N]):
    """Tasks of sessions: prompts and the work that they started."""

    table = "tasks"
    references = {"session_id": "sessions"}

    @sql(
        "SELECT {columns} FROM {table} WHERE session_id = %(session_id)s ORDER BY id DESC LIMIT %(limit)s",
        repeatable=True,
    )
    async def by_session(self, session_id: UUID, limit: int = 100) -> Found[R]:
        """Return the tasks of a session, newest first."""
        ...

    @sql("SELECT {columns} FROM {table} WHERE status = 'running' ORDER BY id DESC LIMIT %(limit)s", repeatable=True)
    async def running(self, limit: int = 100) -> Found[R]:
        """Return the running tasks, newest first."""
        ...

    @sql("""
        UPDATE {table}
           SET status = %(status)s,
               completed_at = CASE WHEN %(status)s IN ('completed', 'failed') THEN clock_timestamp() END,
               data = CASE WHEN %(report)s::jsonb IS NULL THEN data
                           ELSE data || jsonb_build_object('report', %(report)s::jsonb) END
         WHERE id = %(id)s AND status = ANY(%(present)s)
        RETURNING {columns}
    """)
    async def _move(
        self, id: UUID, status: TaskStatus, present: list[str], report: Jsonb[Json] | None = None
    ) -> R | None:
        """Return the task with its new status, or None if its present one is not among those given."""
        ...

    async def start(self, id: UUID) -> R:
        """Start a created task. Raises `InvalidTransition`, `NotFound`."""
        return await self._accepted(await self._move(id, "running", ["created"]), id, "start")

    async def complete(self, id: UUID, report: Json = None) -> R:
        """Complete a running task with its report. Raises `InvalidTransition`, `NotFound`."""
        return await self._accepted(await self._move(id, "completed", ["running"], report), id, "complete")

    async def fail(self, id: UUID, report: Json = None) -> R:
        """Fail a created or running task. Raises `InvalidTransition`, `NotFound`."""
        return await self._accepted(await self._move(id, "failed", ["created", "running"], report), id, "fail")

    if TYPE_CHECKING:

        async def update(self, id: UUID, /, **changes: Unpack[TaskChanges]) -> R: ...  # noqa: D102
