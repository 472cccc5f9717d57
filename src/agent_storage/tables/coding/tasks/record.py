"""A task of a session."""

from __future__ import annotations

from typing import Literal
from uuid import UUID

from agent_storage.statements.records import Count, Document, Input, Json, Jsonb, Record, Timestamp

TaskStatus = Literal["created", "running", "completed", "failed"]


class TaskData(Document):
    """A task and its result."""

    description: str | None = None
    full_prompt: str | None = None
    message_range: Json = None
    git_state: Json = None
    model: str | None = None
    report: Json = None
    tool_use_count: Count = 0


class NewTask(Input):
    """Fields to create a task."""

    session_id: UUID
    status: TaskStatus = "created"
    completed_at: Timestamp | None = None
    data: Jsonb[TaskData] = TaskData()


class Task(Record, NewTask):
    """A task: one prompt and the work that it set off."""
