"""A task of a ticket."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated
from uuid import UUID

from pydantic import Field

from agent_storage.statements.records import Input, Label, Record

Hours = Annotated[Decimal, Field(ge=0, max_digits=8, decimal_places=2)]


class NewTicketTask(Input):
    """Fields to create a task. Without a position it becomes the last of the ticket.

    `depends_on` names tasks of the same ticket, never in a circle.
    """

    ticket_id: UUID
    content: str
    description: str | None = None
    done: bool = False
    position: Annotated[int, Field(gt=0, lt=2**31)] | None = None
    estimated_hours: Hours | None = None
    depends_on: list[UUID] = []
    tags: list[str] = []
    agent_id: Label | None = None


class TicketTask(Record, NewTicketTask):
    """A step of a ticket. `position` counts from 1 within the ticket."""

    position: int = Field(default=...)
