"""The state of a run, alone and with its nodes."""

from __future__ import annotations

from typing import Literal
from uuid import UUID

from agent_storage.statements.records import Input, Jsonb, JsonObject, Record, Timestamp
from agent_storage.tables.workflows.node_execution_states.record import NodeExecutionState

ExecutionStatus = Literal[
    "pending",
    "running",
    "paused",
    "completed",
    "failed",
    "cancelled",
    "waiting_for_human_review",
    "waiting_for_budget_approval",
    "waiting_for_workflow_approval",
]


class NewExecutionState(Input):
    """Fields to create the state of a run. Each run has one."""

    session_id: UUID
    budget_pool_id: UUID | None = None
    current_node_id: str | None = None
    status: ExecutionStatus = "running"
    started_at: Timestamp | None = None
    completed_at: Timestamp | None = None
    context: Jsonb[JsonObject] = {}


class ExecutionState(Record, NewExecutionState):
    """The state of a run."""


class ExecutionStateWithNodes(ExecutionState):
    """The execution state of a run and of each of its nodes, by node id."""

    nodes: Jsonb[list[NodeExecutionState]]
