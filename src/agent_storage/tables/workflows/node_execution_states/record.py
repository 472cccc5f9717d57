"""The state of a node of a run."""

from __future__ import annotations

from typing import Literal
from uuid import UUID

from agent_storage.statements.records import Count, Input, Json, Jsonb, JsonObject, Key, Record, Timestamp

NodeStatus = Literal[
    "pending", "running", "completed", "failed", "skipped", "waiting_for_approval", "waiting_for_review"
]


class NewNodeExecutionState(Input):
    """Fields to create the state of a node."""

    session_id: UUID
    node_id: Key
    status: NodeStatus = "pending"
    input: Jsonb[Json] | None = None
    output: Jsonb[Json] | None = None
    error: str | None = None
    started_at: Timestamp | None = None
    completed_at: Timestamp | None = None
    retry_count: Count = 0
    pending_approval_id: UUID | None = None
    metadata: Jsonb[JsonObject] = {}


class NodeExecutionState(Record, NewNodeExecutionState):
    """The state of a node."""
