"""Calls of the budgets' ledger: keys that make them safe to repeat, and reservations."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest

from agent_storage import BudgetExceeded, Conflict, InvalidTransition, NotFound

from .test_budgets import pool, sums

# ---- keys ------------------------------------------------------------------------------------------------------------


async def test_a_call_with_a_key_is_done_once_and_repeating_it_gives_what_is_there(face: Any) -> None:
    pools = face.budget_pools
    root, other = await pool(face, 100), await pool(face, 100)
    held = [await pools.reserve(root.id, 2) for _ in range(2)]
    calls = {
        "spend": lambda key: pools.spend(root.id, 5, key=key),
        "refund": lambda key: pools.refund(root.id, 1, key=key),
        "increase": lambda key: pools.increase(root.id, 5, key=key),
        "decrease": lambda key: pools.decrease(root.id, 5, key=key),
        "transfer": lambda key: pools.transfer(root.id, other.id, 5, key=key),
        "reserve": lambda key: pools.reserve(root.id, 5, key=key),
        "settle": lambda key: pools.settle(held[0].id, 5, key=key),
        "release": lambda key: pools.release(held[1].id, key=key),
    }
    for name, call in calls.items():
        first, before = await call(name), await sums(face, root.id)
        assert await call(name) == first
        assert await sums(face, root.id) == before, name
    for name, call in calls.items():
        if name in ("settle", "release"):
            continue
        with pytest.raises(Conflict, match=r"another call with this key: \w+ of \d") as caught:
            await call("settle")
        assert not isinstance(caught.value, BudgetExceeded)
    for call in (pools.spend(root.id, 6, key="spend"), pools.spend(other.id, 5, key="spend")):
        with pytest.raises(Conflict, match=r"another call with this key: spend of 5\.000000"):
            await call
    with pytest.raises(Conflict, match="another call with this key"):
        await pools.reserve(root.id, 6, key="reserve")
    with pytest.raises(Conflict, match="another call with this key: reserve"):
        await pools.reserve(other.id, 5, key="reserve")
    with pytest.raises(Conflict, match="another call with this key: spend"):
        await pools.reserve(root.id, 5, key="spend")


async def test_a_repeated_call_succeeds_when_the_pool_could_not_do_it_again(face: Any) -> None:
    root = await pool(face, 5)
    await face.budget_pools.spend(root.id, 5, key="k")
    assert (await face.budget_pools.spend(root.id, 5, key="k")).used_budget == 5
    await face.budget_pools.suspend(root.id)
    assert (await face.budget_pools.spend(root.id, 5, key="k")).status == "suspended"
    with pytest.raises(InvalidTransition, match="suspended"):
        await face.budget_pools.spend(root.id, 0)


async def test_50_repetitions_at_once_charge_once_and_a_refused_call_keeps_no_key(storage: Any) -> None:
    root = await pool(storage, 100)
    leaf = await pool(storage, 10, root.id)
    await asyncio.gather(*(storage.budget_pools.spend(leaf.id, 4, key="once") for _ in range(50)))
    held = await asyncio.gather(*(storage.budget_pools.reserve(leaf.id, 4, key="hold") for _ in range(50)))
    assert len({item.id for item in held}) == 1
    done = await asyncio.gather(*(storage.budget_pools.settle(held[0].id, 3) for _ in range(50)))
    assert {item.settled_amount for item in done} == {3}
    assert await sums(storage, root.id) == {root.id: (100, 7, 0), leaf.id: (10, 7, 0)}
    with pytest.raises(BudgetExceeded):
        await storage.budget_pools.spend(leaf.id, 4, key="later")
    await storage.budget_pools.increase(leaf.id, 1)
    assert (await storage.budget_pools.spend(leaf.id, 4, key="later")).used_budget == 11


# ---- reservations ----------------------------------------------------------------------------------------------------


async def test_a_reservation_holds_its_amount_until_it_is_settled_or_released(face: Any) -> None:
    pools = face.budget_pools
    root = await pool(face, 10)
    leaf = await pool(face, 100, root.id)
    held = await pools.reserve(leaf.id, 8, by="ada")
    assert (held.status, held.amount, held.actor, held.settled_amount) == ("held", 8, "ada", None)
    assert await face.budget_reservations.require(held.id) == held
    for call in (pools.spend(root.id, 3), pools.reserve(leaf.id, 3), pools.decrease(root.id, 3)):
        with pytest.raises(BudgetExceeded, match=r"has 2\.000000 left") as caught:
            await call
        assert (caught.value.pool_id, caught.value.remaining) == (root.id, 2)
    settled = await pools.settle(held.id, Decimal("2.5"))
    assert (settled.status, settled.settled_amount) == ("settled", Decimal("2.5"))
    assert await pools.settle(held.id, Decimal("2.5")) == settled
    for call in (pools.settle(held.id, 3), pools.release(held.id), pools.settle(held.id, Decimal("2.5"), key="new")):
        with pytest.raises(InvalidTransition, match=r"was settled with 2\.5"):
            await call
    assert await sums(face, root.id) == {
        root.id: (10, Decimal("2.5"), 0), leaf.id: (100, Decimal("2.5"), 0)
    }  # fmt: skip
    other = await pools.reserve(leaf.id, Decimal("7.5"))
    assert (await pools.require(root.id)).status == "exhausted"
    released = await pools.release(other.id)
    assert released.status == "released"
    assert await pools.release(other.id) == released
    with pytest.raises(InvalidTransition, match="was released"):
        await pools.settle(other.id, 1)
    assert (await pools.require(root.id)).status == "active"
    for call in (pools.settle(uuid4(), 1), pools.release(uuid4())):
        with pytest.raises(NotFound, match="budget_reservations has no row"):
            await call


async def test_a_settlement_may_exceed_the_reserved_amount_as_far_as_every_pool_allows(face: Any) -> None:
    pools = face.budget_pools
    root = await pool(face, 10)
    leaf = await pool(face, 6, root.id)
    held = await pools.reserve(leaf.id, 4)
    with pytest.raises(BudgetExceeded, match=r"has 2\.000000 left, 3\.000000 was asked") as caught:
        await pools.settle(held.id, 7)
    assert caught.value.pool_id == leaf.id
    assert (await face.budget_reservations.require(held.id)).status == "held"
    assert (await pools.settle(held.id, 6)).settled_amount == 6
    stopped = await pools.reserve(root.id, 2)
    await pools.suspend(root.id)
    with pytest.raises(InvalidTransition, match="suspended"):
        await pools.settle(stopped.id, 3)
    with pytest.raises(InvalidTransition, match="suspended"):
        await pools.reserve(leaf.id, 0)
    assert (await pools.settle(stopped.id, 1)).settled_amount == 1  # the amount was held before
    assert await sums(face, root.id) == {root.id: (10, 7, 0), leaf.id: (6, 6, 0)}


async def test_reservations_whose_time_has_run_out_are_released_and_others_stay(face: Any) -> None:
    root = await pool(face, 10)
    past, future = datetime.now(UTC) - timedelta(hours=1), datetime.now(UTC) + timedelta(hours=1)
    late = [await face.budget_pools.reserve(root.id, 2, expires_at=past) for _ in range(3)]
    await face.budget_pools.settle(late[0].id, 2)
    kept = [await face.budget_pools.reserve(root.id, 1, expires_at=end) for end in (future, None)]
    assert await face.budget_pools.release_overdue(limit=1) == 1
    assert await face.budget_pools.release_overdue() == 1
    assert await face.budget_pools.release_overdue() == 0
    by = {item.id: item.status for item in await face.budget_reservations.by_pool(root.id)}
    assert by == {late[0].id: "settled", late[1].id: "released", late[2].id: "released"} | {
        item.id: "held" for item in kept
    }
    assert await sums(face, root.id) == {root.id: (10, 2, 2)}
