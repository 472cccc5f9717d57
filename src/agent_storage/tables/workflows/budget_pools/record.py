"""A budget's record."""

from __future__ import annotations

from decimal import Decimal
from typing import Literal
from uuid import UUID

from agent_storage.statements.records import Input, Jsonb, JsonObject, Money, Record

PoolStatus = Literal["active", "exhausted", "suspended"]


class NewBudgetPool(Input):
    """Fields to create a pool. Amounts spent from it are charged to all its ancestors too."""

    parent_pool_id: UUID | None = None
    total_budget: Money
    used_budget: Money = Decimal(0)
    status: PoolStatus = "active"
    metadata: Jsonb[JsonObject] = {}


class BudgetPool(Record, NewBudgetPool):
    """A pool of money; `remaining_budget` is what is left of it, whatever the pools above still have."""

    remaining_budget: Decimal


class Charge(BudgetPool):
    """The result of a charge: the pool after it, or the nearest pool that rejected it and the reason."""

    refusal: Literal["suspended", "short", "unused"] | None
