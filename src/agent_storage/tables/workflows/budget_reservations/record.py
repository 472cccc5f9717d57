"""An amount held in a budget pool."""

from __future__ import annotations

from decimal import Decimal
from typing import Literal
from uuid import UUID

from agent_storage.statements.records import Input, Jsonb, JsonObject, Key, Money, Record, Timestamp

ReservationStatus = Literal["held", "settled", "released"]


class NewBudgetReservation(Input):
    """Fields to create a reservation, which holds the amount in its pool and in all above it."""

    pool_id: UUID
    amount: Money
    key: Key | None = None
    actor: str | None = None
    session_id: UUID | None = None
    expires_at: Timestamp | None = None
    metadata: Jsonb[JsonObject] = {}


class BudgetReservation(Record, NewBudgetReservation):
    """An amount that is held, was settled with `settled_amount`, or was released."""

    status: ReservationStatus
    settled_amount: Decimal | None
