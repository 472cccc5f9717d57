"""Budgets: no pool is overspent by a cent, however many spend at once."""

from __future__ import annotations

import asyncio
import random
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from agent_storage import BudgetExceeded, Conflict, InvalidTransition, InvalidValue, NotFound, StillReferenced
from agent_storage.types import NewBudgetEntry, NewBudgetPool, NewWorkflow


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


async def sums(face: Any, root: UUID) -> dict[UUID, tuple[Decimal, Decimal, Decimal]]:
    """Total, used and reserved of each pool of a tree; they must be what the ledger adds up to."""
    pools = {item.id: item for item in await face.budget_pools.subtree(root, limit=1000)}
    used, reserved = dict.fromkeys(pools, Decimal(0)), dict.fromkeys(pools, Decimal(0))
    amounts = {item.id: item.amount for item in await face.budget_reservations.find(limit=1000)}
    sign = {"spend": (1, 0), "refund": (-1, 0), "reserve": (0, 1), "settle": (1, -1), "release": (0, -1)}
    for entry in await face.budget_entries.find({"pool_id__in": list(pools)}, limit=1000):
        charged, held = sign.get(entry.kind, (0, 0))
        above: UUID | None = entry.pool_id
        while above is not None:
            used[above] += charged * entry.amount
            reserved[above] += held * amounts.get(entry.reservation_id, Decimal(0))
            above = pools[above].parent_pool_id
    assert {item.id: (item.used_budget, item.reserved_budget) for item in pools.values()} == {
        id_: (used[id_], reserved[id_]) for id_ in pools
    }
    assert all(item.remaining_budget >= 0 for item in pools.values())
    return {item.id: (item.total_budget, item.used_budget, item.reserved_budget) for item in pools.values()}


# ---- the ledger ------------------------------------------------------------------------------------------------------


async def test_the_ledger_says_who_spent_what_when_and_for_which_run(face: Any) -> None:
    root = await pool(face, 10)
    leaf = await pool(face, 5, root.id)
    workflow = await face.workflows.create(NewWorkflow(name="w", definition={}))
    run = await face.workflow_sessions.create_from(workflow.id)
    await face.budget_pools.spend(leaf.id, 3, key="k", by="ada", session_id=run.id, metadata={"call": 7})
    await face.budget_pools.refund(leaf.id, 1, by="bob")
    await face.budget_pools.increase(leaf.id, 2)
    await face.budget_pools.transfer(root.id, leaf.id, Decimal("0.5"))
    entries = await face.budget_entries.by_pool(leaf.id)
    assert [(item.kind, item.amount) for item in entries] == [
        ("transfer", Decimal("0.5")), ("increase", 2), ("refund", 1), ("spend", 3)
    ]  # fmt: skip
    spent = entries[-1]
    assert (spent.actor, spent.key, spent.session_id, spent.metadata) == ("ada", "k", run.id, {"call": 7})
    assert await face.budget_entries.by_session(run.id) == [spent]
    assert [item.kind for item in await face.budget_entries.by_pool(root.id)] == ["transfer"]
    found = await face.budget_entries.by_pool(leaf.id, limit=2)
    assert (len(found), found.more) == (2, True)
    assert await sums(face, root.id) == {
        root.id: (Decimal("9.5"), 2, 0), leaf.id: (Decimal("7.5"), 2, 0)
    }  # fmt: skip


async def test_an_entry_is_written_once_and_outlives_its_run(face: Any) -> None:
    root = await pool(face, 10)
    workflow = await face.workflows.create(NewWorkflow(name="w", definition={}))
    run = await face.workflow_sessions.create_from(workflow.id)
    await face.budget_pools.spend(root.id, 3, session_id=run.id)
    (entry,) = await face.budget_entries.by_pool(root.id)
    for change in ({"amount": 1}, {"metadata": {"x": 1}}, {"session_id": None}):
        with pytest.raises(Conflict, match="cannot be changed or deleted"):
            await face.budget_entries.update(entry.id, **change)
    with pytest.raises(Conflict, match="cannot be changed or deleted"):
        await face.budget_entries.delete(entry.id)
    assert await face.workflow_sessions.delete(run.id)
    assert (await face.budget_entries.require(entry.id)).session_id is None
    with pytest.raises(StillReferenced):
        await face.budget_pools.delete(root.id)


