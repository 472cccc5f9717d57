"""Tickets of projects."""

from __future__ import annotations

from uuid import UUID

from agent_storage.repository import Repository, sql
from agent_storage.tables.projects.tickets.record import NewTicket, Ticket, TicketWithTasks


class Tickets(Repository[Ticket, NewTicket]):
    """Work items of a project. Archived tickets are left out of every list."""

    table = "tickets"
    soft_delete = "deleted_at"

    @sql(
        """
        SELECT {t.columns},
               coalesce((SELECT jsonb_agg({tasks.json} ORDER BY tasks.position)
                           FROM ticket_tasks tasks
                          WHERE tasks.ticket_id = t.id), '[]') AS tasks
          FROM tickets t
         WHERE t.project_id = %(project_id)s AND t.deleted_at IS NULL
         ORDER BY t.id
         LIMIT %(limit)s
        """,
        repeatable=True,
    )
    async def with_tasks(self, project_id: UUID, limit: int = 1000) -> list[TicketWithTasks]:
        """A project's tickets, oldest first, each with its tasks in order. One round trip."""
        ...

    @sql("""
        UPDATE {table} SET deleted_at = coalesce(deleted_at, clock_timestamp())
         WHERE id = %(id)s
        RETURNING {columns}
    """)
    async def archive(self, id: UUID) -> Ticket:
        """Take a ticket out of every list; twice is once. Raises `NotFound`."""
        ...

    @sql("UPDATE {table} SET deleted_at = NULL WHERE id = %(id)s RETURNING {columns}")
    async def restore(self, id: UUID) -> Ticket:
        """Undo `archive`. Raises `NotFound`."""
        ...
