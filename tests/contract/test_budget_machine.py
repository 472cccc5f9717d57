"""Budgets beside a simple model: every public method and raw statement, in any sequence, to the last decimal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, LiteralString
from uuid import UUID

import psycopg
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from agent_storage import BudgetExceeded, Conflict, InvalidTransition, InvalidValue, StillReferenced, sync
from agent_storage.types import BudgetPool, NewBudgetEntry, NewBudgetPool

CENTS = st.integers(0, 4000).map(lambda cents: Decimal(cents) / 100)
#: Up to three levels, with a tree of its own beside it.
PARENTS = (None, 0, 0, 1, 1, 2, None, 6)
POOLS = st.integers(0, len(PARENTS) - 1)
KEYS = st.sampled_from([None, None, "a", "b", "c"])

#: Statements that a promise refuses; each is given the id of a pool, and that of an entry or a reservation.
REFUSED: list[LiteralString] = [
    "UPDATE budget_pools SET used_budget = used_budget + 1 WHERE id = %(pool)s",
    "UPDATE budget_pools SET reserved_budget = reserved_budget + 1 WHERE id = %(pool)s",
    "UPDATE budget_pools SET total_budget = total_budget + 1 WHERE id = %(pool)s",
    "UPDATE budget_pools SET parent_pool_id = uuid_v7() WHERE id = %(pool)s",
    "INSERT INTO budget_pools (parent_pool_id, total_budget, used_budget) VALUES (%(pool)s, 9, 1)",
    "INSERT INTO budget_pools (parent_pool_id, total_budget, reserved_budget) VALUES (%(pool)s, 9, 1)",
    "INSERT INTO budget_pools (total_budget) VALUES ('NaN')",
    "INSERT INTO budget_entries (pool_id, kind, amount) VALUES (%(pool)s, 'increase', 'NaN')",
    "INSERT INTO budget_entries (pool_id, kind, amount) VALUES (%(pool)s, 'refund', -1)",
    "INSERT INTO budget_entries (pool_id, kind, amount) VALUES (%(pool)s, 'refund', 99999)",
    "INSERT INTO budget_entries (pool_id, kind, amount) VALUES (%(pool)s, 'spend', 99999)",
    "INSERT INTO budget_entries (pool_id, kind, amount) VALUES (%(pool)s, 'release', 1)",
    "INSERT INTO budget_entries (pool_id, kind, amount, to_pool_id) VALUES (%(pool)s, 'transfer', 1, %(pool)s)",
    "INSERT INTO budget_entries (pool_id, kind, amount, to_pool_id) VALUES (%(pool)s, 'spend', 0, %(pool)s)",
]
REFUSED_OF_ENTRY: list[LiteralString] = [
    "UPDATE budget_entries SET amount = amount + 1 WHERE id = %(id)s",
    "UPDATE budget_entries SET metadata = '{}' WHERE id = %(id)s",
    "DELETE FROM budget_entries WHERE id = %(id)s",
    "DELETE FROM budget_pools WHERE id = %(pool)s",
]
REFUSED_OF_RESERVATION: list[LiteralString] = [
    "UPDATE budget_reservations SET amount = amount + 1 WHERE id = %(id)s",
    "UPDATE budget_reservations SET key = 'other' WHERE id = %(id)s",
    "UPDATE budget_reservations SET pool_id = uuid_v7() WHERE id = %(id)s",
    (
        "UPDATE budget_reservations SET status = 'settled', settled_amount = coalesce(settled_amount, 0) + 1"
        " WHERE id = %(id)s"
    ),
    "DELETE FROM budget_reservations WHERE id = %(id)s",
    (
        "INSERT INTO budget_entries (pool_id, kind, amount, reservation_id)"
        " SELECT pool_id, 'reserve', amount, id FROM budget_reservations WHERE id = %(id)s"
    ),
    (
        "INSERT INTO budget_entries (pool_id, kind, amount, reservation_id)"
        " SELECT pool_id, 'release', amount + 1, id FROM budget_reservations WHERE id = %(id)s"
    ),
]


@dataclass
class Held:
    """A reservation of the model."""

    id: UUID
    pool: int
    amount: Decimal
    status: str = "held"
    settled: Decimal | None = None


class Budgets(RuleBasedStateMachine):
    """Every method of the budgets on two trees, beside a model of a few lists."""

    storage: sync.Storage

    def __init__(self) -> None:
        super().__init__()
        self.ids: list[UUID] = []
        for number, parent in enumerate(PARENTS):
            above = None if parent is None else self.ids[parent]
            new = NewBudgetPool(total_budget=Decimal(100 - 11 * number), parent_pool_id=above)
            self.ids.append(self.storage.budget_pools.create(new).id)
        self.total = [Decimal(100 - 11 * number) for number in range(len(PARENTS))]
        self.used = [Decimal(0)] * len(PARENTS)
        self.reserved = [Decimal(0)] * len(PARENTS)
        self.suspended: set[int] = set()
        self.held: list[Held] = []
        self.keys: dict[str, tuple[Any, ...]] = {}
        self.run = str(self.ids[0])

    # ---- the model -----------------------------------------------------------------------------------------------

    def chain(self, number: int | None) -> list[int]:
        return [] if number is None else [number, *self.chain(PARENTS[number])]

    def left(self, number: int) -> Decimal:
        return self.total[number] - self.used[number] - self.reserved[number]

    def refusing(self, number: int, amount: Decimal) -> int | None:
        """The nearest pool that refuses to be charged."""
        return next((n for n in self.chain(number) if n in self.suspended or self.left(n) < amount), None)

    def called(self, key: str | None, what: tuple[Any, ...], call: Callable[[str | None], Any]) -> bool:
        """Whether the call is a new one. A repetition is made here: it does nothing, another call is refused."""
        if key is None or key not in self.keys:
            return True
        if self.keys[key] == what:
            call(f"{key} {self.run}")
        else:
            with pytest.raises(Conflict, match="another call with this key"):
                call(f"{key} {self.run}")
        return False

    def post(
        self, key: str | None, what: tuple[Any, ...], call: Callable[[str | None], Any], refused: int | None
    ) -> Any:
        """Make a new call, which the pool `refused` refuses."""
        given = None if key is None else f"{key} {self.run}"
        if refused is None:
            result = call(given)
            if key is not None:
                self.keys[key] = what
            return result
        with pytest.raises(Conflict, match=str(self.ids[refused])) as caught:
            call(given)
        if isinstance(caught.value, BudgetExceeded):
            assert caught.value.remaining == self.left(refused)
        return None

    def add(self, sums: list[Decimal], number: int, amount: Decimal) -> None:
        for each in self.chain(number):
            sums[each] += amount

    # ---- the methods ---------------------------------------------------------------------------------------------

    @rule(number=POOLS, amount=CENTS, key=KEYS, row=st.booleans())
    def spend(self, number: int, amount: Decimal, key: str | None, row: bool) -> None:
        what = ("spend", number, amount)

        def call(key: str | None) -> Any:
            if row and key is None:
                new = NewBudgetEntry(pool_id=self.ids[number], kind="spend", amount=amount)
                return self.storage.budget_entries.create(new)
            return self.storage.budget_pools.spend(self.ids[number], amount, key=key)

        if self.called(key, what, call):
            refused = self.refusing(number, amount)
            self.post(key, what, call, refused)
            if refused is None:
                self.add(self.used, number, amount)

    @rule(number=POOLS, amount=CENTS, key=KEYS)
    def refund(self, number: int, amount: Decimal, key: str | None) -> None:
        what = ("refund", number, amount)

        def call(key: str | None) -> BudgetPool:
            return self.storage.budget_pools.refund(self.ids[number], amount, key=key)

        if self.called(key, what, call):
            refused = next((n for n in self.chain(number) if self.used[n] < amount), None)
            self.post(key, what, call, refused)
            if refused is None:
                self.add(self.used, number, -amount)

    @rule(number=POOLS, amount=CENTS, key=KEYS, sign=st.sampled_from([1, -1]))
    def resize(self, number: int, amount: Decimal, key: str | None, sign: int) -> None:
        what = ("resize", number, amount, sign)

        def call(key: str | None) -> BudgetPool:
            pools = self.storage.budget_pools
            return (pools.increase if sign > 0 else pools.decrease)(self.ids[number], amount, key=key)

        if self.called(key, what, call):
            refused = number if sign < 0 and self.left(number) < amount else None
            self.post(key, what, call, refused)
            if refused is None:
                self.total[number] += sign * amount

    @rule(number=POOLS, amount=CENTS)
    def update(self, number: int, amount: Decimal) -> None:
        if amount < self.used[number] + self.reserved[number]:
            with pytest.raises(InvalidValue, match="budget_pools_used_within_total"):
                self.storage.budget_pools.update(self.ids[number], total_budget=amount)
        else:
            self.storage.budget_pools.update(self.ids[number], total_budget=amount)
            self.total[number] = amount

    @rule(one=POOLS, two=POOLS, amount=CENTS, key=KEYS)
    def transfer(self, one: int, two: int, amount: Decimal, key: str | None) -> None:
        if one == two:
            return
        what = ("transfer", one, two, amount)

        def call(key: str | None) -> Any:
            return self.storage.budget_pools.transfer(self.ids[one], self.ids[two], amount, key=key)

        if self.called(key, what, call):
            refused = one if self.left(one) < amount else None
            self.post(key, what, call, refused)
            if refused is None:
                self.total[one] -= amount
                self.total[two] += amount

    @rule(number=POOLS, amount=CENTS, key=KEYS)
    def reserve(self, number: int, amount: Decimal, key: str | None) -> None:
        what = ("reserve", number, amount)

        def call(key: str | None) -> Any:
            return self.storage.budget_pools.reserve(self.ids[number], amount, key=key)

        if self.called(key, what, call):
            made = self.post(key, what, call, self.refusing(number, amount))
            if made is not None:
                self.held.append(Held(made.id, number, amount))
                self.add(self.reserved, number, amount)

    @precondition(lambda self: self.held)
    @rule(data=st.data(), amount=CENTS)
    def settle(self, data: Any, amount: Decimal) -> None:
        one = data.draw(st.sampled_from(self.held))
        if one.status != "held":
            if one.settled == amount:
                assert self.storage.budget_pools.settle(one.id, amount).settled_amount == amount
            else:
                with pytest.raises(InvalidTransition, match=f"{one.id} was {one.status}"):
                    self.storage.budget_pools.settle(one.id, amount)
            return
        more = amount - one.amount
        chain = self.chain(one.pool)
        refused = next((n for n in chain if more > 0 and (n in self.suspended or self.left(n) < more)), None)
        done = self.post(None, (), lambda _: self.storage.budget_pools.settle(one.id, amount), refused)
        if done is not None:
            one.status, one.settled = "settled", amount
            self.add(self.used, one.pool, amount)
            self.add(self.reserved, one.pool, -one.amount)

    @precondition(lambda self: self.held)
    @rule(data=st.data(), late=st.booleans())
    def release(self, data: Any, late: bool) -> None:
        one = data.draw(st.sampled_from(self.held))
        if late:
            with self.storage.database.connection() as connection:
                past = b"UPDATE budget_reservations SET expires_at = now() - interval '1 s' WHERE id = %s"
                connection.execute(past, (one.id,))
            assert self.storage.budget_pools.release_overdue() == (one.status == "held")
        elif one.status == "settled":
            with pytest.raises(InvalidTransition, match="was settled"):
                self.storage.budget_pools.release(one.id)
        else:
            assert self.storage.budget_pools.release(one.id).status == "released"
        if one.status == "held":
            one.status = "released"
            self.add(self.reserved, one.pool, -one.amount)

    @rule(number=POOLS)
    def suspend_or_resume(self, number: int) -> None:
        pools = self.storage.budget_pools
        (pools.resume if number in self.suspended else pools.suspend)(self.ids[number])
        self.suspended ^= {number}

    @rule(number=POOLS, status=st.sampled_from(["active", "exhausted", "suspended"]))
    def set_status(self, number: int, status: Any) -> None:
        self.storage.budget_pools.update(self.ids[number], status=status)
        self.suspended = self.suspended | {number} if status == "suspended" else self.suspended - {number}

    @rule(number=POOLS)
    def delete(self, number: int) -> None:
        if self.storage.budget_entries.count({"pool_id": self.ids[number]}) or number in PARENTS:
            with pytest.raises(StillReferenced):
                self.storage.budget_pools.delete(self.ids[number])

    # ---- raw SQL -------------------------------------------------------------------------------------------------

    @rule(number=POOLS, amounts=st.lists(st.tuples(POOLS, CENTS), min_size=1, max_size=4))
    def insert_entries(self, number: int, amounts: list[tuple[int, Decimal]]) -> None:
        """Several entries by one statement: all or none, and none of the pools is overspent by the sum of them."""
        charged = [Decimal(0)] * len(PARENTS)
        for pool, amount in amounts:
            self.add(charged, pool, amount)
        touched = {each for pool, _ in amounts for each in self.chain(pool)}
        refused = any(n in self.suspended or self.left(n) < charged[n] for n in touched)
        rows = [(self.ids[pool], amount) for pool, amount in amounts]
        text = b"""INSERT INTO budget_entries (pool_id, kind, amount)
                   SELECT pool, 'spend', amount FROM unnest(%s::uuid[], %s::numeric[]) AS given (pool, amount)"""
        with self.storage.database.connection() as connection:
            try:
                connection.execute(text, ([pool for pool, _ in rows], [amount for _, amount in rows]))
            except psycopg.Error as error:
                assert refused and error.sqlstate == "AS001"
                return
        assert not refused
        self.used = [one + more for one, more in zip(self.used, charged, strict=True)]

    @rule(number=POOLS, data=st.data())
    def refused_statement(self, number: int, data: Any) -> None:
        values: dict[str, Any] = {"pool": self.ids[number]}
        statements = REFUSED
        entry = self.storage.budget_entries.find({"pool_id": self.ids[number]}, limit=1)
        if self.held and data.draw(st.booleans()):
            values["id"] = data.draw(st.sampled_from(self.held)).id
            statements = REFUSED_OF_RESERVATION
        elif entry:
            values["id"] = entry[0].id
            statements = [*REFUSED, *REFUSED_OF_ENTRY]
        text = data.draw(st.sampled_from(statements))
        with self.storage.database.connection() as connection, pytest.raises(psycopg.Error) as caught:
            connection.execute(text, values)
        assert caught.value.sqlstate in ("AS001", "23514", "23503", "23505"), text

    # ---- what always holds ---------------------------------------------------------------------------------------

    @invariant()
    def stored_is_what_the_model_says(self) -> None:
        roots = [self.ids[number] for number, parent in enumerate(PARENTS) if parent is None]
        pools = {item.id: item for root in roots for item in self.storage.budget_pools.subtree(root)}
        for number, id_ in enumerate(self.ids):
            stored = pools[id_]
            full = self.left(number) <= 0
            status = "suspended" if number in self.suspended else "exhausted" if full else "active"
            assert (stored.total_budget, stored.used_budget, stored.reserved_budget, stored.status) == (
                self.total[number], self.used[number], self.reserved[number], status
            )  # fmt: skip
            assert stored.remaining_budget == self.left(number) >= 0

    def teardown(self) -> None:
        """The ledger adds up to the sums, pools above included."""
        used, reserved = [Decimal(0)] * len(PARENTS), [Decimal(0)] * len(PARENTS)
        place = {id_: number for number, id_ in enumerate(self.ids)}
        amounts = {one.id: one.amount for one in self.held}
        for entry in self.storage.budget_entries.find({"pool_id__in": self.ids}, limit=1000):
            number = place[entry.pool_id]
            if entry.kind in ("spend", "settle", "refund"):
                self.add(used, number, -entry.amount if entry.kind == "refund" else entry.amount)
            if entry.reservation_id is not None:
                amount = amounts[entry.reservation_id]
                self.add(reserved, number, amount if entry.kind == "reserve" else -amount)
        assert (used, reserved) == (self.used, self.reserved)


def test_any_sequence_of_calls_and_statements_is_what_a_simple_model_says(sync_storage: sync.Storage) -> None:
    Budgets.storage = sync_storage
    rules = settings(max_examples=40, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck))
    run_state_machine_as_test(Budgets, settings=rules)
