"""Budgets that concurrent spenders cannot overspend."""

from __future__ import annotations

from decimal import Decimal
from uuid import UUID

from agent_storage.errors import BudgetExceeded, Conflict
from agent_storage.repository import Repository, sql
from agent_storage.statements.records import Jsonb, JsonObject, Money
from agent_storage.tables.workflows.budget_pools.record import BudgetPool, Charge, NewBudgetPool, PoolStatus


class BudgetPools(Repository[BudgetPool, NewBudgetPool]):
    """A sum of money, and smaller ones below it; no pool is ever overspent."""

    table = "budget_pools"
    refers_to_itself = True

    @sql("SELECT {columns} FROM {table} WHERE parent_pool_id = %(id)s ORDER BY id", repeatable=True)
    async def children(self, id: UUID) -> list[BudgetPool]:
        """The pools directly below this one, oldest first."""
        ...

    @sql(
        """
        WITH RECURSIVE below (id, depth) AS (
            SELECT id, 0 FROM budget_pools WHERE id = %(id)s
             UNION ALL
            SELECT p.id, depth + 1 FROM below JOIN budget_pools p ON p.parent_pool_id = below.id
        ) CYCLE id SET repeated USING path
        SELECT {p.columns} FROM below JOIN budget_pools p USING (id) WHERE NOT repeated ORDER BY depth, id
        """,
        repeatable=True,
    )
    async def subtree(self, id: UUID) -> list[BudgetPool]:
        """This pool and all below it, level by level. One round trip."""
        ...

    @sql("""
        WITH RECURSIVE chain (id, parent_pool_id, distance) AS (
            SELECT id, parent_pool_id, 0 FROM budget_pools WHERE id = %(id)s
             UNION ALL
            SELECT p.id, p.parent_pool_id, distance + 1
              FROM chain
              JOIN budget_pools p ON p.id = chain.parent_pool_id
        ) CYCLE id SET repeated USING path, locked AS MATERIALIZED (
            -- Everybody locks in the order of ids, so nobody waits in a circle; a row that another one changed
            -- meanwhile is read anew once it is locked.
            SELECT p.*, chain.distance,
                   CASE WHEN %(refund)s THEN CASE WHEN p.used_budget < %(amount)s THEN 'unused' END
                        WHEN p.status = 'suspended' THEN 'suspended'
                        WHEN p.total_budget - p.used_budget < %(amount)s THEN 'short' END AS refusal
              FROM budget_pools p
              JOIN chain ON chain.id = p.id AND NOT chain.repeated
             ORDER BY p.id
               FOR NO KEY UPDATE OF p
        ), verdict AS (
            SELECT count(refusal) = 0 AS granted FROM locked
        ), charged AS (
            UPDATE budget_pools p
               SET used_budget = CASE WHEN %(refund)s THEN p.used_budget - %(amount)s
                                      ELSE p.used_budget + %(amount)s END
              FROM locked, verdict
             WHERE p.id = locked.id AND verdict.granted
            RETURNING p.*
        )
        SELECT {charged.columns}, NULL::text AS refusal FROM charged WHERE id = %(id)s
         UNION ALL
        (SELECT {locked.columns}, refusal FROM locked WHERE refusal IS NOT NULL ORDER BY distance LIMIT 1)
    """)
    async def charge(self, id: UUID, amount: Money, *, refund: bool) -> Charge:
        """Charge the pool and its ancestors. Return the pool after it, or the nearest pool that rejected it."""
        ...

    @sql("""
        WITH parent AS (
            SELECT * FROM budget_pools WHERE id = %(parent)s FOR NO KEY UPDATE
        )
        INSERT INTO budget_pools (parent_pool_id, total_budget, metadata)
        SELECT id, %(amount)s, %(metadata)s
          FROM parent
         WHERE total_budget - used_budget >= %(amount)s AND status <> 'suspended'
        RETURNING {columns}
    """)
    async def insert_below(self, parent: UUID, amount: Money, metadata: Jsonb[JsonObject]) -> BudgetPool | None:
        """A pool below another one; None when that is missing, suspended or too small."""
        ...

    @sql("""
        UPDATE {table}
           SET status = CASE WHEN %(status)s = 'suspended' THEN 'suspended'
                             WHEN used_budget >= total_budget THEN 'exhausted'
                             ELSE 'active' END
         WHERE id = %(id)s AND (status = 'suspended') <> (%(status)s = 'suspended')
        RETURNING {columns}
    """)
    async def move(self, id: UUID, status: PoolStatus) -> BudgetPool | None:
        """The pool, suspended or no longer; None when it was so already."""
        ...

    async def spend(self, id: UUID, amount: Money) -> BudgetPool:
        """Charge the pool and every one above it, all or nothing, in one statement; the pool afterwards.

        However many spend at once, no pool exceeds its total. Raises `BudgetExceeded` naming the nearest pool with too
        little left and what it has, `Conflict` when one is suspended, `NotFound`.
        """
        return _pool(await self.charge(id, amount, refund=False), amount)

    async def refund(self, id: UUID, amount: Money) -> BudgetPool:
        """Give back what was spent from the pool, in it and in every one above. Raises `Conflict` beyond what was."""
        return _pool(await self.charge(id, amount, refund=True), amount)

    async def allocate(self, parent: UUID, amount: Money, metadata: JsonObject | None = None) -> BudgetPool:
        """A pool of `amount` below `parent`, of what that has left now. It reserves nothing: what is spent counts.

        Raises `BudgetExceeded` when the parent has less left, `Conflict` when it is suspended, `NotFound`.
        """
        made = await self.insert_below(parent, amount, metadata or {})
        if made is None:
            raise _refusal(await self.require(parent), "short", amount)
        return made

    async def suspend(self, id: UUID) -> BudgetPool:
        """Nothing can be spent from the pool, nor from those below it. Raises `Conflict` when it is so, `NotFound`."""
        return await self.accepted(await self.move(id, "suspended"), id, "be suspended")

    async def resume(self, id: UUID) -> BudgetPool:
        """Undo `suspend`. Raises `Conflict` when it is not suspended, `NotFound`."""
        return await self.accepted(await self.move(id, "active"), id, "be resumed")


def _pool(charge: Charge, amount: Decimal) -> BudgetPool:
    pool = BudgetPool(**{name: getattr(charge, name) for name in BudgetPool.model_fields})
    if charge.refusal is not None:
        raise _refusal(pool, charge.refusal, amount)
    return pool


def _refusal(pool: BudgetPool, reason: str, amount: Decimal) -> Conflict:
    if pool.status == "suspended" and reason != "unused":
        return Conflict(f"budget_pools {pool.id} is suspended: nothing can be spent; resume it first")
    if reason == "unused":
        return Conflict(f"budget_pools {pool.id} cannot refund {amount}: only {pool.used_budget} was spent from it")
    return BudgetExceeded(
        f"budget_pools {pool.id} has {pool.remaining_budget} left, {amount} was asked; nothing was charged",
        pool_id=pool.id,
        remaining=pool.remaining_budget,
        table="budget_pools",
    )
