"""A budget's record."""

from __future__ import annotations

from decimal import Decimal
from typing import Literal
from uuid import UUID

from agent_storage.statements.records import Input, Jsonb, JsonObject, Money, Record
from agent_storage.tables.workflows.budget_reservations.record import BudgetReservation

PoolStatus = Literal["active", "exhausted", "suspended"]
Refusal = Literal["suspended", "short", "unused", "key", "closed"]


class NewBudgetPool(Input):
    """Fields to create a pool. Amounts spent from it are charged to all its ancestors too.

    A total reserves nothing in the pools above, so it may exceed theirs. A new pool has spent nothing.
    """

    parent_pool_id: UUID | None = None
    total_budget: Money
    status: PoolStatus = "active"
    metadata: Jsonb[JsonObject] = {}


class BudgetPool(Record, NewBudgetPool):
    """A pool of money; `remaining_budget` is what is left of it, whatever the pools above still have."""

    used_budget: Decimal
    reserved_budget: Decimal
    remaining_budget: Decimal


class Charge(BudgetPool):
    """The result of a call: the pool after it, or the pool that refused it and the reason."""

    refusal: Refusal | None
    refused_amount: Decimal | None
    was: str | None


class Hold(BudgetReservation):
    """The result of a call: the reservation after it, or the reason for which pool `refused_by` refused it."""

    refused_by: UUID
    refusal: Refusal | None
    refused_amount: Decimal | None
    was: str | None
