"""Budgets that concurrent spenders cannot overspend, with their ledger and reservations."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, TypedDict, Unpack
from uuid import UUID

from typing_extensions import TypeVar

from agent_storage.errors import BudgetExceeded, Conflict, InvalidTransition, InvalidValue, NotFound
from agent_storage.repository import Repository, sql
from agent_storage.statements.lists import Found
from agent_storage.statements.records import Jsonb, JsonObject, Key, Money, Timestamp
from agent_storage.tables.workflows.budget_entries.record import EntryKind
from agent_storage.tables.workflows.budget_pools.record import (
    BudgetPool,
    Charge,
    Hold,
    NewBudgetPool,
    PoolStatus,
    Refusal,
)
from agent_storage.tables.workflows.budget_reservations.record import BudgetReservation

if TYPE_CHECKING:
    from agent_storage.tables.changes import BudgetPoolChanges

R = TypeVar("R", bound=BudgetPool, default=BudgetPool, covariant=True)
N = TypeVar("N", bound=NewBudgetPool, default=NewBudgetPool, covariant=True)


class EntryDetails(TypedDict, total=False):
    """Keywords of the calls that the ledger records.

    `key` makes a call safe to repeat: with the same key it is done once, and each repetition returns the present state.
    The same key with another amount, pool or method raises `Conflict`. `by` is the author, `session_id` the run.
    """

    key: str | None
    by: str | None
    session_id: UUID | None
    metadata: JsonObject | None


class BudgetPools(Repository[R, N]):
    """Budgets, in trees; no pool is ever overspent.

    The sums change only with an entry of the ledger (`budget_entries`). Each call is one statement, which locks the
    pools in the order of their ids. A refused call changes nothing and leaves a transaction usable.
    """

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
        )
        SELECT {p.columns} FROM below JOIN budget_pools p USING (id) ORDER BY depth, id LIMIT %(limit)s
        """,
        repeatable=True,
    )
    async def subtree(self, id: UUID, limit: int = 100) -> Found[R]:
        """Return this pool and all below it, level by level. One round trip."""
        ...

    @sql("""
        SELECT {p.columns}, posted.refusal, posted.refused_amount, posted.was
          FROM budget_post(%(kind)s, %(id)s, %(amount)s, %(to_id)s, NULL, %(key)s, %(by)s, %(session_id)s, NULL,
                           coalesce(%(metadata)s, '{}'::jsonb)) AS posted,
               LATERAL (SELECT (posted.pool).*) AS p
    """)
    async def _post(
        self,
        kind: EntryKind,
        id: UUID,
        amount: Money,
        to_id: UUID | None = None,
        *,
        key: Key | None = None,
        by: str | None = None,
        session_id: UUID | None = None,
        metadata: Jsonb[JsonObject] | None = None,
    ) -> list[Charge]:
        """Return the pool afterwards (and the other one of a transfer), the pool that refused, or nothing."""
        ...

    @sql("""
        SELECT held.id, held.pool_id, held.amount, held.key, held.actor, held.session_id, held.expires_at,
               held.metadata, held.status, held.settled_amount, held.created_at, held.updated_at,
               (posted.pool).id AS refused_by, posted.refusal, posted.refused_amount, posted.was
          FROM budget_post(%(kind)s, %(id)s, %(amount)s, NULL, %(reservation_id)s, %(key)s, %(by)s, %(session_id)s,
                           %(expires_at)s, coalesce(%(metadata)s, '{}'::jsonb)) AS posted,
               LATERAL (SELECT (posted.reservation).*) AS held
    """)
    async def _hold(
        self,
        kind: EntryKind,
        id: UUID | None,
        amount: Money,
        reservation_id: UUID | None = None,
        expires_at: Timestamp | None = None,
        *,
        key: Key | None = None,
        by: str | None = None,
        session_id: UUID | None = None,
        metadata: Jsonb[JsonObject] | None = None,
    ) -> Hold | None:
        """Return the reservation afterwards, or the reason of the refusal, or None if there is no such row."""
        ...

    @sql("""
        WITH pool AS MATERIALIZED (
            SELECT id, %(total_budget)s - total_budget AS change
              FROM budget_pools WHERE id = %(id)s FOR NO KEY UPDATE
        )
        SELECT {p.columns}, posted.refusal, posted.refused_amount, posted.was
          FROM pool,
               LATERAL budget_post(CASE WHEN change < 0 THEN 'decrease' ELSE 'increase' END, id, abs(change),
                                   NULL, NULL, NULL, NULL, NULL, NULL, '{}') AS posted,
               LATERAL (SELECT (posted.pool).*) AS p
    """)
    async def _resize(self, id: UUID, total_budget: Money) -> Charge | None:
        """Return the pool with another total, or the refusal, or None if there is no such pool."""
        ...

    @sql("""
        WITH parent AS (
            SELECT * FROM budget_pools WHERE id = %(id)s FOR NO KEY UPDATE
        )
        INSERT INTO budget_pools (parent_pool_id, total_budget, metadata)  -- without status
        SELECT id, %(amount)s, %(metadata)s
          FROM parent
         WHERE remaining_budget >= %(amount)s AND status <> 'suspended'
        RETURNING {columns}
    """)
    async def _allocate(self, id: UUID, amount: Money, metadata: Jsonb[JsonObject]) -> R | None:
        """Return a pool below another one, or None if that is missing, suspended or too small."""
        ...

    @sql("""
        UPDATE {table}
           SET status = %(status)s
         WHERE id = %(id)s AND (status = 'suspended') <> (%(status)s = 'suspended')
        RETURNING {columns}
    """)
    async def _move(self, id: UUID, status: PoolStatus) -> R | None:
        """Return the pool, suspended or resumed, or None if it was so already."""
        ...

    async def spend(self, id: UUID, amount: Money, **details: Unpack[EntryDetails]) -> BudgetPool:
        """Charge the pool and every one above it, all or nothing. Return the pool afterwards.

        However many spend at once, no pool exceeds its total. Raises `BudgetExceeded` for the nearest pool with too
        little left, `InvalidTransition` if one is suspended, `NotFound`.
        """
        return (await self._posted("spend", id, amount, None, details))[0]

    async def refund(self, id: UUID, amount: Money, **details: Unpack[EntryDetails]) -> BudgetPool:
        """Undo a charge of the pool and every one above it. Raises `InvalidTransition` beyond what was spent."""
        return (await self._posted("refund", id, amount, None, details))[0]

    async def increase(self, id: UUID, amount: Money, **details: Unpack[EntryDetails]) -> BudgetPool:
        """Increase the total of the pool. Concurrent increases add up. It may exceed that of the pools above."""
        return (await self._posted("increase", id, amount, None, details))[0]

    async def decrease(self, id: UUID, amount: Money, **details: Unpack[EntryDetails]) -> BudgetPool:
        """Decrease the total of the pool. Raises `BudgetExceeded` if less than that is left."""
        return (await self._posted("decrease", id, amount, None, details))[0]

    async def transfer(
        self, from_id: UUID, to_id: UUID, amount: Money, **details: Unpack[EntryDetails]
    ) -> tuple[BudgetPool, BudgetPool]:
        """Move a part of the total of one pool to another one. Return both afterwards.

        The pools above are not changed. Raises `BudgetExceeded` if the first has less left, `InvalidValue` if both are
        the same, `NotFound`.
        """
        source, target = await self._posted("transfer", from_id, amount, to_id, details)
        return source, target

    async def reserve(
        self, id: UUID, amount: Money, *, expires_at: datetime | None = None, **details: Unpack[EntryDetails]
    ) -> BudgetReservation:
        """Hold an amount in the pool and every one above it, for a call whose cost is known afterwards.

        The amount is held until `settle`, `release`, or `release_overdue` after `expires_at`, and cannot be spent
        otherwise. Raises the errors of `spend`.
        """
        held = await self._hold("reserve", id, amount, None, expires_at, **details)
        if held is None:
            raise await self._missing(id)
        return _reservation(held, amount)

    async def settle(self, reservation_id: UUID, amount: Money, **details: Unpack[EntryDetails]) -> BudgetReservation:
        """Charge the true amount to the pools that hold the reservation, and free the rest of it.

        An amount beyond the reserved one needs that much left in every pool; otherwise `BudgetExceeded` is raised (or
        `InvalidTransition` for a suspended pool), and the reservation stays held. A repetition with the same amount
        returns the reservation. Raises `InvalidTransition` if it was settled otherwise or released, `NotFound`.
        """
        held = await self._hold("settle", None, amount, reservation_id, **details)
        return _reservation(_found(held, reservation_id), amount)

    async def release(self, reservation_id: UUID, **details: Unpack[EntryDetails]) -> BudgetReservation:
        """Release what a reservation holds. Idempotent. Raises `InvalidTransition` if it was settled, `NotFound`."""
        held = await self._hold("release", None, Decimal(0), reservation_id, **details)
        return _reservation(_found(held, reservation_id), Decimal(0))

    @sql(
        """
        SELECT id FROM budget_reservations
         WHERE status = 'held' AND expires_at <= clock_timestamp()
         ORDER BY expires_at
         LIMIT %(limit)s
        """,
        repeatable=True,
    )
    async def _overdue(self, limit: int) -> list[UUID]:
        """Return the ids of held reservations whose time has run out."""
        ...

    async def release_overdue(self, limit: int = 1000) -> int:
        """Release held reservations whose time has run out, at most `limit`. Return how many.

        Each is a separate statement, so that none waits for another one while it holds locks.
        """
        released = 0
        for late in await self._overdue(limit):
            held = await self._hold("release", None, Decimal(0), late)
            released += held is not None and held.refusal is None
        return released

    async def allocate(self, id: UUID, amount: Money, metadata: JsonObject | None = None) -> R:
        """Create a pool of `amount` below this one. It reserves nothing: only charges count.

        Raises `BudgetExceeded` if this pool has less left, `InvalidTransition` if it is suspended, `NotFound`.
        """
        made = await self._allocate(id, amount, metadata or {})
        if made is None:
            pool = await self.require(id)
            reason = "suspended" if pool.status == "suspended" else "short"
            raise _refusal(reason, pool.id, amount, pool.remaining_budget)
        return made

    async def suspend(self, id: UUID) -> R:
        """Refuse every charge of the pool and of those below it. Raises `InvalidTransition`, `NotFound`."""
        return await self._accepted(await self._move(id, "suspended"), id, "be suspended")

    async def resume(self, id: UUID) -> R:
        """Undo `suspend`. Raises `InvalidTransition`, `NotFound`."""
        return await self._accepted(await self._move(id, "active"), id, "be resumed")

    async def update(self, id: UUID, /, **changes: Unpack[BudgetPoolChanges]) -> R:
        """Change the given fields of the pool, and return it. Raises `NotFound`, `InvalidValue`.

        Another `total_budget` is an increase or a decrease in the ledger, of the difference to the present one: of
        concurrent updates the last one wins, so use `increase` to add. `parent_pool_id` cannot be changed.
        """
        others: dict[str, Any] = dict(changes)
        if "total_budget" not in others:
            return await super().update(id, **others)
        async with self.transaction() as pools:
            resized = await pools._resize(id, others.pop("total_budget"))
            if resized is not None and resized.refusal is not None:
                raise InvalidValue(
                    f"budget_pools {id}: a total less than what was used and reserved breaks the rule "
                    "budget_pools_used_within_total",
                    table="budget_pools",
                    column="total_budget",
                    constraint="budget_pools_used_within_total",
                )
            return await (pools.update(id, **others) if others else pools.require(id))

    async def _posted(
        self, kind: EntryKind, id: UUID, amount: Money, to_id: UUID | None, details: EntryDetails
    ) -> list[BudgetPool]:
        """Return the pools after an entry. Raises the reason of its refusal."""
        charges = await self._post(kind, id, amount, to_id, **details)
        for charge in charges:
            if charge.refusal is not None:
                raise _refusal(charge.refusal, charge.id, amount, charge.refused_amount, charge.was)
        if not charges:
            raise await self._missing(id if to_id is None or not await self.exists(id) else to_id)
        return [BudgetPool(**{name: getattr(charge, name) for name in BudgetPool.model_fields}) for charge in charges]

    async def _missing(self, id: UUID) -> NotFound:
        return _not_found("budget_pools", id)


