"""Tickets of projects."""

from __future__ import annotations

from typing import TYPE_CHECKING, Unpack
from uuid import UUID

from typing_extensions import TypeVar

from agent_storage.repository import Repository, sql
from agent_storage.statements.lists import Found
from agent_storage.statements.records import Count
from agent_storage.tables.projects.tickets.record import (
    NewTicket,
    TaskStatistics,
    Ticket,
    TicketDetails,
    TicketWithTasks,
)

if TYPE_CHECKING:
    from agent_storage.tables.changes import TicketChanges

R = TypeVar("R", bound=Ticket, default=Ticket, covariant=True)
N = TypeVar("N", bound=NewTicket, default=NewTicket, covariant=True)


class Tickets(Repository[R, N]):
    """Tickets of projects; lists leave archived ones out."""

    table = "tickets"
    soft_delete = "archived_at"
    references = {"project_id": "projects"}

    @sql(
        """
        SELECT {t.columns},
               coalesce((SELECT jsonb_agg({tasks.json} ORDER BY tasks.position)
                           FROM ticket_tasks tasks
                          WHERE tasks.ticket_id = t.id), '[]') AS tasks
          FROM tickets t
         WHERE t.project_id = %(project_id)s AND t.archived_at IS NULL
         ORDER BY t.id DESC
         LIMIT %(limit)s
        """,
        repeatable=True,
    )
    async def with_tasks(self, project_id: UUID, limit: int = 100) -> Found[TicketWithTasks]:
        """Return the tickets of a project, newest first, each with its tasks in order. One round trip."""
        ...

    @sql(
        """
        SELECT {t.columns},
               coalesce((SELECT jsonb_agg({tasks.json} ORDER BY tasks.position)
                           FROM ticket_tasks tasks
                          WHERE tasks.ticket_id = t.id), '[]') AS tasks,
               coalesce((SELECT jsonb_agg({comments.json} ORDER BY comments.id DESC)
                           FROM (SELECT *
                                   FROM ticket_comments
                                  WHERE ticket_id = t.id
                                  ORDER BY id DESC
                                  LIMIT %(comments)s) comments), '[]') AS comments,
               (SELECT count(*) FROM ticket_comments c WHERE c.ticket_id = t.id) AS comment_count
          FROM tickets t
         WHERE t.id = %(id)s
        """,
        repeatable=True,
    )
    async def details(self, id: UUID, comments: Count = 100) -> TicketDetails:
        """Return a ticket, archived or not, with its tasks and newest comments. One round trip. Raises `NotFound`."""
        ...

    @sql(
        """
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
         WHERE k.id = %(id)s
         GROUP BY k.id
        """,
        repeatable=True,
    )
    async def statistics(self, id: UUID) -> TaskStatistics:
        """Return how many tasks of a ticket are done, available and blocked, and their hours. Raises `NotFound`."""
        ...

    @sql("""
        UPDATE {table} SET archived_at = coalesce(archived_at, clock_timestamp())
         WHERE id = %(id)s
        RETURNING {columns}
    """)
    async def archive(self, id: UUID) -> R:
        """Archive the ticket: lists leave it out. Idempotent. Raises `NotFound`."""
        ...

    @sql("UPDATE {table} SET archived_at = NULL WHERE id = %(id)s RETURNING {columns}")
    async def restore(self, id: UUID) -> R:
        """Undo `archive`. Idempotent. Raises `NotFound`."""
        ...

    if TYPE_CHECKING:

        async def update(self, id: UUID, /, **changes: Unpack[TicketChanges]) -> R: ...  # noqa: D102
