"""Budgets that concurrent spenders cannot overspend."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Unpack
from uuid import UUID

from typing_extensions import TypeVar

from agent_storage.errors import BudgetExceeded, Conflict, InvalidTransition
from agent_storage.repository import Repository, sql
from agent_storage.statements.lists import Found
from agent_storage.statements.records import Jsonb, JsonObject, Money
from agent_storage.tables.workflows.budget_pools.record import BudgetPool, Charge, NewBudgetPool, PoolStatus

if TYPE_CHECKING:
    from agent_storage.tables.changes import BudgetPoolChanges

R = TypeVar("R", bound=BudgetPool, default=BudgetPool, covariant=True)
N = TypeVar("N", bound=NewBudgetPool, default=NewBudgetPool, covariant=True)


class BudgetPools(Repository[R, N]):
    """Budgets, in trees; no pool is ever overspent."""

    table = "budget_pools"
    refers_to_itself = True
    references = {"parent_pool_id": "budget_pools"}

    @sql(
        "SELECT {columns} FROM {table} WHERE parent_pool_id = %(id)s ORDER BY id DESC LIMIT %(limit)s", repeatable=True
    )
    async def children(self, id: UUID, limit: int = 100) -> Found[R]:
        """Return the pools directly below this one, newest first."""
        ...

    @sql(
        """
        WITH RECURSIVE below (id, depth) AS (
            SELECT id, 0 FROM budget_pools WHERE id = %(id)s
             UNION ALL
            SELECT p.id, depth + 1 FROM below JOIN budget_pools p ON p.parent_pool_id = below.id
        ) CYCLE id SET repeated USING path
        SELECT {p.columns} FROM below JOIN budget_pools p USING (id) WHERE NOT repeated ORDER BY depth, id
         LIMIT %(limit)s
        """,
        repeatable=True,
    )
    async def subtree(self, id: UUID, limit: int = 100) -> Found[R]:
        """Return this pool and all below it, level by level. One round trip."""
        ...

    @sql("""
        WITH RECURSIVE chain (id, parent_pool_id, distance) AS (
            SELECT id, parent_pool_id, 0 FROM budget_pools WHERE id = %(id)s
             UNION ALL
            SELECT p.id, p.parent_pool_id, distance + 1
              FROM chain
              JOIN budget_pools p ON p.id = chain.parent_pool_id
        ) CYCLE id SET repeated USING path, locked AS MATERIALIZED (
            -- Every statement locks in the order of ids, so no deadlock is possible; a row that another transaction
            -- changed meanwhile is read again once it is locked.
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
    async def _charge(self, id: UUID, amount: Money, *, refund: bool) -> Charge:
        """Return the pool after the charge of it and all above, or the nearest pool that refused it."""
        ...

    @sql("""
        WITH parent AS (
            SELECT * FROM budget_pools WHERE id = %(id)s FOR NO KEY UPDATE
        )
        INSERT INTO budget_pools (parent_pool_id, total_budget, metadata)  -- without used_budget, status
        SELECT id, %(amount)s, %(metadata)s
          FROM parent
         WHERE total_budget - used_budget >= %(amount)s AND status <> 'suspended'
        RETURNING {columns}
    """)
    async def _allocate(self, id: UUID, amount: Money, metadata: Jsonb[JsonObject]) -> R | None:
        """Return a pool below another one, or None if that is missing, suspended or too small."""
        ...

    @sql("""
        UPDATE {table}
           SET status = CASE WHEN %(status)s = 'suspended' THEN 'suspended'
                             WHEN used_budget >= total_budget THEN 'exhausted'
                             ELSE 'active' END
         WHERE id = %(id)s AND (status = 'suspended') <> (%(status)s = 'suspended')
        RETURNING {columns}
    """)
    async def _move(self, id: UUID, status: PoolStatus) -> R | None:
        """Return the pool, suspended or resumed, or None if it was so already."""
        ...

    async def spend(self, id: UUID, amount: Money) -> BudgetPool:
        """Charge the pool and every one above it, all or nothing, in one statement. Return the pool afterwards.

        However many spend at once, no pool exceeds its total. Raises `BudgetExceeded` for the nearest pool with too
        little left, `InvalidTransition` if one is suspended, `NotFound`.
        """
        return _pool(await self._charge(id, amount, refund=False), amount)

    async def refund(self, id: UUID, amount: Money) -> BudgetPool:
        """Undo a charge of the pool and every one above it. Raises `InvalidTransition` beyond what was spent."""
        return _pool(await self._charge(id, amount, refund=True), amount)

    async def allocate(self, id: UUID, amount: Money, metadata: JsonObject | None = None) -> R:
        """Create a pool of `amount` below this one. It reserves nothing: only charges count.

        Raises `BudgetExceeded` if this pool has less left, `InvalidTransition` if it is suspended, `NotFound`.
        """
        made = await self._allocate(id, amount, metadata or {})
        if made is None:
            raise _refusal(await self.require(id), "short", amount)
        return made

    async def suspend(self, id: UUID) -> R:
        """Refuse every charge of the pool and of those below it. Raises `InvalidTransition`, `NotFound`."""
        return await self._accepted(await self._move(id, "suspended"), id, "be suspended")

    async def resume(self, id: UUID) -> R:
        """Undo `suspend`. Raises `InvalidTransition`, `NotFound`."""
        return await self._accepted(await self._move(id, "active"), id, "be resumed")

    if TYPE_CHECKING:

        async def update(self, id: UUID, /, **changes: Unpack[BudgetPoolChanges]) -> R: ...  # noqa: D102


def _pool(charge: Charge, amount: Decimal) -> BudgetPool:
    pool = BudgetPool(**{name: getattr(charge, name) for name in BudgetPool.model_fields})
    if charge.refusal is not None:
        raise _refusal(pool, charge.refusal, amount)
    return pool


def _refusal(pool: BudgetPool, reason: str, amount: Decimal) -> Conflict:
    if pool.status == "suspended" and reason != "unused":
        return InvalidTransition(f"budget_pools {pool.id} is suspended: nothing can be spent; resume it first")
    if reason == "unused":
        return InvalidTransition(
            f"budget_pools {pool.id} cannot refund {amount}: only {pool.used_budget} was spent from it"
        )
    return BudgetExceeded(
        f"budget_pools {pool.id} has {pool.remaining_budget} left, {amount} was asked; nothing was charged",
        pool_id=pool.id,
        remaining=pool.remaining_budget,
        table="budget_pools",
    )
