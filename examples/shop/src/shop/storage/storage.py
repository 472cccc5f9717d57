"""`Shop`: a storage with the shipped tables and those of the shop."""

from __future__ import annotations

from decimal import Decimal
from uuid import UUID

from agent_storage import Storage

from shop.storage.tables.conversations.repository import ShopConversations
from shop.storage.tables.customers.repository import Customers
from shop.storage.tables.orders.record import NewOrder, Order
from shop.storage.tables.orders.repository import Orders


class Shop(Storage):
    """All tables, typed."""

    customers: Customers
    orders: Orders

    @property
    def conversations(self) -> ShopConversations:
        """The shipped conversations, with their customers."""
        raise NotImplementedError

    async def order(self, conversation_id: UUID, total: Decimal) -> Order:
        """Place an order for the customer of a conversation, and say so in it: both or neither.

        Raises `NotFound`, and `ValueError` for a conversation without a customer.
        """
        async with self.transaction() as tx:
            conversation = await tx.conversations.require(conversation_id)
            if conversation.customer_id is None:
                raise ValueError(f"conversation {conversation_id} has no customer")
            placed = await tx.orders.create(
                NewOrder(customer_id=conversation.customer_id, conversation_id=conversation_id, total=total)
            )
            await tx.messages.append(conversation_id, "assistant", f"Order {placed.id} is placed.")
        return placed
