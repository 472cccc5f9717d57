"""Projects."""

from __future__ import annotations

from typing import TYPE_CHECKING, Unpack
from uuid import UUID

from typing_extensions import TypeVar

from agent_storage.repository import Repository, sql
from agent_storage.statements.lists import Found
from agent_storage.tables.projects.projects.record import NewProject, Project, ProjectOverview

if TYPE_CHECKING:
    from agent_storage.tables.changes import ProjectChanges

R = TypeVar("R", bound=Project, default=Project, covariant=True)
N = TypeVar("N", bound=NewProject, default=NewProject, covariant=True)


class Projects(Repository[R, N]):
    """Projects: a path with its files and tickets."""

    table = "projects"
    natural_key = ("path",)

    @sql("SELECT {columns} FROM {table} WHERE path = %(path)s", repeatable=True)
    async def get_by(self, *, path: str) -> R | None:
        """Return the project at this path, or None."""
        ...

    @sql(
        """
        SELECT {p.columns}, counted.open_tickets, counted.in_progress_tickets, counted.done_tickets,
               counted.closed_tickets, greatest(p.updated_at, counted.changed_at) AS last_activity_at
          FROM ((SELECT * FROM projects WHERE %(owner)s::text IS NULL ORDER BY id DESC LIMIT %(limit)s)
                 UNION ALL
                (SELECT * FROM projects WHERE owner = %(owner)s ORDER BY id DESC LIMIT %(limit)s)) p
         CROSS JOIN LATERAL (
            SELECT count(*) FILTER (WHERE status = 'open') AS open_tickets,
                   count(*) FILTER (WHERE status = 'in_progress') AS in_progress_tickets,
                   count(*) FILTER (WHERE status = 'done') AS done_tickets,
                   count(*) FILTER (WHERE status = 'closed') AS closed_tickets,
                   max(updated_at) AS changed_at
              FROM tickets
             WHERE project_id = p.id AND archived_at IS NULL) counted
         ORDER BY p.id DESC
        """,
        repeatable=True,
    )
    async def overview(self, limit: int = 20, *, owner: str | None = None) -> Found[ProjectOverview]:
        """Return the newest projects (of an owner), each with its number of tickets by status and its last change."""
        ...

    if TYPE_CHECKING:

        async def update(self, id: UUID, /, **changes: Unpack[ProjectChanges]) -> R: ...  # noqa: D102
