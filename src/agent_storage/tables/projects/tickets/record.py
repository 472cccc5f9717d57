"""A ticket's record, alone and with its tasks."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from pydantic import Field

from agent_storage.statements.records import Input, Jsonb, Key, Label, Record
from agent_storage.tables.projects.ticket_tasks.record import TicketTask

TicketStatus = Literal["open", "in_progress", "done", "closed"]


class NewTicket(Input):
    """Fields to create a ticket. A higher priority comes first."""

    project_id: UUID
    title: Key
    overview: str | None = None
    status: TicketStatus = "open"
    priority: Annotated[int, Field(ge=-(2**31), lt=2**31)] = 0
    assignee: Label | None = None
    labels: list[Label] = []


class Ticket(Record, NewTicket):
    """A ticket; an archived one has `archived_at`."""

    archived_at: datetime | None


class TicketWithTasks(Ticket):
    """A ticket and its tasks, in their order."""

    tasks: Jsonb[list[TicketTask]]
