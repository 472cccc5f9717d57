"""Workflows."""

from __future__ import annotations

from agent_storage.repository import Repository, sql
from agent_storage.statements.lists import Found
from agent_storage.tables.workflows.workflows.record import NewWorkflow, Workflow


class Workflows(Repository[Workflow, NewWorkflow]):
    """What runs follow: nodes and how they are connected."""

    table = "workflows"

    @sql(
        "SELECT {columns} FROM {table} WHERE name = %(name)s ORDER BY version DESC, id DESC LIMIT %(limit)s",
        repeatable=True,
    )
    async def by_name(self, name: str, limit: int = 100) -> Found[Workflow]:
        """Return the versions of a workflow, the highest (as text) first."""
        ...
