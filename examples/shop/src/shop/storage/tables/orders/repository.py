"""Orders of customers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Unpack
from uuid import UUID

from agent_storage import Found, Repository, sql

from shop.storage.tables.orders.record import NewOrder, Order

if TYPE_CHECKING:
    from shop.storage.tables.changes import OrderChanges


class Orders(Repository[Order, NewOrder]):
    """Orders of customers."""

    table = "orders"
    references = {"customer_id": "customers", "conversation_id": "conversations"}

    @sql(
        """
        SELECT {columns}
          FROM {table}
         WHERE customer_id = %(customer_id)s
         ORDER BY id DESC
         LIMIT %(limit)s
        """,
        repeatable=True,
    )
    async def by_customer(self, customer_id: UUID, limit: int = 100) -> Found[Order]:
        """Return the orders of a customer, newest first."""
        raise NotImplementedError

    @sql("UPDATE {table} SET status = 'paid' WHERE id = %(id)s RETURNING {columns}")
    async def pay(self, id: UUID) -> Order:
        """Set an open order paid. Idempotent. Raises `NotFound`, and `InvalidTransition` for a cancelled one."""
        raise NotImplementedError

    if TYPE_CHECKING:
        # Fewer keywords than the base class takes.
        async def update(self, id: UUID, /, **changes: Unpack[OrderChanges]) -> Order:  # type: ignore[override]
            """Change an order."""
            raise NotImplementedError
