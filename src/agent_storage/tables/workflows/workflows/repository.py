"""Workflows."""

from __future__ import annotations

from agent_storage.repository import Repository, sql
from agent_storage.tables.workflows.workflows.record import NewWorkflow, Workflow


class Workflows(Repository[Workflow, NewWorkflow]):
    """Definitions of runs: nodes and their connections."""

    table = "workflows"

    @sql(
        "SELECT {columns} FROM {table} WHERE name = %(name)s ORDER BY version DESC, id DESC LIMIT %(limit)s",
        repeatable=True,
    )
    async def named(self, name: str, limit: int = 100) -> list[Workflow]:
        """The versions of a workflow, the highest (as text) first."""
        ...
