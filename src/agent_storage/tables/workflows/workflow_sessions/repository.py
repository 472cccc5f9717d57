"""Runs of workflows."""

from __future__ import annotations

from uuid import UUID

from agent_storage.errors import NotFound
from agent_storage.repository import Repository, sql
from agent_storage.statements.records import Jsonb, JsonObject
from agent_storage.tables.workflows.workflow_sessions.record import NewWorkflowSession, RunStatus, WorkflowSession


class WorkflowSessions(Repository[WorkflowSession, NewWorkflowSession]):
    """Runs of workflows, with the definitions that they started with."""

    table = "workflow_sessions"

    @sql("""
        INSERT INTO workflow_sessions (id, workflow_id, workflow_snapshot, metadata)  -- without status
        SELECT coalesce(%(id)s, uuid_v7()), w.id, w.definition, %(metadata)s
          FROM workflows w
         WHERE w.id = %(workflow_id)s
        RETURNING {columns}
    """)
    async def insert_started(
        self, workflow_id: UUID, metadata: Jsonb[JsonObject], id: UUID | None
    ) -> WorkflowSession | None:
        """A new run; None without the workflow."""
        ...

    @sql(
        "SELECT {columns} FROM {table} WHERE workflow_id = %(workflow_id)s ORDER BY id DESC LIMIT %(limit)s",
        repeatable=True,
    )
    async def of_workflow(self, workflow_id: UUID, limit: int = 100) -> list[WorkflowSession]:
        """The runs of a workflow, newest first."""
        ...

    @sql("SELECT {columns} FROM {table} WHERE status = %(status)s ORDER BY id DESC LIMIT %(limit)s", repeatable=True)
    async def by_status(self, status: RunStatus, limit: int = 100) -> list[WorkflowSession]:
        """The runs of a status, newest first."""
        ...

    async def start(
        self, workflow_id: UUID, metadata: JsonObject | None = None, *, id: UUID | None = None
    ) -> WorkflowSession:
        """A run of the workflow as it is now; later changes do not reach it. One round trip. Raises `NotFound`."""
        made = await self.insert_started(workflow_id, metadata or {}, id)
        if made is None:
            raise NotFound(f"workflows has no row {workflow_id}: create the workflow first", table="workflows")
        return made
