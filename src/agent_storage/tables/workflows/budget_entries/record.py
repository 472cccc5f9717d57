"""An entry of the budgets' ledger."""

from __future__ import annotations

from typing import Literal
from uuid import UUID

from agent_storage.statements.records import Input, Jsonb, JsonObject, Key, Money, Record

EntryKind = Literal["spend", "refund", "increase", "decrease", "transfer", "reserve", "settle", "release"]


class NewBudgetEntry(Input):
    """Fields to create an entry, which moves the sums of its pool and of all above it."""

    pool_id: UUID
    kind: EntryKind
    amount: Money
    to_pool_id: UUID | None = None
    reservation_id: UUID | None = None
    key: Key | None = None
    actor: str | None = None
    session_id: UUID | None = None
    metadata: Jsonb[JsonObject] = {}


class BudgetEntry(Record, NewBudgetEntry):
    """A change of the sums of a pool: its kind and amount, its author, the run that it was for."""