async def test_an_entry_that_is_created_as_a_row_moves_the_sums_and_is_refused_alike(face: Any) -> None:
    root = await pool(face, 10)
    leaf = await pool(face, 5, root.id)
    new = [NewBudgetEntry(pool_id=leaf.id, kind="spend", amount=Decimal(2))] * 2
    await face.budget_entries.create_many(new)
    assert await sums(face, root.id) == {root.id: (10, 4, 0), leaf.id: (5, 4, 0)}
    with pytest.raises(Conflict, match=r"has only 1\.000000 left"):
        await face.budget_entries.create(new[0])
    with pytest.raises(InvalidValue, match="transfer_has_target"):
        await face.budget_entries.create(NewBudgetEntry(pool_id=leaf.id, kind="transfer", amount=Decimal(1)))
    assert await sums(face, root.id) == {root.id: (10, 4, 0), leaf.id: (5, 4, 0)}


async def test_a_refusal_leaves_a_transaction_usable(storage: Any) -> None:
    root = await pool(storage, 10)
    async with storage.transaction() as tx:
        await tx.budget_pools.spend(root.id, 4)
        with pytest.raises(BudgetExceeded, match=r"has 6\.000000 left"):
            await tx.budget_pools.spend(root.id, 7)
        with pytest.raises(NotFound):
            await tx.budget_pools.reserve(uuid4(), 1)
        await tx.budget_pools.spend(root.id, 5)
    assert await sums(storage, root.id) == {root.id: (10, 9, 0)}


# ---- totals ----------------------------------------------------------------------------------------------------------


async def test_20_raises_of_a_total_at_once_add_up(storage: Any) -> None:
    root = await pool(storage, 0)
    await asyncio.gather(*(storage.budget_pools.increase(root.id, 1) for _ in range(20)))
    assert await sums(storage, root.id) == {root.id: (20, 0, 0)}
    assert len(await storage.budget_entries.by_pool(root.id)) == 20


async def test_a_total_is_set_with_other_fields_and_never_below_what_was_used(face: Any) -> None:
    root = await pool(face, 10)
    leaf = await pool(face, 100, root.id)  # a total reserves nothing above
    await face.budget_pools.spend(leaf.id, 4)
    changed = await face.budget_pools.update(leaf.id, total_budget=Decimal(4), metadata={"name": "x"})
    assert (changed.total_budget, changed.status, changed.metadata) == (4, "exhausted", {"name": "x"})
    with pytest.raises(InvalidValue, match="budget_pools_used_within_total"):
        await face.budget_pools.update(leaf.id, total_budget=Decimal(3), metadata={"name": "y"})
    with pytest.raises(BudgetExceeded, match=r"has 0\.000000 left"):
        await face.budget_pools.decrease(leaf.id, 1)
    assert (await face.budget_pools.require(leaf.id)) == changed
    assert [item.kind for item in await face.budget_entries.by_pool(leaf.id)] == ["decrease", "spend"]
    with pytest.raises(NotFound):
        await face.budget_pools.update(uuid4(), total_budget=Decimal(3))
    with pytest.raises(InvalidValue, match="used_budget cannot be changed"):
        await face.budget_pools.update(leaf.id, used_budget=Decimal(0))


async def test_a_transfer_moves_a_part_of_a_total_or_nothing(face: Any) -> None:
    one, two = await pool(face, 10), await pool(face, 1)
    await face.budget_pools.spend(one.id, 4)
    source, target = await face.budget_pools.transfer(one.id, two.id, 5)
    assert (source.id, source.total_budget, target.id, target.total_budget) == (one.id, 5, two.id, 6)
    with pytest.raises(BudgetExceeded, match=str(one.id)):
        await face.budget_pools.transfer(one.id, two.id, 2)
    with pytest.raises(InvalidValue, match="another_pool"):
        await face.budget_pools.transfer(one.id, one.id, 1)
    missing = uuid4()
    for ends in ((one.id, missing), (missing, two.id)):
        with pytest.raises(NotFound) as caught:
            await face.budget_pools.transfer(*ends, 1)
        assert caught.value.id == missing
    assert [(await face.budget_pools.require(id_)).total_budget for id_ in (one.id, two.id)] == [5, 6]


