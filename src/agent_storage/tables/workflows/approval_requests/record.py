"""A question to a person, and the decision."""

from __future__ import annotations

from typing import Literal
from uuid import UUID

from agent_storage.statements.records import Input, Jsonb, JsonObject, Key, Record, Timestamp

ApprovalType = Literal["human_review", "budget_increase", "workflow_call"]
ApprovalStatus = Literal["pending", "approved", "rejected", "expired"]


class NewApprovalRequest(Input):
    """Fields to create a request. An imported request may include its decision."""

    session_id: UUID
    node_id: Key
    type: ApprovalType
    status: ApprovalStatus = "pending"
    context: Jsonb[JsonObject] = {}
    expires_at: Timestamp | None = None
    resolved_at: Timestamp | None = None
    resolved_by: str | None = None
    resolution_notes: str | None = None


class ApprovalRequest(Record, NewApprovalRequest):
    """A question that a run waits for, and who decided it when."""
