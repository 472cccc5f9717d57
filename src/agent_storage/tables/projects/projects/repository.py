"""Projects."""

from __future__ import annotations

from typing import TYPE_CHECKING, Unpack
from uuid import UUID

from typing_extensions import TypeVar

from agent_storage.repository import Repository, sql
from agent_storage.statements.lists import Found
from agent_storage.tables.projects.projects.record import NewProject, Project, ProjectOverview, ProjectStatistics

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

    @sql(
        """
        SELECT tickets.*, files.files, tasks.*
          FROM projects p
         CROSS JOIN LATERAL (
            SELECT count(*) FILTER (WHERE status = 'open' AND archived_at IS NULL) AS open_tickets,
                   count(*) FILTER (WHERE status = 'in_progress' AND archived_at IS NULL) AS in_progress_tickets,
                   count(*) FILTER (WHERE status = 'done' AND archived_at IS NULL) AS done_tickets,
                   count(*) FILTER (WHERE status = 'closed' AND archived_at IS NULL) AS closed_tickets,
                   count(archived_at) AS archived_tickets
              FROM tickets
             WHERE project_id = p.id) tickets
         CROSS JOIN LATERAL (SELECT count(*) AS files FROM project_files WHERE project_id = p.id) files
         CROSS JOIN LATERAL (
        SELECT count(t.id) AS tasks,
               count(*) FILTER (WHERE t.done) AS done_tasks,
               count(*) FILTER (WHERE NOT t.done AND NOT t.waits) AS available_tasks,
               count(*) FILTER (WHERE NOT t.done AND t.waits) AS blocked_tasks,
               count(t.id) FILTER (WHERE t.estimated_hours IS NULL) AS unestimated_tasks,
               coalesce(sum(t.estimated_hours), 0) AS estimated_hours,
               coalesce(sum(t.estimated_hours) FILTER (WHERE t.done), 0) AS done_hours
          FROM tickets k
          LEFT JOIN LATERAL (
            SELECT s.id, s.done, s.estimated_hours,
                   EXISTS (SELECT FROM ticket_tasks needed WHERE needed.id = ANY(s.depends_on) AND NOT needed.done)
                   AS waits
              FROM ticket_tasks s
             WHERE s.ticket_id = k.id) t ON true
         WHERE k.project_id = p.id AND k.archived_at IS NULL) tasks
         WHERE p.id = %(id)s
        """,
        repeatable=True,
    )
    async def statistics(self, id: UUID) -> ProjectStatistics:
        """Return how many tickets a project has by status, and their tasks and hours. Raises `NotFound`."""
        ...

    if TYPE_CHECKING:

        async def update(self, id: UUID, /, **changes: Unpack[ProjectChanges]) -> R: ...  # noqa: D102
