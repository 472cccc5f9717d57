"""What `WorkflowStorage` takes and gives: frozen records whose ids are text.

What the database gives (creation times, a pool's remainder, an event's sequence) is None until it was stored.
"""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal

from pydantic import ConfigDict

from agent_storage.records import Document, Json, JsonObject
from agent_storage.tables.approval_requests.record import ApprovalStatus, ApprovalType
from agent_storage.tables.budget_pools.record import PoolStatus
from agent_storage.tables.execution_states.record import ExecutionStatus
from agent_storage.tables.node_execution_states.record import NodeStatus
from agent_storage.tables.workflow_sessions.record import RunStatus


class _Given(Document):
    model_config = ConfigDict(extra="forbid")

    created_at: datetime | None = None
    updated_at: datetime | None = None


class Workflow(_Given):
    """A workflow's definition."""

    id: str
    name: str
    version: str = "1"
    definition: Json
    metadata: JsonObject = {}


class Session(_Given):
    """A run. Without a snapshot it gets its workflow's definition; `workflow_id` is None once that is deleted."""

    id: str
    workflow_id: str | None
    workflow_snapshot: Json = None
    status: RunStatus = "running"
    metadata: JsonObject = {}


class NodeState(_Given):
    """Where a node of a run stands."""

    node_id: str
    status: NodeStatus = "pending"
    input: Json = None
    output: Json = None
    error: str | None = None
    started_at: datetime | None = None
    completed_at: datetime | None = None
    retry_count: int = 0
    pending_approval_id: str | None = None
    metadata: JsonObject = {}


class ExecutionState(_Given):
    """Where a run stands, with its nodes by node id."""

    session_id: str
    budget_pool_id: str | None = None
    current_node_id: str | None = None
    status: ExecutionStatus = "running"
    started_at: datetime | None = None
    completed_at: datetime | None = None
    context: JsonObject = {}
    nodes: dict[str, NodeState] = {}


class LlmExecution(_Given):
    """A call of a language model."""

    id: str
    session_id: str
    node_id: str
    success: bool = True
    text: str | None = None
    tool_calls: list[Json] = []
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    cost: Decimal | None = None
    error: str | None = None
    metadata: JsonObject = {}


class ToolCall(Document):
    """A tool call of a call of a language model."""

    execution_id: str
    tool_call_id: str
    tool_name: str
    args: JsonObject = {}
    result: Json = None
    error: str | None = None
    duration_ms: int | None = None


class BudgetPool(_Given):
    """A budget."""

    id: str
    parent_pool_id: str | None = None
    total_budget: Decimal
    used_budget: Decimal = Decimal(0)
    remaining_budget: Decimal | None = None
    status: PoolStatus = "active"
    metadata: JsonObject = {}


class ApprovalRequest(_Given):
    """A question to a person, and the decision."""

    id: str
    session_id: str
    node_id: str
    type: ApprovalType
    status: ApprovalStatus = "pending"
    context: JsonObject = {}
    expires_at: datetime | None = None
    resolved_at: datetime | None = None
    resolved_by: str | None = None
    resolution_notes: str | None = None


class StreamEvent(Document):
    """An event of a stream; its sequence counts from 1."""

    stream_id: str
    node_id: str | None = None
    data: Json = {}
    sequence: int | None = None
