"""Customers of the shop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Unpack
from uuid import UUID

from agent_storage import Repository, sql

from shop.storage.tables.customers.record import Customer, NewCustomer

if TYPE_CHECKING:
    from shop.storage.tables.changes import CustomerChanges


class Customers(Repository[Customer, NewCustomer]):
    """Customers of the shop."""

    table = "customers"
    natural_key = ("email",)

    @sql("SELECT {columns} FROM {table} WHERE email = %(email)s", repeatable=True)
    async def get_by(self, *, email: str) -> Customer | None:
        """Return the customer with this address, or None."""
        raise NotImplementedError

    if TYPE_CHECKING:
        # Fewer keywords than the base class takes.
        async def update(self, id: UUID, /, **changes: Unpack[CustomerChanges]) -> Customer:  # type: ignore[override]
            """Change a customer."""
            raise NotImplementedError
