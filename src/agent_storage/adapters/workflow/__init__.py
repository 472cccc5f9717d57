"""`WorkflowStorage`: the storage that a workflow engine expects, and the records that it takes and gives."""

from agent_storage.adapters.workflow.facade import WorkflowStorage
from agent_storage.adapters.workflow.records import (
    ApprovalRequest,
    BudgetPool,
    ExecutionState,
    LlmExecution,
    NodeState,
    Session,
    StreamEvent,
    ToolCall,
    Workflow,
)

__all__ = [
    "ApprovalRequest",
    "BudgetPool",
    "ExecutionState",
    "LlmExecution",
    "NodeState",
    "Session",
    "StreamEvent",
    "ToolCall",
    "Workflow",
    "WorkflowStorage",
]
