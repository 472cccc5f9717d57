"""Comments on tickets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Unpack
from uuid import UUID

from typing_extensions import TypeVar

from agent_storage.repository import Repository, sql
from agent_storage.statements.lists import Found
from agent_storage.tables.projects.ticket_comments.record import NewTicketComment, TicketComment

if TYPE_CHECKING:
    from agent_storage.tables.changes import TicketCommentChanges

R = TypeVar("R", bound=TicketComment, default=TicketComment, covariant=True)
N = TypeVar("N", bound=NewTicketComment, default=NewTicketComment, covariant=True)


class TicketComments(Repository[R, N]):
    """Comments of people and agents on tickets."""

    table = "ticket_comments"
    references = {"ticket_id": "tickets"}

    @sql(
        "SELECT {columns} FROM {table} WHERE ticket_id = %(ticket_id)s ORDER BY id DESC LIMIT %(limit)s",
        repeatable=True,
    )
    async def by_ticket(self, ticket_id: UUID, limit: int = 100) -> Found[R]:
        """Return the comments of a ticket, newest first."""
        ...

    if TYPE_CHECKING:

        async def update(self, id: UUID, /, **changes: Unpack[TicketCommentChanges]) -> R: ...  # noqa: D102
