"""The storage adapter of workflow engines: one facade, with ids that are any text, over the repositories.

    async with Storage.open() as storage:
        adapter = WorkflowStorage(storage)
        await adapter.save_workflow(Workflow(id="workflow-1", name="Refund", definition={"nodes": []}))

Every operation is one round trip, unless it says otherwise. Saving an id again is `Conflict`; updating or deleting what
is not there is `NotFound`; a reference that points nowhere is `MissingReference`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from agent_storage.errors import NotFound, StorageError
from agent_storage.records import JsonObject
from agent_storage.storage import Storage
from agent_storage.tables import Tables
from agent_storage.types import (
    NewApprovalRequest,
    NewBudgetPool,
    NewLlmExecution,
    NewStreamEvent,
    NewToolCallLog,
    NewWorkflow,
    NewWorkflowSession,
    RunStatus,
)

from . import workflow_rows as rows
from .text_ids import saved_at, to_uuid, to_uuid_or_none, with_ids
from .workflow_records import (
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

_NEWEST = ["-created_at", "-id"]
_OLDEST = ["created_at", "id"]


class WorkflowStorage:
    """A workflow engine's storage. Give it an open `Storage`, or a URL (default: as set) that it opens itself."""

    def __init__(self, storage: Storage | str | None = None) -> None:
        self._owned = storage if isinstance(storage, Storage) else None
        self._storage = storage if isinstance(storage, Storage) else Storage.open(storage)
        self._tables: Tables = self._storage

    # ---- life ------------------------------------------------------------------------------------------------------

    async def initialize(self) -> None:
        """Connect. May be called twice. Raises `Unavailable`."""
        await self._storage.connect()

    async def close(self) -> None:
        """Disconnect, unless the storage was given. May be called twice."""
        if self._owned is None:
            await self._storage.close()

    @asynccontextmanager
    async def begin_transaction(self) -> AsyncGenerator[WorkflowStorage, None]:
        """An adapter whose operations are kept together when the block ends, and undone together by an exception."""
        if self._tables is not self._storage:
            raise StorageError("a transaction is open already: use it, or begin another one outside it")
        async with self._storage.transaction(name="WorkflowStorage") as transaction:
            inside = WorkflowStorage(self._storage)
            inside._tables = transaction
            yield inside

    # ---- workflows -------------------------------------------------------------------------------------------------

    async def save_workflow(self, workflow: Workflow) -> Workflow:
        """Store a new workflow. Raises `Conflict` for its id."""
        new = NewWorkflow(id=to_uuid(workflow.id), **rows.workflow_fields(workflow))
        return rows.workflow(await self._tables.workflows.create(new))

    async def get_workflow(self, id: str) -> Workflow | None:
        """The workflow, or None."""
        found = await self._tables.workflows.get(to_uuid(id))
        return None if found is None else rows.workflow(found)

    async def list_workflows(self, *, name: str | None = None, limit: int = 100, offset: int = 0) -> list[Workflow]:
        """Workflows, newest first."""
        found = await self._tables.workflows.find(_given(name=name), _NEWEST, limit, offset)
        return [rows.workflow(row) for row in found]

    async def update_workflow(self, workflow: Workflow) -> Workflow:
        """Change a workflow; its runs keep their snapshots. Raises `NotFound`."""
        updated = await self._tables.workflows.update(to_uuid(workflow.id), **rows.workflow_fields(workflow))
        return rows.workflow(updated)

    async def delete_workflow(self, id: str) -> None:
        """Delete a workflow; its runs stay. Raises `NotFound`."""
        _found(await self._tables.workflows.delete(to_uuid(id)), "workflows", id)

    # ---- sessions --------------------------------------------------------------------------------------------------

    async def create_session(self, session: Session) -> Session:
        """Store a new run. Without a snapshot its workflow's definition becomes it. Raises `Conflict`, `NotFound`."""
        metadata = with_ids(session.metadata, id=session.id, workflow_id=session.workflow_id)
        id_, workflow_id = to_uuid(session.id), to_uuid_or_none(session.workflow_id)
        if session.workflow_snapshot is None and workflow_id is not None and session.status == "running":
            return rows.session(await self._tables.workflow_sessions.start(workflow_id, metadata, id=id_))
        snapshot = session.workflow_snapshot
        if snapshot is None and workflow_id is not None:
            snapshot = (await self._tables.workflows.require(workflow_id)).definition
        new = NewWorkflowSession(
            id=id_, workflow_id=workflow_id, workflow_snapshot=snapshot, status=session.status, metadata=metadata
        )
        return rows.session(await self._tables.workflow_sessions.create(new))

    async def get_session(self, id: str) -> Session | None:
        """The run, or None."""
        found = await self._tables.workflow_sessions.get(to_uuid(id))
        return None if found is None else rows.session(found)

    async def list_sessions(
        self, *, workflow_id: str | None = None, status: RunStatus | None = None, limit: int = 100, offset: int = 0
    ) -> list[Session]:
        """Runs, newest first."""
        where = _given(workflow_id=to_uuid_or_none(workflow_id), status=status)
        found = await self._tables.workflow_sessions.find(where, _NEWEST, limit, offset)
        return [rows.session(row) for row in found]

    async def update_session(
        self, id: str, *, status: RunStatus | None = None, metadata: JsonObject | None = None
    ) -> Session:
        """Change a run's status and metadata, and nothing else; two round trips with metadata. Raises `NotFound`."""
        uuid = to_uuid(id)
        changes = _given(status=status)
        if metadata is not None:
            present = await self._tables.workflow_sessions.require(uuid)
            texts = rows.texts(present.metadata)
            changes["metadata"] = with_ids(metadata, **texts)
        if not changes:
            return rows.session(await self._tables.workflow_sessions.require(uuid))
        return rows.session(await self._tables.workflow_sessions.update(uuid, **changes))

    async def delete_session(self, id: str) -> None:
        """Delete a run with all that belongs to it. Raises `NotFound`."""
        _found(await self._tables.workflow_sessions.delete(to_uuid(id)), "workflow_sessions", id)

    # ---- execution states ------------------------------------------------------------------------------------------

    async def save_execution_state(self, state: ExecutionState) -> ExecutionState:
        """Make or replace a run's state and the nodes it names; others stay. One statement."""
        new, nodes = rows.new_state(state)
        return rows.execution_state(await self._tables.execution_states.save(new, nodes))

    async def get_execution_state(self, session_id: str) -> ExecutionState | None:
        """A run's state with all its nodes, or None."""
        found = await self._tables.execution_states.get(to_uuid(session_id))
        return None if found is None else rows.execution_state(found)

    async def update_node_state(self, session_id: str, node: NodeState) -> NodeState:
        """Change what is set of a node's state, or make it. Raises `MissingReference` without the run."""
        fields = rows.node_fields(node)
        changed = await self._tables.node_execution_states.set(to_uuid(session_id), node.node_id, **fields)
        return rows.node_state(changed)

    # ---- model and tool calls --------------------------------------------------------------------------------------

    async def save_llm_execution(self, execution: LlmExecution) -> LlmExecution:
        """Store a call of a model. Raises `Conflict`, `MissingReference`."""
        new = NewLlmExecution(**rows.llm_fields(execution))
        return rows.llm_execution(await self._tables.llm_executions.create(new))

    async def get_llm_executions(self, session_id: str, *, limit: int = 1000) -> list[LlmExecution]:
        """A run's calls of models, oldest first."""
        return await self._llm_executions({"session_id": to_uuid(session_id)}, limit)

    async def get_node_llm_executions(self, session_id: str, node_id: str, *, limit: int = 1000) -> list[LlmExecution]:
        """A node's calls of models, oldest first."""
        return await self._llm_executions({"session_id": to_uuid(session_id), "node_id": node_id}, limit)

    async def _llm_executions(self, where: dict[str, Any], limit: int) -> list[LlmExecution]:
        found = await self._tables.llm_executions.find(where, _OLDEST, limit)
        found.sort(key=lambda row: (row.created_at, saved_at(row.metadata)))
        return [rows.llm_execution(row) for row in found]

    async def log_tool_call(self, call: ToolCall) -> ToolCall:
        """Store a tool call. Raises `MissingReference` without its call of a model."""
        fields = call.model_dump(exclude={"execution_id"}, exclude_unset=True)
        await self._tables.tool_call_logs.create(NewToolCallLog(execution_id=to_uuid(call.execution_id), **fields))
        return call

    async def get_tool_calls(self, execution_id: str, *, limit: int = 1000) -> list[ToolCall]:
        """The tool calls of a call of a model, oldest first."""
        found = await self._tables.tool_call_logs.of_execution(to_uuid(execution_id), limit)
        return [rows.tool_call(row, execution_id) for row in found]

    async def get_session_tool_calls(self, session_id: str, *, limit: int = 1000) -> list[ToolCall]:
        """A run's tool calls, oldest first; two round trips."""
        executions = await self._tables.llm_executions.find({"session_id": to_uuid(session_id)}, limit=1000)
        names = {row.id: rows.llm_execution(row).id for row in executions}
        found = await self._tables.tool_call_logs.of_session(to_uuid(session_id), limit)
        return [rows.tool_call(row, names.get(row.execution_id, str(row.execution_id))) for row in found]

    # ---- budgets ---------------------------------------------------------------------------------------------------

    async def create_budget_pool(self, pool: BudgetPool) -> BudgetPool:
        """Store a budget. Raises `Conflict`, `MissingReference` for its parent."""
        parent = to_uuid_or_none(pool.parent_pool_id)
        new = NewBudgetPool(id=to_uuid(pool.id), parent_pool_id=parent, **rows.pool_fields(pool))
        return rows.budget_pool(await self._tables.budget_pools.create(new))

    async def get_budget_pool(self, id: str) -> BudgetPool | None:
        """The budget, or None."""
        found = await self._tables.budget_pools.get(to_uuid(id))
        return None if found is None else rows.budget_pool(found)

    async def update_budget_pool(self, pool: BudgetPool) -> BudgetPool:
        """Write a budget's amounts, status and metadata. To charge one safely use `storage.budget_pools.spend`."""
        return rows.budget_pool(await self._tables.budget_pools.update(to_uuid(pool.id), **rows.pool_fields(pool)))

    async def get_child_budget_pools(self, parent_pool_id: str) -> list[BudgetPool]:
        """The budgets directly below one, oldest first."""
        found = await self._tables.budget_pools.find({"parent_pool_id": to_uuid(parent_pool_id)}, _OLDEST, 1000)
        found.sort(key=lambda row: (row.created_at, saved_at(row.metadata)))
        return [rows.budget_pool(row) for row in found]

    # ---- approvals -------------------------------------------------------------------------------------------------

    async def create_approval_request(self, request: ApprovalRequest) -> ApprovalRequest:
        """Store a request. Raises `Conflict`, `MissingReference`."""
        session, fields = to_uuid(request.session_id), rows.approval_fields(request)
        new = NewApprovalRequest(
            id=to_uuid(request.id), session_id=session, node_id=request.node_id, type=request.type, **fields
        )
        return rows.approval_request(await self._tables.approval_requests.create(new))

    async def get_approval_request(self, id: str) -> ApprovalRequest | None:
        """The request, or None."""
        found = await self._tables.approval_requests.get(to_uuid(id))
        return None if found is None else rows.approval_request(found)

    async def list_approval_requests(
        self,
        *,
        session_id: str | None = None,
        status: str | None = None,
        type: str | None = None,
        limit: int = 100,
        offset: int = 0,
    ) -> list[ApprovalRequest]:
        """Requests, oldest first."""
        where = _given(session_id=to_uuid_or_none(session_id), status=status, type=type)
        found = await self._tables.approval_requests.find(where, _OLDEST, limit, offset)
        return [rows.approval_request(row) for row in found]

    async def list_pending_approvals(self, *, session_id: str | None = None, limit: int = 100) -> list[ApprovalRequest]:
        """The requests that nobody has decided, oldest first."""
        return await self.list_approval_requests(session_id=session_id, status="pending", limit=limit)

    async def update_approval_request(self, request: ApprovalRequest) -> ApprovalRequest:
        """Write a request's state. To decide one safely use `approve_request`. Raises `NotFound`."""
        fields = rows.approval_fields(request)
        return rows.approval_request(await self._tables.approval_requests.update(to_uuid(request.id), **fields))

    async def approve_request(self, id: str, by: str, notes: str | None = None) -> ApprovalRequest:
        """Say yes, once. Raises `Conflict` naming who decided before, `NotFound`."""
        return rows.approval_request(await self._tables.approval_requests.approve(to_uuid(id), by, notes))

    async def reject_request(self, id: str, by: str, reason: str | None = None) -> ApprovalRequest:
        """Say no, once. Raises `Conflict` naming who decided before, `NotFound`."""
        return rows.approval_request(await self._tables.approval_requests.reject(to_uuid(id), by, reason))

    # ---- streams ---------------------------------------------------------------------------------------------------

    async def save_stream_event(self, event: StreamEvent) -> StreamEvent:
        """Publish an event at the end of its stream."""
        new = NewStreamEvent(stream_id=event.stream_id, node_id=event.node_id, data=event.data)
        return rows.stream_event(await self._tables.stream_events.create(new))

    async def get_stream_events(self, stream_id: str, *, after: int = 0, limit: int = 1000) -> list[StreamEvent]:
        """The events behind a sequence, oldest first."""
        return [rows.stream_event(row) for row in await self._tables.stream_events.read(stream_id, after, limit)]


def _given(**asked: Any) -> dict[str, Any]:
    return {name: value for name, value in asked.items() if value is not None}


def _found(there: bool, table: str, id: str) -> None:  # the repository's own answer
    if not there:
        raise NotFound(f"{table} has no row {id}", table=table)
