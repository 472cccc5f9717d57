"""A run of a workflow."""

from __future__ import annotations

from typing import Literal
from uuid import UUID

from agent_storage.statements.records import Input, Json, Jsonb, JsonObject, Key, Record

RunStatus = Literal[
    "running",
    "paused",
    "completed",
    "failed",
    "waiting_for_human_review",
    "waiting_for_budget_approval",
    "waiting_for_workflow_approval",
]
PausedStatus = Literal[
    "paused", "waiting_for_human_review", "waiting_for_budget_approval", "waiting_for_workflow_approval"
]


class NewWorkflowSession(Input):
    """Fields to create a run; `create_from` copies the snapshot from the workflow."""

    workflow_id: UUID | None = None
    workflow_snapshot: Jsonb[Json]
    status: RunStatus = "running"
    owner: Key | None = None
    metadata: Jsonb[JsonObject] = {}


class WorkflowSession(Record, NewWorkflowSession):
    """A run; its snapshot of the definition never changes."""
