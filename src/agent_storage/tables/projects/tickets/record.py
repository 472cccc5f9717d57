"""A ticket's record, alone and with its tasks and comments; statistics of tasks."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Literal
from uuid import UUID

from pydantic import BaseModel, Field

from agent_storage.statements.records import Input, Jsonb, Key, Label, Record
from agent_storage.tables.projects.ticket_comments.record import TicketComment
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


class TicketDetails(TicketWithTasks):
    """A ticket with its tasks, in their order, and its newest comments, newest first."""

    comments: Jsonb[list[TicketComment]]
    comment_count: int


class TaskStatistics(BaseModel, frozen=True):
    """Counts of tasks by what can be done with them, and their estimated hours.

    `available` tasks are those that are not done and depend on none that is not; `blocked` ones depend on such a task.
    """

    tasks: int
    done_tasks: int
    available_tasks: int
    blocked_tasks: int
    unestimated_tasks: int
    estimated_hours: Decimal
    done_hours: Decimal
