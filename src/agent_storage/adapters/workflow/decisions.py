"""Budgets and approval requests of runs."""

from __future__ import annotations

from decimal import Decimal
from typing import Any, Unpack

from agent_storage.adapters.text_ids import row_id
from agent_storage.adapters.workflow.bound import Bound, Query, called, where, where_id
from agent_storage.adapters.workflow.records import ApprovalRequest, BudgetPool
from agent_storage.errors import InvalidValue
from agent_storage.tables import BudgetPools
from agent_storage.types import ApprovalStatus, ApprovalType, NewApprovalRequest, NewBudgetPool
from agent_storage.types import BudgetPool as Pool


async def _use(pools: BudgetPools, pool: Pool, used: Decimal, total: Decimal | None = None) -> Pool:
    """Spend or refund the difference to what the pool has used."""
    if not 0 <= used <= (pool.total_budget if total is None else total):
        raise InvalidValue(
            f"budget_pools {pool.id}: used_budget must lie between 0 and total_budget",
            table="budget_pools",
            column="used_budget",
        )
    if used == pool.used_budget:
        return pool
    change = pools.spend if used > pool.used_budget else pools.refund
    return await change(pool.id, abs(used - pool.used_budget))


class Decisions(Bound):
    """The part of the facade that keeps budget pools and approval requests."""

    async def create_budget_pool(self, pool: BudgetPool) -> BudgetPool:
        """Store a pool. Raises `AlreadyExists` if the id is taken, `MissingReference` without its parent.

        `used_budget` is charged to the pools above too. Raises `BudgetExceeded` if one of them has too little left.
        """
        if not pool.used_budget:
            return await self._insert(self._tables.budget_pools, pool, NewBudgetPool)
        new = pool.to_new(NewBudgetPool)
        async with self._tables.budget_pools.transaction() as pools:
            made = await pools.create(new.model_copy(update={"status": "active"}))
            await _use(pools, made, pool.used_budget)
            return BudgetPool.read(await pools.update(made.id, status=new.status))

    async def get_budget_pool(self, id: str) -> BudgetPool | None:
        """Return the pool, or None."""
        return await self._get(self._tables.budget_pools, BudgetPool, id)

    async def update_budget_pool(self, id: str, /, **changes: Any) -> BudgetPool:
        """Change `total_budget`, `used_budget`, `status` or `metadata` of a pool, and return it.

        The difference to the present `used_budget` is spent or refunded, which changes the pools above too. For
        concurrent spends use `storage.budget_pools.spend`. Raises `NotFound`, `InvalidValue` when more would be used
        than there is, `BudgetExceeded` if a pool above has too little left, `InvalidTransition` if one is suspended.
        """
        BudgetPool.check_changes(changes, "total_budget", "used_budget", "status", "metadata")
        if "used_budget" not in changes:
            return await self._update(self._tables.budget_pools, BudgetPool, id, changes)
        used = changes.pop("used_budget")
        async with self._tables.budget_pools.transaction() as pools:
            with called(id) as key:
                pool = await pools.patch(key, metadata={})  # locks the row
                wanted = BudgetPool(total_budget=changes.pop("total_budget", pool.total_budget), used_budget=used)
                if wanted.total_budget > pool.total_budget:
                    pool = await pools.update(key, total_budget=wanted.total_budget)
                changed = await _use(pools, pool, wanted.used_budget, wanted.total_budget)
                if wanted.total_budget < pool.total_budget:
                    changed = await pools.update(key, total_budget=wanted.total_budget)
            return await self._update(pools, BudgetPool, id, changes) if changes else BudgetPool.read(changed)

    async def get_child_budget_pools(self, id: str, **query: Unpack[Query]) -> list[BudgetPool]:
        """List the pools directly below one, by default the oldest 1000."""
        of = {"parent_pool_id": row_id(id)}
        return await self._list(self._tables.budget_pools, BudgetPool, of, {"limit": 1000, **query})

    async def create_approval_request(self, request: ApprovalRequest) -> ApprovalRequest:
        """Store a request. Raises `AlreadyExists` if the id is taken, `MissingReference` without the session."""
        return await self._insert(self._tables.approval_requests, request, NewApprovalRequest)

    async def get_approval_request(self, id: str) -> ApprovalRequest | None:
        """Return the request, or None."""
        return await self._get(self._tables.approval_requests, ApprovalRequest, id)

    async def list_approval_requests(
        self,
        session_id: str | None = None,
        status: ApprovalStatus | None = None,
        type: ApprovalType | None = None,
        **query: Unpack[Query],
    ) -> list[ApprovalRequest]:
        """List requests (of a run, in a status, of a type), oldest first. Raises `InvalidValue` for an unknown one.

        An overdue request is no pending one.
        """
        of = where(session_id=where_id(session_id), status=status, type=type)
        return await self._list(self._tables.approval_requests, ApprovalRequest, of, query)

    async def list_pending_approvals(
        self, session_id: str | None = None, type: ApprovalType | None = None, **query: Unpack[Query]
    ) -> list[ApprovalRequest]:
        """List the requests that can be decided, oldest first."""
        return await self.list_approval_requests(session_id, "pending", type, **query)

    async def update_approval_request(self, id: str, /, **changes: Any) -> ApprovalRequest:
        """Change `context` or `expires_at` of a pending request, or decide it, and return it.

        A decision is a `status` (approved, rejected or expired), with `resolved_by` unless it is expired; `resolved_at`
        is the present time by default. Raises `InvalidTransition` that names an earlier decision, `InvalidValue` for a
        decision without an author, `NotFound`.
        """
        ApprovalRequest.check_changes(
            changes, "context", "expires_at", "status", "resolved_at", "resolved_by", "resolution_notes"
        )
        return await self._update(self._tables.approval_requests, ApprovalRequest, id, changes)

    async def approve_request(self, id: str, by: str, notes: str | None = None) -> ApprovalRequest:
        """Approve a pending request. Raises `InvalidTransition` that names the decision, `NotFound`."""
        with called(id) as key:
            return ApprovalRequest.read(await self._tables.approval_requests.approve(key, by, notes))

    async def reject_request(self, id: str, by: str, reason: str | None = None) -> ApprovalRequest:
        """Reject a pending request. Raises `InvalidTransition` that names the decision, `NotFound`."""
        with called(id) as key:
            return ApprovalRequest.read(await self._tables.approval_requests.reject(key, by, reason))
