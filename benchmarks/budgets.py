"""Part of `benchmarks.domains`: concurrent spenders on a tree of budgets.

Beside `budget_pools.spend`, which writes a ledger: one statement that only charges, and locks taken row by row. These
two use a copy of the pools without the triggers of the ledger.
"""

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
from psycopg.rows import dict_row

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
        naive = await without_ledger(pool)
        for spenders in (1, 50, 200):
            work = f"budget spend, {spenders} spender{'s' * (spenders > 1)}"
            ways: dict[str, Spend] = {
                "budget_pools.spend": storage.budget_pools.spend,
                "one statement, no ledger": naive.at_once,
                "FOR UPDATE by row": naive.by_row,
            }
            rates: dict[str, list[float]] = {by: [] for by in ways}
            for _round in range(ROUNDS):
                for by, spend in ways.items():
                    async with a_tree(storage, None if by == "budget_pools.spend" else pool) as tree:
                        rates[by].append(spends / await spent(spend, tree, spenders, spends))
            found += [Figure(work, by, statistics.median(rates[by]), "per s", extent(rates[by])) for by in ways]
    return found


@asynccontextmanager
async def a_tree(
    storage: Storage, copied: psycopg_pool.AsyncConnectionPool[Any] | None
) -> AsyncGenerator[tuple[list[UUID], list[Decimal]], None]:
    """The leaves of a new tree of three levels; at the end, every pool must have spent what those below it have.

    `copied` is where the tree is copied to the table without a ledger.
    """
    pools = storage.budget_pools
    top = await pools.create(NewBudgetPool(total_budget=Decimal(10**9)))
    branches = [await pools.allocate(top.id, Decimal(10**8)) for _ in range(BRANCHES)]
    leaves = [await pools.allocate(branch.id, Decimal(10**7)) for branch in branches for _ in range(LEAVES)]
    spent: list[Decimal] = []
    if copied is None:
        yield ([leaf.id for leaf in leaves], spent)
        tree = list(await pools.subtree(top.id))
    else:
        ids = [top.id, *(branch.id for branch in branches), *(leaf.id for leaf in leaves)]
        async with copied.connection() as connection:
            await connection.execute(_COPY, (ids,))
        yield ([leaf.id for leaf in leaves], spent)
        async with copied.connection() as connection, connection.cursor(row_factory=dict_row) as cursor:
            await cursor.execute("SELECT * FROM pools_without_ledger WHERE id = ANY(%s) ORDER BY id", (ids,))
            tree = [BudgetPool(**row) for row in await cursor.fetchall()]
            tree.sort(key=lambda pool: ids.index(pool.id))
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


_COPY = """
    INSERT INTO pools_without_ledger (id, parent_pool_id, total_budget, metadata)
    SELECT id, parent_pool_id, total_budget, metadata FROM budget_pools WHERE id = ANY(%s)
"""
_AT_ONCE = """
    WITH RECURSIVE chain (id, parent_pool_id) AS (
        SELECT id, parent_pool_id FROM pools_without_ledger WHERE id = %(id)s
         UNION ALL
        SELECT p.id, p.parent_pool_id FROM chain JOIN pools_without_ledger p ON p.id = chain.parent_pool_id
    ), locked AS MATERIALIZED (
        SELECT p.*, p.status = 'suspended' OR p.remaining_budget < %(amount)s AS refused
          FROM pools_without_ledger p
          JOIN chain USING (id)
         ORDER BY p.id
           FOR NO KEY UPDATE OF p
    ), charged AS (
        UPDATE pools_without_ledger p
           SET used_budget = p.used_budget + %(amount)s
          FROM locked
         WHERE p.id = locked.id AND NOT EXISTS (SELECT FROM locked WHERE refused)
        RETURNING p.*
    )
    SELECT * FROM charged WHERE id = %(id)s
"""


async def without_ledger(pool: psycopg_pool.AsyncConnectionPool[Any]) -> WithoutLedger:
    """Create a copy of the table, with its indexes and its timestamp, and no other trigger."""
    async with pool.connection() as connection:
        await connection.execute("""
            CREATE TABLE pools_without_ledger (LIKE budget_pools INCLUDING ALL) WITH (fillfactor = 70);
            CREATE TRIGGER set_timestamp BEFORE UPDATE ON pools_without_ledger
                FOR EACH ROW EXECUTE FUNCTION trigger_set_timestamp();
        """)
    return WithoutLedger(pool)


class WithoutLedger:
    """Charges that no row of a ledger explains."""

    def __init__(self, pool: psycopg_pool.AsyncConnectionPool[Any]) -> None:
        self.pool = pool

    async def at_once(self, id: UUID, amount: Decimal) -> None:
        """Charge the pool and its ancestors by one statement, as `spend` did before it wrote a ledger."""
        async with self.pool.connection() as connection:
            cursor = await connection.execute(_AT_ONCE, {"id": id, "amount": amount})
            if await cursor.fetchone() is None:
                raise ValueError(f"{id} has too little")

    async def by_row(self, id: UUID, amount: Decimal) -> None:
        """Lock the pool and its ancestors, check and update them one after the other, in one transaction."""
        async with self.pool.connection() as connection, connection.transaction():
            level: UUID | None = id
            while level is not None:
                cursor = await connection.execute(
                    "SELECT parent_pool_id, total_budget, used_budget FROM pools_without_ledger WHERE id = %s"
                    " FOR UPDATE",
                    (level,),
                )
                parent, total, used = await cursor.fetchone() or (None, Decimal(0), Decimal(0))
                if used + amount > total:
                    raise ValueError(f"{level} has too little")
                await connection.execute(
                    "UPDATE pools_without_ledger SET used_budget = %s WHERE id = %s", (used + amount, level)
                )
                level = parent
