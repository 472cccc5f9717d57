"""Tasks of sessions."""

from __future__ import annotations

from uuid import UUID

from agent_storage.repository import Repository, sql
from agent_storage.statements.records import Json, Jsonb
from agent_storage.tables.coding.tasks.record import NewTask, Task, TaskStatus


class Tasks(Repository[Task, NewTask]):
    """Tasks of sessions: prompts and the work that they started."""

    table = "tasks"

    @sql("SELECT {columns} FROM {table} WHERE session_id = %(session_id)s ORDER BY id LIMIT %(limit)s", repeatable=True)
    async def of_session(self, session_id: UUID, limit: int = 1000) -> list[Task]:
        """The tasks of a session, oldest first."""
        ...

    @sql("SELECT {columns} FROM {table} WHERE status = 'running' ORDER BY id LIMIT %(limit)s", repeatable=True)
    async def running(self, limit: int = 1000) -> list[Task]:
        """The tasks that run now, oldest first."""
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
    async def move(
        self, id: UUID, status: TaskStatus, present: list[str], report: Jsonb[Json] | None = None
    ) -> Task | None:
        """The task with its new status; None when its present one is not among those given."""
        ...

    async def start(self, id: UUID) -> Task:
        """A created task runs. Raises `Conflict` when it is not new, `NotFound`."""
        return await self.accepted(await self.move(id, "running", ["created"]), id, "start")

    async def complete(self, id: UUID, report: Json = None) -> Task:
        """A running task is done, with its report. Raises `Conflict` when it is not running, `NotFound`."""
        return await self.accepted(await self.move(id, "completed", ["running"], report), id, "complete")

    async def fail(self, id: UUID, report: Json = None) -> Task:
        """A task failed. Raises `Conflict` when it had ended, `NotFound`."""
        return await self.accepted(await self.move(id, "failed", ["created", "running"], report), id, "fail")
