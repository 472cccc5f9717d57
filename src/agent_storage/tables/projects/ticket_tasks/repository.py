"""Tasks of tickets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Unpack
from uuid import UUID

from typing_extensions import TypeVar

from agent_storage.errors import InvalidValue
from agent_storage.repository import Repository, sql
from agent_storage.statements.lists import Found
from agent_storage.tables.projects.ticket_tasks.record import NewTicketTask, TicketTask

if TYPE_CHECKING:
    from agent_storage.tables.changes import TicketTaskChanges

R = TypeVar("R", bound=TicketTask, default=TicketTask, covariant=True)
N = TypeVar("N", bound=NewTicketTask, default=NewTicketTask, covariant=True)


class TicketTasks(Repository[R, N]):
    """Steps of tickets, in order."""

    table = "ticket_tasks"

    @sql(
        "SELECT {columns} FROM {table} WHERE ticket_id = %(ticket_id)s ORDER BY position LIMIT %(limit)s",
        repeatable=True,
    )
    async def by_ticket(self, ticket_id: UUID, limit: int = 100) -> Found[R]:
        """Return the tasks of a ticket, in order."""
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
    async def _reorder(self, ticket_id: UUID, ids: list[UUID]) -> list[R]:
        """Return the tasks in their new order, none if `ids` are not exactly the tasks of the ticket."""
        ...

    async def reorder(self, ticket_id: UUID, ids: list[UUID]) -> list[R]:
        """Put a ticket's tasks in the order of `ids`, which must name each of them once. One statement.

        Raises `InvalidValue` when they do not; then nothing has moved.
        """
        moved = await self._reorder(ticket_id, ids)
        if len(moved) != len(ids) or not ids:
            raise InvalidValue(
                f"ticket_tasks: the ids are not exactly the tasks of ticket {ticket_id}; read them with by_ticket()",
                table=self.table,
                column="id",
            )
        return moved

    if TYPE_CHECKING:

        async def update(self, id: UUID, /, **changes: Unpack[TicketTaskChanges]) -> R: ...  # noqa: D102
