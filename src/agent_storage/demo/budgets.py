"""Budgets of a team: one for all, below it one for each workflow, and below these what runs are charged to."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from agent_storage.demo import words
from agent_storage.demo.unit import SPAN, Unit
from agent_storage.types import NewBudgetEntry, NewBudgetPool, NewBudgetReservation

_KINDS = ("production", "trial")


class Budgets:
    """The pools of a team; what is spent from one counts in all above."""

    def __init__(self, unit: Unit) -> None:
        self.unit = unit
        self.begun = unit.until - SPAN - timedelta(hours=10, seconds=unit.random.uniform(0, 7200))
        self.root = self._next_id()
        self.flows = {flow.name: self._next_id() for flow in words.FLOWS}
        keys = [(flow.name, kind) for flow in words.FLOWS for kind in _KINDS]
        self.leaves = {key: self._next_id() for key in keys}
        self.used: dict[UUID, Decimal] = {}
        self.held: dict[UUID, Decimal] = {}
        self.stopped = words.FLOWS[1].name
        self.parents = {self.leaves[key]: self.flows[key[0]] for key in keys}
        self.parents |= dict.fromkeys(self.flows.values(), self.root)

    def _next_id(self) -> UUID:
        self.begun = self.unit.later(self.begun, 300, 900)
        return self.unit.id(self.begun)

    def pool(self, flow: str) -> UUID:
        """Return the pool for a run of that workflow. Nothing was spent from the pool that was stopped."""
        kind = self.unit.pick(_KINDS)
        return self.leaves[flow, "production" if flow == self.stopped else kind]

    def spend(self, pool: UUID, amount: Decimal, at: datetime, **fields: Any) -> None:
        """Charge a pool and all above it: a spend, or the settlement of a reservation."""
        self._count(self.used, pool, amount)
        kind = "settle" if fields.get("reservation_id") else "spend"
        self.unit.add("budget_entries", NewBudgetEntry, at, pool_id=pool, kind=kind, amount=amount, **fields)

    def reserve(self, pool: UUID, amount: Decimal, at: datetime, *, settled: bool, **fields: Any) -> UUID:
        """Hold an amount in a pool and in all above it. Return the id of the reservation."""
        if not settled:
            self._count(self.held, pool, amount)
        fields["expires_at"] = at + timedelta(hours=1)
        return self.unit.add("budget_reservations", NewBudgetReservation, at, pool_id=pool, amount=amount, **fields)

    def _count(self, sums: dict[UUID, Decimal], pool: UUID, amount: Decimal) -> None:
        above: UUID | None = pool
        while above is not None:
            sums[above] = sums.get(above, Decimal(0)) + amount
            above = self.parents.get(above)

    def add(self) -> None:
        """Add the pools, once it is known what was spent from them."""
        self._pool(self.root, None, f"{self.unit.team}: all agents", Decimal(80))
        for flow, pool in self.flows.items():
            self._pool(pool, self.root, flow, Decimal(25))
        for number, ((flow, kind), pool) in enumerate(self.leaves.items()):
            total = Decimal(15) if kind == "production" else Decimal(8)
            if number == 1:  # one that is used up, and one that was stopped
                total = Decimal(0)
            self._pool(pool, self.flows[flow], kind, total, suspended=(flow, kind) == (self.stopped, "trial"))

    def _pool(self, pool: UUID, parent: UUID | None, name: str, total: Decimal, *, suspended: bool = False) -> None:
        spent = self.used.get(pool, Decimal(0)) + self.held.get(pool, Decimal(0))
        self.unit.add(
            "budget_pools",
            NewBudgetPool,
            datetime.fromtimestamp((pool.int >> 80) / 1000, UTC),
            id=pool,
            parent_pool_id=parent,
            total_budget=max(total, spent),
            status="suspended" if suspended else "active",
            metadata={"name": name, "currency": "EUR"},
        )
