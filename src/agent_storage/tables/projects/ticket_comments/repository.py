"""Comments on tickets."""

from __future__ import annotations

from uuid import UUID

from agent_storage.repository import Repository, sql
from agent_storage.tables.projects.ticket_comments.record import NewTicketComment, TicketComment


class TicketComments(Repository[TicketComment, NewTicketComment]):
    """Comments of people and agents on a ticket."""

    table = "ticket_comments"

    @sql("SELECT {columns} FROM {table} WHERE ticket_id = %(ticket_id)s ORDER BY id LIMIT %(limit)s", repeatable=True)
    async def of_ticket(self, ticket_id: UUID, limit: int = 1000) -> list[TicketComment]:
        """A ticket's comments, oldest first."""
        ...
