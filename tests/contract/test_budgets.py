"""Budgets: no pool is overspent by a cent, however many spend at once."""

from __future__ import annotations

import asyncio
import random
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from agent_storage import BudgetExceeded, Conflict, InvalidTransition, InvalidValue, NotFound, StillReferenced, sync
from agent_storage.types import NewBudgetPool


async def pool(face: Any, total: Any, parent: UUID | None = None) -> Any:
    return await face.budget_pools.create(NewBudgetPool(total_budget=Decimal(total), parent_pool_id=parent))


async def test_a_spend_charges_the_pool_and_every_one_above_and_no_other(face: Any) -> None:
    root = await pool(face, 100)
    middle, other = await pool(face, 50, root.id), await pool(face, 50, root.id)
    leaf = await pool(face, 20, middle.id)
    after = await face.budget_pools.spend(leaf.id, Decimal("7.25"))
    assert (after.used_budget, after.remaining_budget, after.id) == (Decimal("7.25"), Decimal("12.75"), leaf.id)
    used = {item.id: item.used_budget for item in await face.budget_pools.subtree(root.id)}
    assert used == {root.id: Decimal("7.25"), middle.id: Decimal("7.25"), leaf.id: Decimal("7.25"), other.id: 0}


async def test_too_little_anywhere_charges_nothing_and_names_the_nearest_pool_that_was_short(face: Any) -> None:
    root = await pool(face, 10)
    middle = await pool(face, 30, root.id)
    leaf = await pool(face, 100, middle.id)
    for amount, short, left in ((20, root, 10), (40, middle, 30), (101, leaf, 100)):
        with pytest.raises(BudgetExceeded, match=str(short.id)) as caught:
            await face.budget_pools.spend(leaf.id, amount)
        assert (caught.value.pool_id, caught.value.remaining) == (short.id, left)
    assert [item.used_budget for item in await face.budget_pools.subtree(root.id)] == [0, 0, 0]


async def test_a_pool_that_reaches_its_total_is_exhausted_until_something_comes_back(face: Any) -> None:
    root = await pool(face, 5)
    assert (await face.budget_pools.spend(root.id, 5)).status == "exhausted"
    assert (await face.budget_pools.refund(root.id, Decimal("0.01"))).status == "active"
    await face.budget_pools.spend(root.id, Decimal("0.01"))
    assert (await face.budget_pools.update(root.id, total_budget=6)).status == "active"
    with pytest.raises(InvalidTransition, match=r"only 5\.000000 was spent"):
        await face.budget_pools.refund(root.id, 6)


async def test_nothing_is_spent_from_or_below_a_suspended_pool(face: Any) -> None:
    root = await pool(face, 10)
    leaf = await face.budget_pools.allocate(root.id, 5, {"for": "tests"})
    await face.budget_pools.suspend(root.id)
    for spend in (root, leaf):
        with pytest.raises(InvalidTransition, match="suspended"):
            await face.budget_pools.spend(spend.id, 1)
    with pytest.raises(InvalidTransition, match="suspended"):
        await face.budget_pools.allocate(root.id, 1)
    with pytest.raises(InvalidTransition, match="status is suspended"):
        await face.budget_pools.suspend(root.id)
    assert (await face.budget_pools.resume(root.id)).status == "active"
    with pytest.raises(InvalidTransition, match="status is active"):
        await face.budget_pools.resume(root.id)
    assert (await face.budget_pools.spend(leaf.id, 5)).status == "exhausted"


async def test_a_pool_is_allocated_from_what_its_parent_has_left(face: Any) -> None:
    root = await pool(face, 10)
    await face.budget_pools.spend(root.id, 4)
    with pytest.raises(BudgetExceeded, match=r"has 6\.000000 left"):
        await face.budget_pools.allocate(root.id, 7)
    child = await face.budget_pools.allocate(root.id, 6)
    assert await face.budget_pools.children(root.id) == [child]
    with pytest.raises(NotFound):
        await face.budget_pools.allocate(uuid4(), 1)
    with pytest.raises(NotFound):
        await face.budget_pools.spend(uuid4(), 1)


@pytest.mark.parametrize("amount", [-1, Decimal("0.0000001"), float("nan"), "much", Decimal(10) ** 20])
async def test_an_amount_that_is_no_money_is_refused(face: Any, amount: Any) -> None:
    root = await pool(face, 10)
    with pytest.raises(InvalidValue, match=r"budget_pools\.amount"):
        await face.budget_pools.spend(root.id, amount)


async def test_a_pool_keeps_its_parent_its_total_covers_what_was_used_and_its_children_hold_it(face: Any) -> None:
    root, other = await pool(face, 10), await pool(face, 10)
    leaf = await pool(face, 10, root.id)
    await face.budget_pools.spend(leaf.id, 5)
    with pytest.raises(Conflict, match="cannot move to another parent"):
        await face.budget_pools.update(leaf.id, parent_pool_id=other.id)
    with pytest.raises(InvalidValue, match="budget_pools_used_within_total"):
        await face.budget_pools.update(leaf.id, total_budget=4)
    with pytest.raises(StillReferenced):
        await face.budget_pools.delete(root.id)


