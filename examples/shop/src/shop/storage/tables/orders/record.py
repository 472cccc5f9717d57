"""The record of `orders`."""

from __future__ import annotations

from typing import Literal
from uuid import UUID

from agent_storage import Input, Money, Record

OrderStatus = Literal["open", "paid", "cancelled"]


class NewOrder(Input):
    """Fields to create an order."""

    customer_id: UUID
    conversation_id: UUID | None = None
    status: OrderStatus = "open"
    total: Money


class Order(Record, NewOrder):
    """An order."""
