"""The ledger of the budgets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Unpack
from uuid import UUID

from typing_extensions import TypeVar

from agent_storage.repository import Repository, sql
from agent_storage.statements.lists import Found
from agent_storage.tables.workflows.budget_entries.record import BudgetEntry, NewBudgetEntry

if TYPE_CHECKING:
    from agent_storage.tables.changes import BudgetEntryChanges

R = TypeVar("R", bound=BudgetEntry, default=BudgetEntry, covariant=True)
N = TypeVar("N", bound=NewBudgetEntry, default=NewBudgetEntry, covariant=True)


class BudgetEntries(Repository[R, N]):
    """Ledger of the budgets: every change of a sum, which never changes itself."""

    table = "budget_entries"
    insert_order = ("key",)
    references = {
        "pool_id": "budget_pools",
        "to_pool_id": "budget_pools",
        "reservation_id": "budget_reservations",
        "session_id": "workflow_sessions",
    }

    @sql(
        """
        (SELECT {columns} FROM {table} WHERE pool_id = %(pool_id)s ORDER BY id DESC LIMIT %(limit)s)
         UNION ALL
        (SELECT {columns} FROM {table} WHERE to_pool_id = %(pool_id)s ORDER BY id DESC LIMIT %(limit)s)
         ORDER BY id DESC
         LIMIT %(limit)s
        """,
        repeatable=True,
    )
    async def by_pool(self, pool_id: UUID, limit: int = 100) -> Found[R]:
        """Return the entries of a pool, transfers to it included, newest first; not those of the pools below it."""
        ...

    @sql(
        "SELECT {columns} FROM {table} WHERE session_id = %(session_id)s ORDER BY id DESC LIMIT %(limit)s",
        repeatable=True,
    )
    async def by_session(self, session_id: UUID, limit: int = 100) -> Found[R]:
        """Return the entries of a workflow run, newest first."""
        ...

    if TYPE_CHECKING:

        async def update(self, id: UUID, /, **changes: Unpack[BudgetEntryChanges]) -> R: ...  # noqa: D102