async def test_200_spenders_at_once_never_overspend_never_deadlock_and_the_sums_agree(storage: Any) -> None:
    dice = random.Random(20261121)
    root = await pool(storage, 300)
    middles = [await pool(storage, total, root.id) for total in (150, 120, 100)]
    leaves = [await pool(storage, dice.randint(20, 60), middle.id) for middle in middles for _ in range(3)]
    granted: dict[UUID, Decimal] = {leaf.id: Decimal(0) for leaf in leaves}
    short: set[UUID] = set()

    async def spend(leaf: Any, amount: Decimal) -> None:
        try:
            await storage.budget_pools.spend(leaf.id, amount)
            granted[leaf.id] += amount
        except BudgetExceeded as error:
            short.add(error.pool_id)
            assert error.remaining < amount

    asked = [(dice.choice(leaves), Decimal(dice.randint(1, 700)) / 100) for _ in range(200)]
    await asyncio.gather(*(spend(leaf, amount) for leaf, amount in asked))
    pools = {item.id: item for item in await storage.budget_pools.subtree(root.id)}
    assert {leaf.id: pools[leaf.id].used_budget for leaf in leaves} == granted
    for middle in middles:
        below = sum(granted[leaf.id] for leaf in leaves if leaf.parent_pool_id == middle.id)
        assert pools[middle.id].used_budget == below
    assert pools[root.id].used_budget == sum(granted.values()) > 250
    assert all(item.used_budget <= item.total_budget for item in pools.values())
    assert short  # more was asked than there was


class Budgets(RuleBasedStateMachine):
    """Spends, refunds and suspensions on a tree, beside a model of a few dictionaries."""

    storage: sync.Storage
    PARENTS = (None, 0, 0, 1, 1, 2)

    def __init__(self) -> None:
        super().__init__()
        self.ids: list[UUID] = []
        for number, parent in enumerate(self.PARENTS):
            above = None if parent is None else self.ids[parent]
            new = NewBudgetPool(total_budget=Decimal(100 - 13 * number), parent_pool_id=above)
            self.ids.append(self.storage.budget_pools.create(new).id)
        self.total = [Decimal(100 - 13 * number) for number in range(6)]
        self.used = [Decimal(0)] * 6
        self.suspended: set[int] = set()

    def chain(self, number: int | None) -> list[int]:
        return [] if number is None else [number, *self.chain(self.PARENTS[number])]

    AMOUNTS = st.integers(0, 4000).map(lambda cents: Decimal(cents) / 100)

    @rule(number=st.integers(0, 5), amount=AMOUNTS)
    def spend(self, number: int, amount: Decimal) -> None:
        chain = self.chain(number)
        against = [n for n in chain if n in self.suspended or self.total[n] - self.used[n] < amount]
        if not against:
            self.storage.budget_pools.spend(self.ids[number], amount)
            for each in chain:
                self.used[each] += amount
            return
        with pytest.raises(Conflict, match=str(self.ids[against[0]])) as caught:
            self.storage.budget_pools.spend(self.ids[number], amount)
        assert isinstance(caught.value, BudgetExceeded) == (against[0] not in self.suspended)

    @rule(number=st.integers(0, 5), amount=AMOUNTS)
    def refund(self, number: int, amount: Decimal) -> None:
        chain = self.chain(number)
        if any(self.used[n] < amount for n in chain):
            with pytest.raises(InvalidTransition, match="cannot refund"):
                self.storage.budget_pools.refund(self.ids[number], amount)
            return
        self.storage.budget_pools.refund(self.ids[number], amount)
        for each in chain:
            self.used[each] -= amount

    @rule(number=st.integers(0, 5))
    def suspend_or_resume(self, number: int) -> None:
        pools = self.storage.budget_pools
        if number in self.suspended:
            pools.resume(self.ids[number])
        else:
            pools.suspend(self.ids[number])
        self.suspended ^= {number}

    @precondition(lambda self: self.ids)
    @invariant()
    def stored_is_what_the_model_says(self) -> None:
        pools = {item.id: item for item in self.storage.budget_pools.subtree(self.ids[0])}
        for number, id_ in enumerate(self.ids):
            stored = pools[id_]
            full = self.used[number] >= self.total[number]
            status = "suspended" if number in self.suspended else "exhausted" if full else "active"
            assert (stored.used_budget, stored.status) == (self.used[number], status)


def test_any_sequence_of_spends_refunds_and_suspensions_is_what_a_simple_model_says(sync_storage: sync.Storage) -> None:
    Budgets.storage = sync_storage
    rules = settings(max_examples=15, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck))
    run_state_machine_as_test(Budgets, settings=rules)