# ---- races -----------------------------------------------------------------------------------------------------------


async def test_200_mixed_calls_at_once_over_one_tree_neither_deadlock_nor_lose_a_cent(storage: Any) -> None:
    dice = random.Random(7)
    pools = storage.budget_pools
    root = await pool(storage, 500)
    middles = [await pool(storage, 200, root.id) for _ in range(3)]
    leaves = [await pool(storage, 90, middle.id) for middle in middles for _ in range(3)]
    every = [root, *middles, *leaves]
    soon = datetime.now(UTC) - timedelta(seconds=1)
    held = [await pools.reserve(dice.choice(leaves).id, 3, expires_at=soon if n % 2 else None) for n in range(60)]

    async def call(number: int) -> None:
        one, two = dice.sample(every, 2)
        amount = Decimal(dice.randint(1, 900)) / 100
        kind = number % 10
        try:
            match kind:
                case 0 | 1 | 2:
                    await pools.spend(dice.choice(leaves).id, amount, key=f"spend {number // 20}" if kind else None)
                case 3:
                    await pools.refund(dice.choice(leaves).id, amount)
                case 4:
                    await pools.transfer(one.id, two.id, amount)
                case 5:
                    await pools.increase(one.id, amount)
                case 6:
                    await pools.decrease(one.id, amount)
                case 7:
                    await pools.reserve(two.id, amount)
                case 8:
                    await pools.settle(dice.choice(held).id, amount)
                case _:
                    await (pools.release_overdue() if number % 20 == 9 else pools.release(dice.choice(held).id))
        except Conflict:
            pass

    await asyncio.gather(*(call(number) for number in range(200)))
    after = await sums(storage, root.id)
    moved = sum(total for total, _, _ in after.values()) - 500 - 600 - 810
    changes = await storage.budget_entries.find({"kind__in": ["increase", "decrease"]}, limit=1000)
    assert moved == sum(item.amount * (1 if item.kind == "increase" else -1) for item in changes)


async def test_of_settling_and_releasing_at_once_exactly_one_wins(storage: Any) -> None:
    root = await pool(storage, 100)
    for _ in range(10):
        held = await storage.budget_pools.reserve(root.id, 5, expires_at=datetime.now(UTC) - timedelta(hours=1))
        calls = (
            storage.budget_pools.settle(held.id, 5),
            storage.budget_pools.release(held.id),
            storage.budget_pools.release_overdue(),
            storage.budget_pools.settle(held.id, 4),
        )
        done = await asyncio.gather(*calls, return_exceptions=True)
        assert all(not isinstance(item, Exception) or isinstance(item, InvalidTransition) for item in done), done
        assert len(await storage.budget_entries.find({"reservation_id": held.id})) == 2
    await sums(storage, root.id)


async def test_a_spend_takes_no_multixact(storage: Any, migrated: str) -> None:
    """They are a limited resource, as transaction ids are; a subtransaction that updates a locked row takes one."""
    root = await storage.budget_pools.create(NewBudgetPool(total_budget=Decimal(1000)))
    pool = await storage.budget_pools.allocate(root.id, Decimal(100))
    taken = "SELECT next_multixact_id::text::bigint FROM pg_control_checkpoint()"
    async with await psycopg.AsyncConnection.connect(migrated, autocommit=True) as connection:
        await connection.execute("CHECKPOINT")
        before = await (await connection.execute(taken)).fetchone()
        for _ in range(50):
            await storage.budget_pools.spend(pool.id, Decimal(1))
        await connection.execute("CHECKPOINT")
        after = await (await connection.execute(taken)).fetchone()
    assert before is not None
    assert after is not None
    assert after[0] - before[0] < 10  # other tests run on the same server
