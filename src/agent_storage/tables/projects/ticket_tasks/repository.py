"""Tasks of tickets."""

from __future__ import annotations

from uuid import UUID

from agent_storage.errors import InvalidValue
from agent_storage.repository import Repository, sql
from agent_storage.tables.projects.ticket_tasks.record import NewTicketTask, TicketTask


class TicketTasks(Repository[TicketTask, NewTicketTask]):
    """Steps of tickets, in order."""

    table = "ticket_tasks"

    @sql("SELECT {columns} FROM {table} WHERE ticket_id = %(ticket_id)s ORDER BY position", repeatable=True)
    async def of_ticket(self, ticket_id: UUID) -> list[TicketTask]:
        """A ticket's tasks, in order."""
        ...

    @sql("""
        WITH locked AS MATERIALIZED (       -- reorders of one ticket take turns, and no task is added meanwhile
            SELECT id FROM tickets WHERE id = %(ticket_id)s FOR NO KEY UPDATE
        ), given AS (
            SELECT id, nth FROM unnest(%(ids)s::uuid[]) WITH ORDINALITY AS ids (id, nth)
        ), complete AS (
            SELECT (SELECT array_agg(id ORDER BY id) FROM given)
                   = (SELECT array_agg(t.id ORDER BY t.id) FROM ticket_tasks t JOIN locked ON t.ticket_id = locked.id)
                   AS agreed
        ), moved AS (
            UPDATE ticket_tasks t SET position = given.nth
              FROM given, complete
             WHERE t.id = given.id AND complete.agreed
            RETURNING t.*
        )
        SELECT {columns} FROM moved ORDER BY position
    """)
    async def place(self, ticket_id: UUID, ids: list[UUID]) -> list[TicketTask]:
        """The tasks in their new order; none when `ids` are not exactly the ticket's tasks."""
        ...

    async def reorder(self, ticket_id: UUID, ids: list[UUID]) -> list[TicketTask]:
        """Give a ticket's tasks the order of `ids`, which must name each of them once. One statement.

        Raises `InvalidValue` when they do not; then nothing has moved.
        """
        moved = await self.place(ticket_id, ids)
        if len(moved) != len(ids) or not ids:
            raise InvalidValue(
                f"ticket_tasks: the ids are not exactly the tasks of ticket {ticket_id}; read them with of_ticket()",
                table=self.table,
                column="id",
            )
        return moved
