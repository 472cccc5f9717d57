"""Tasks of tickets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Unpack
from uuid import UUID

from typing_extensions import TypeVar

from agent_storage.errors import InvalidValue
from agent_storage.repository import IDENTIFIED, Repository, sql
from agent_storage.statements.lists import Found
from agent_storage.tables.projects.ticket_tasks.record import NewTicketTask, TicketTask

if TYPE_CHECKING:
    from agent_storage.tables.changes import TicketTaskChanges

R = TypeVar("R", bound=TicketTask, default=TicketTask, covariant=True)
N = TypeVar("N", bound=NewTicketTask, default=NewTicketTask, covariant=True)


#: The locks of `create_many`: as strongly as the triggers lock, in the order of ids instead of the rows'.
_LOCKS = """(SELECT count(*)
                      FROM (SELECT FROM tickets WHERE id IN (SELECT ticket_id FROM given) ORDER BY id
                               FOR NO KEY UPDATE) one),
                   (SELECT count(*)
                      FROM (SELECT FROM ticket_tasks WHERE id IN (SELECT unnest(depends_on) FROM given) ORDER BY id
                               FOR SHARE) one)"""
#: Tasks with ids, in the order given, which is that of their positions. Calls with the same ids wait for the tickets.
_IDENTIFIED = IDENTIFIED.replace("{new.locks}", _LOCKS).replace(
    "ORDER BY {new.order}\n            ON", 'ORDER BY "Nth"\n            ON'
)


class TicketTasks(Repository[R, N]):
    """Steps of tickets, in order."""

    table = "ticket_tasks"
    references = {"ticket_id": "tickets"}
    changes_parent = {"ticket_id": "ticket_id"}

    @sql(
        "SELECT {columns} FROM {table} WHERE ticket_id = %(ticket_id)s ORDER BY position LIMIT %(limit)s",
        repeatable=True,
    )
    async def by_ticket(self, ticket_id: UUID, limit: int = 100) -> Found[R]:
        """Return the tasks of a ticket, in order."""
        ...

    @sql(
        """
        INSERT INTO ticket_tasks ({new.columns})
        WITH given AS MATERIALIZED (
            SELECT * FROM jsonb_populate_recordset(NULL::ticket_tasks, %(new)s)
        ), locked AS MATERIALIZED (
            SELECT """
        + _LOCKS
        + """
        )
        SELECT {new.rows} FROM given CROSS JOIN locked
        RETURNING {columns}
        """,
        chunked=True,
        identified=_IDENTIFIED + 'SELECT {found.columns} FROM given JOIN found USING (id) ORDER BY "Nth"',
    )
    async def create_many(self, new: Sequence[N]) -> list[R]:
        """Create tasks, all or none; one may depend on another of them. Return them in the order given.

        Without a position they become the last of their tickets. Tasks with an `id` may exist, as for `create`.
        One round trip, for thousands as in other tables.
        """
        ...

    @sql(
        """
        SELECT {columns}
          FROM {table} t
         WHERE ticket_id = %(ticket_id)s AND NOT done
           AND NOT EXISTS (SELECT FROM ticket_tasks needed WHERE needed.id = ANY(t.depends_on) AND NOT needed.done)
         ORDER BY position
         LIMIT %(limit)s
        """,
        repeatable=True,
    )
    async def available(self, ticket_id: UUID, limit: int = 100) -> Found[R]:
        """Return the tasks of a ticket that can be done now: all that they depend on are done. In order."""
        ...

    @sql(
        """
        SELECT {columns}
          FROM {table} t
         WHERE ticket_id = %(ticket_id)s AND NOT done
           AND EXISTS (SELECT FROM ticket_tasks needed WHERE needed.id = ANY(t.depends_on) AND NOT needed.done)
         ORDER BY position
         LIMIT %(limit)s
        """,
        repeatable=True,
    )
    async def blocked(self, ticket_id: UUID, limit: int = 100) -> Found[R]:
        """Return the tasks of a ticket that are not done and wait for others that are not. In order."""
        ...

    @sql("""
        WITH locked AS MATERIALIZED (       -- reorders of one ticket take turns, and no task is added meanwhile
            SELECT id FROM tickets WHERE id = %(ticket_id)s FOR NO KEY UPDATE
        ), given AS (
            SELECT id, nth FROM unnest(%(ids)s::uuid[]) WITH ORDINALITY AS ids (id, nth)
        ), tasks AS MATERIALIZED (          -- in the order of ids, as update_many and delete_many lock them
            SELECT t.id FROM ticket_tasks t JOIN locked ON t.ticket_id = locked.id ORDER BY t.id FOR NO KEY UPDATE OF t
        ), complete AS (
            SELECT (SELECT array_agg(id ORDER BY id) FROM given) = (SELECT array_agg(id ORDER BY id) FROM tasks)
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
