"""Tickets of projects."""

from __future__ import annotations

from typing import TYPE_CHECKING, Unpack
from uuid import UUID

from typing_extensions import TypeVar

from agent_storage.repository import Repository, sql
from agent_storage.statements.lists import Found
from agent_storage.tables.projects.tickets.record import NewTicket, Ticket, TicketWithTasks

if TYPE_CHECKING:
    from agent_storage.tables.changes import TicketChanges

R = TypeVar("R", bound=Ticket, default=Ticket, covariant=True)
N = TypeVar("N", bound=NewTicket, default=NewTicket, covariant=True)


class Tickets(Repository[R, N]):
    """Tickets of projects; lists leave archived ones out."""

    table = "tickets"
    soft_delete = "archived_at"

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
