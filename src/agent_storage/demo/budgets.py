"""Budgets of a team: one for all, below it one for each workflow, and below these what runs are charged to."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID

from agent_storage.demo import words
from agent_storage.demo.unit import SPAN, Unit
from agent_storage.types import NewBudgetPool

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
        self.parents = {self.leaves[key]: self.flows[key[0]] for key in keys}
        self.parents |= dict.fromkeys(self.flows.values(), self.root)

    def _next_id(self) -> UUID:
        self.begun = self.unit.later(self.begun, 300, 900)
        return self.unit.id(self.begun)

    def pool(self, flow: str) -> UUID:
        """Return the pool for a run of that workflow."""
        return self.leaves[flow, self.unit.pick(_KINDS)]

    def spend(self, pool: UUID, amount: Decimal) -> None:
        """Charge a pool and all above it."""
        above: UUID | None = pool
        while above is not None:
            self.used[above] = self.used.get(above, Decimal(0)) + amount
            above = self.parents.get(above)

    def add(self) -> None:
        """Add the pools, once it is known what was spent from them."""
        self._pool(self.root, None, f"{self.unit.team}: all agents", Decimal(80))
        for flow, pool in self.flows.items():
            self._pool(pool, self.root, flow, Decimal(25))
        for number, ((flow, kind), pool) in enumerate(self.leaves.items()):
            total = Decimal(15) if kind == "production" else Decimal(8)
            if number == 1:  # one that is used up, and one that was stopped
                total = self.used.get(pool, total)
            self._pool(pool, self.flows[flow], kind, total, suspended=number == len(_KINDS) + 1)

    def _pool(self, pool: UUID, parent: UUID | None, name: str, total: Decimal, *, suspended: bool = False) -> None:
        used = self.used.get(pool, Decimal(0))
        status = "suspended" if suspended else "exhausted" if used >= total else "active"
        self.unit.add(
            "budget_pools",
            NewBudgetPool,
            datetime.fromtimestamp((pool.int >> 80) / 1000, UTC),
            id=pool,
            parent_pool_id=parent,
            total_budget=max(total, used),
            used_budget=used,
            status=status,
            metadata={"name": name, "currency": "EUR"},
        )
