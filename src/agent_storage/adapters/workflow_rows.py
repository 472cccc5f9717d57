"""From the records of `WorkflowStorage`, whose ids are text, to rows and back."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from agent_storage import types as stored
from agent_storage.records import JsonObject

from . import workflow_records as given
from .text_ids import KEY, text_of, to_uuid, to_uuid_or_none, with_ids, without_ids

_TIMES = ("created_at", "updated_at")


def texts(document: JsonObject) -> dict[str, str]:
    """The ids that a row's document keeps, as they came."""
    return {name: text for name, text in document.get(KEY, {}).items() if name != "at"}


def _fields(record: BaseModel, *left_out: str) -> dict[str, Any]:
    """A stored row's fields for a record: without the reserved key, and without what is made apart."""
    skipped = {"id", *left_out}
    return {name: getattr(record, name) for name in type(record).model_fields if name not in skipped}


def workflow_fields(workflow: given.Workflow) -> dict[str, Any]:
    """What an update writes."""
    metadata = with_ids(workflow.metadata, id=workflow.id)
    return {
        "name": workflow.name, "version": workflow.version, "definition": workflow.definition, "metadata": metadata,
    }  # fmt: skip


def workflow(row: stored.Workflow) -> given.Workflow:
    """A stored workflow."""
    fields: dict[str, Any] = {
        **_fields(row),
        "id": text_of(row.metadata, "id", row.id),
        "metadata": without_ids(row.metadata),
    }
    return given.Workflow(**fields)


def session(row: stored.WorkflowSession) -> given.Session:
    """A stored run."""
    fields: dict[str, Any] = {
        **_fields(row),
        "id": text_of(row.metadata, "id", row.id),
        "workflow_id": text_of(row.metadata, "workflow_id", row.workflow_id),
        "metadata": without_ids(row.metadata),
    }
    return given.Session(**fields)


def new_state(
    state: given.ExecutionState,
) -> tuple[stored.NewExecutionState, list[stored.NewNodeExecutionState]]:
    """The rows of a run's state."""
    session_id = to_uuid(state.session_id)
    new = stored.NewExecutionState(
        session_id=session_id,
        budget_pool_id=to_uuid_or_none(state.budget_pool_id),
        current_node_id=state.current_node_id,
        status=state.status,
        started_at=state.started_at,
        completed_at=state.completed_at,
        context=with_ids(state.context, session_id=state.session_id, budget_pool_id=state.budget_pool_id),
    )
    nodes = [
        stored.NewNodeExecutionState(session_id=session_id, node_id=node_id, **node_fields(node))
        for node_id, node in state.nodes.items()
    ]
    return new, nodes


def execution_state(row: stored.ExecutionStateWithNodes) -> given.ExecutionState:
    """A stored state with its nodes."""
    fields: dict[str, Any] = {
        **_fields(row),
        "session_id": text_of(row.context, "session_id", row.session_id),
        "budget_pool_id": text_of(row.context, "budget_pool_id", row.budget_pool_id),
        "context": without_ids(row.context),
        "nodes": {node.node_id: node_state(node) for node in row.nodes},
    }
    return given.ExecutionState(**fields)


def node_fields(node: given.NodeState) -> dict[str, Any]:
    """What is set of a node's state. An approval's id that is no UUID is kept in the metadata, which it replaces."""
    named = node.model_fields_set - {"node_id", "metadata", *_TIMES}
    fields = {name: getattr(node, name) for name in named}
    if "pending_approval_id" in named:
        fields["pending_approval_id"] = to_uuid_or_none(node.pending_approval_id)
    texts_ = with_ids(node.metadata, pending_approval_id=node.pending_approval_id)
    if "metadata" in node.model_fields_set or len(texts_[KEY]) > 1:
        fields["metadata"] = texts_
    return fields


def node_state(row: stored.NodeExecutionState) -> given.NodeState:
    """A stored node's state."""
    fields: dict[str, Any] = {
        **_fields(row, "session_id"),
        "pending_approval_id": text_of(row.metadata, "pending_approval_id", row.pending_approval_id),
        "metadata": without_ids(row.metadata),
    }
    return given.NodeState(**fields)


def llm_fields(execution: given.LlmExecution) -> dict[str, Any]:
    """The fields of a new call of a model."""
    named = set(type(execution).model_fields) - {"id", "session_id", "metadata", *_TIMES}
    return {
        **{name: getattr(execution, name) for name in named},
        "id": to_uuid(execution.id),
        "session_id": to_uuid(execution.session_id),
        "metadata": with_ids(execution.metadata, id=execution.id, session_id=execution.session_id),
    }


def llm_execution(row: stored.LlmExecution) -> given.LlmExecution:
    """A stored call of a model."""
    fields: dict[str, Any] = {
        **_fields(row),
        "id": text_of(row.metadata, "id", row.id),
        "session_id": text_of(row.metadata, "session_id", row.session_id),
        "metadata": without_ids(row.metadata),
    }
    return given.LlmExecution(**fields)


def tool_call(row: stored.ToolCallLog, execution_id: str) -> given.ToolCall:
    """A stored tool call."""
    fields: dict[str, Any] = {**_fields(row, *_TIMES), "execution_id": execution_id}
    return given.ToolCall(**fields)


def pool_fields(pool: given.BudgetPool) -> dict[str, Any]:
    """What an update of a budget writes."""
    return {
        "total_budget": pool.total_budget,
        "used_budget": pool.used_budget,
        "status": pool.status,
        "metadata": with_ids(pool.metadata, id=pool.id, parent_pool_id=pool.parent_pool_id),
    }


def budget_pool(row: stored.BudgetPool) -> given.BudgetPool:
    """A stored budget."""
    fields: dict[str, Any] = {
        **_fields(row),
        "id": text_of(row.metadata, "id", row.id),
        "parent_pool_id": text_of(row.metadata, "parent_pool_id", row.parent_pool_id),
        "metadata": without_ids(row.metadata),
    }
    return given.BudgetPool(**fields)


def approval_fields(request: given.ApprovalRequest) -> dict[str, Any]:
    """What an update of a request writes."""
    written = ("status", "expires_at", "resolved_at", "resolved_by", "resolution_notes")
    return {
        **{name: getattr(request, name) for name in written},
        "context": with_ids(request.context, id=request.id, session_id=request.session_id),
    }


def approval_request(row: stored.ApprovalRequest) -> given.ApprovalRequest:
    """A stored request."""
    fields: dict[str, Any] = {
        **_fields(row),
        "id": text_of(row.context, "id", row.id),
        "session_id": text_of(row.context, "session_id", row.session_id),
        "context": without_ids(row.context),
    }
    return given.ApprovalRequest(**fields)


def stream_event(row: stored.StreamEvent) -> given.StreamEvent:
    """A stored event."""
    return given.StreamEvent(stream_id=row.stream_id, node_id=row.node_id, data=row.data, sequence=row.sequence)
