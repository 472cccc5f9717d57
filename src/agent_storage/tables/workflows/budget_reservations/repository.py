"""Reservations of budgets; `budget_pools.reserve`, `settle` and `release` make and close them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Unpack
from uuid import UUID

from typing_extensions import TypeVar

from agent_storage.repository import Repository, sql
from agent_storage.statements.lists import Found
from agent_storage.tables.workflows.budget_reservations.record import BudgetReservation, NewBudgetReservation

if TYPE_CHECKING:
    from agent_storage.tables.changes import BudgetReservationChanges

R = TypeVar("R", bound=BudgetReservation, default=BudgetReservation, covariant=True)
N = TypeVar("N", bound=NewBudgetReservation, default=NewBudgetReservation, covariant=True)


class BudgetReservations(Repository[R, N]):
    """Amounts held in budget pools for calls whose cost is known afterwards."""

    table = "budget_reservations"
    insert_order = ("key",)
    references = {"pool_id": "budget_pools", "session_id": "workflow_sessions"}

    @sql("SELECT {columns} FROM {table} WHERE pool_id = %(pool_id)s ORDER BY id DESC LIMIT %(limit)s", repeatable=True)
    async def by_pool(self, pool_id: UUID, limit: int = 100) -> Found[R]:
        """Return the reservations of a pool, newest first; not those of the pools below it."""
        ...

    @sql(
        "SELECT {columns} FROM {table} WHERE session_id = %(session_id)s ORDER BY id DESC LIMIT %(limit)s",
        repeatable=True,
    )
    async def by_session(self, session_id: UUID, limit: int = 100) -> Found[R]:
        """Return the reservations of a workflow run, newest first."""
        ...

    if TYPE_CHECKING:

        async def update(self, id: UUID, /, **changes: Unpack[BudgetReservationChanges]) -> R: ...  # noqa: D102
