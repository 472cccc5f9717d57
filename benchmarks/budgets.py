"""Part of `benchmarks.domains`: concurrent spenders on a tree of budgets, beside locks taken row by row."""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any
from uuid import UUID

import psycopg_pool

from agent_storage import Storage
from agent_storage.types import BudgetPool, NewBudgetPool

from .figures import Figure, extent

BRANCHES, LEAVES, CONNECTIONS, ROUNDS = 5, 4, 20, 3
Spend = Callable[[UUID, Decimal], Awaitable[object]]


async def budgets(conninfo: str, spends: int) -> list[Figure]:
    """Measure spends per second for 1, 50 and 200 spenders, ours and the naive transaction, each on a separate tree."""
    found: list[Figure] = []
    pool: psycopg_pool.AsyncConnectionPool[Any] = psycopg_pool.AsyncConnectionPool(
        conninfo, min_size=CONNECTIONS, max_size=CONNECTIONS, kwargs={"autocommit": True}, open=False
    )
    async with Storage(conninfo, pool_min=CONNECTIONS, pool_max=CONNECTIONS) as storage, pool:
        naive = RowByRow(pool)
        for spenders in (1, 50, 200):
            work = f"budget spend, {spenders} spender{'s' * (spenders > 1)}"
            ways = {"budget_pools.spend": storage.budget_pools.spend, "FOR UPDATE by row": naive.spend}
            rates: dict[str, list[float]] = {by: [] for by in ways}
            for _round in range(ROUNDS):
                for by, spend in ways.items():
                    async with a_tree(storage) as tree:
                        rates[by].append(spends / await spent(spend, tree, spenders, spends))
            found += [Figure(work, by, statistics.median(rates[by]), "per s", extent(rates[by])) for by in ways]
    return found


@asynccontextmanager
async def a_tree(storage: Storage) -> AsyncGenerator[tuple[list[UUID], list[Decimal]], None]:
    """The leaves of a new tree of three levels; at the end, every pool must have spent what those below it have."""
    pools = storage.budget_pools
    top = await pools.create(NewBudgetPool(total_budget=Decimal(10**9)))
    branches = [await pools.allocate(top.id, Decimal(10**8)) for _ in range(BRANCHES)]
    leaves = [await pools.allocate(branch.id, Decimal(10**7)) for branch in branches for _ in range(LEAVES)]
    spent: list[Decimal] = []
    yield ([leaf.id for leaf in leaves], spent)
    tree = await pools.subtree(top.id)
    assert tree[0].used_budget == sum(spent), f"{tree[0].used_budget} of {sum(spent)} arrived at the top"
    for pool in tree[: 1 + BRANCHES]:
        check_sums(pool, tree)


def check_sums(pool: BudgetPool, tree: list[BudgetPool]) -> None:
    below = sum(one.used_budget for one in tree if one.parent_pool_id == pool.id)
    assert pool.used_budget == below, f"{pool.id} has {pool.used_budget}, those below it {below}"


async def spent(spend: Spend, tree: tuple[list[UUID], list[Decimal]], spenders: int, spends: int) -> float:
    """How long the spenders take for so many spends together, each from a random leaf."""
    leaves, amounts = tree
    dice = random.Random(7)
    orders = iter([(dice.choice(leaves), Decimal(dice.randint(1, 999)) / 100) for _ in range(spends)])

    async def spender() -> None:
        for leaf, amount in orders:
            await spend(leaf, amount)
            amounts.append(amount)

    started = time.perf_counter()
    await asyncio.gather(*(spender() for _ in range(spenders)))
    return time.perf_counter() - started


class RowByRow:
    """The naive solution: lock the pool and its ancestors, check and update them, in one transaction."""

    def __init__(self, pool: psycopg_pool.AsyncConnectionPool[Any]) -> None:
        self.pool = pool

    async def spend(self, id: UUID, amount: Decimal) -> None:
        async with self.pool.connection() as connection, connection.transaction():
            level: UUID | None = id
            while level is not None:
                cursor = await connection.execute(
                    "SELECT parent_pool_id, total_budget, used_budget FROM budget_pools WHERE id = %s FOR UPDATE",
                    (level,),
                )
                parent, total, used = await cursor.fetchone() or (None, Decimal(0), Decimal(0))
                if used + amount > total:
                    raise ValueError(f"{level} has too little")
                await connection.execute(
                    "UPDATE budget_pools SET used_budget = %s WHERE id = %s", (used + amount, level)
                )
                level = parent
