"""Workflows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Unpack
from uuid import UUID

from typing_extensions import TypeVar

from agent_storage.repository import Repository, sql
from agent_storage.statements.lists import Found, by_owner
from agent_storage.tables.workflows.workflows.record import NewWorkflow, Workflow

if TYPE_CHECKING:
    from agent_storage.tables.changes import WorkflowChanges

R = TypeVar("R", bound=Workflow, default=Workflow, covariant=True)
N = TypeVar("N", bound=NewWorkflow, default=NewWorkflow, covariant=True)


class Workflows(Repository[R, N]):
    """Workflow definitions: nodes and their connections."""

    table = "workflows"

    @sql(by_owner("SELECT {columns} FROM {table} WHERE name = %(name)s", "version DESC, id DESC"), repeatable=True)
    async def by_name(self, name: str, limit: int = 100, *, owner: str | None = None) -> Found[R]:
        """Return the versions of a workflow (of an owner), the highest (as text) first."""
        ...

    if TYPE_CHECKING:

        async def update(self, id: UUID, /, **changes: Unpack[WorkflowChanges]) -> R: ...  # noqa: D102