def _not_found(table: str, id: UUID) -> NotFound:
    error = NotFound(f"{table} has no row {id}", table=table)
    error.id = id
    return error


def _found(held: Hold | None, id: UUID) -> Hold:
    if held is None:
        raise _not_found("budget_reservations", id)
    return held


def _reservation(held: Hold, amount: Decimal) -> BudgetReservation:
    if held.refusal == "closed":
        done = f"settled with {held.settled_amount}" if held.status == "settled" else "released"
        raise InvalidTransition(f"budget_reservations {held.id} was {done}", table="budget_reservations")
    if held.refusal is not None:
        more = Decimal(amount) - held.amount if held.status == "held" else amount
        raise _refusal(held.refusal, held.refused_by, more, held.refused_amount, held.was)
    return BudgetReservation(**{name: getattr(held, name) for name in BudgetReservation.model_fields})


def _refusal(reason: Refusal, pool_id: UUID, asked: Decimal, had: Decimal | None, was: str | None = None) -> Conflict:
    if reason == "suspended":
        return InvalidTransition(
            f"budget_pools {pool_id} is suspended: nothing can be spent; resume it first", table="budget_pools"
        )
    if reason == "unused":
        return InvalidTransition(
            f"budget_pools {pool_id} cannot refund {asked}: only {had} was spent from it", table="budget_pools"
        )
    if reason == "short":
        return BudgetExceeded(
            f"budget_pools {pool_id} has {had} left, {asked} was asked; nothing was charged",
            pool_id=pool_id,
            remaining=Decimal(had or 0),
            table="budget_pools",
        )
    return Conflict(
        f"budget_entries has another call with this key: {was} of {had}, budget_pools {pool_id}; use a new key",
        table="budget_entries",
        constraint="budget_entries_key_key",
    )
