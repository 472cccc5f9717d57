"""Workflows, their runs, and where those stand."""

from __future__ import annotations

from typing import Any, Unpack

from agent_storage.adapters.text_ids import row_id
from agent_storage.adapters.workflow.bound import Bound, Query, called, where, where_id
from agent_storage.adapters.workflow.records import ExecutionState, NodeState, Session, Workflow
from agent_storage.types import (
    NewExecutionState,
    NewNodeExecutionState,
    NewWorkflow,
    NewWorkflowSession,
    RunStatus,
)


class Runs(Bound):
    """The part of the facade that keeps workflows, sessions, execution states and node states."""

    async def save_workflow(self, workflow: Workflow) -> Workflow:
        """Store a workflow. Raises `AlreadyExists` if the id is taken."""
        return await self._insert(self._tables.workflows, workflow, NewWorkflow)

    async def get_workflow(self, id: str) -> Workflow | None:
        """Return the workflow, or None."""
        return await self._get(self._tables.workflows, Workflow, id)

    async def list_workflows(self, name: str | None = None, **query: Unpack[Query]) -> list[Workflow]:
        """List workflows (of a name), oldest first. Raises `InvalidValue` for a limit beyond 1000."""
        return await self._list(self._tables.workflows, Workflow, where(name=name), query)

    async def update_workflow(self, id: str, /, **changes: Any) -> Workflow:
        """Change `name`, `version`, `definition` or `metadata` of a workflow, and return it.

        Its runs keep their snapshots. Raises `NotFound`, `InvalidValue`.
        """
        Workflow.check_changes(changes, "name", "version", "definition", "metadata")
        return await self._update(self._tables.workflows, Workflow, id, changes)

    async def delete_workflow(self, id: str) -> None:
        """Remove a workflow; its runs stay, without a `workflow_id`. Raises `NotFound`."""
        await self._delete(self._tables.workflows, id)

    async def create_session(self, session: Session) -> Session:
        """Start a run. Without `workflow_snapshot` it is given the definition of its workflow, as it is now.

        Raises `AlreadyExists` if the id is taken, `NotFound` or `MissingReference` without the workflow.
        """
        if session.workflow_id is None or "workflow_snapshot" in session.model_fields_set:
            return await self._insert(self._tables.workflow_sessions, session, NewWorkflowSession)
        new = session.to_new(NewWorkflowSession)
        with called(session.workflow_id) as workflow_id:
            if new.status == "running" and session.created_at is session.updated_at is None:
                return Session.read(
                    await self._tables.workflow_sessions.create_from(workflow_id, new.metadata, id=new.id)
                )
            workflow = await self._tables.workflows.require(workflow_id)
        snapshot = session.model_copy(update={"workflow_snapshot": workflow.definition})
        return await self._insert(self._tables.workflow_sessions, snapshot, NewWorkflowSession)

    async def get_session(self, id: str) -> Session | None:
        """Return the run, or None."""
        return await self._get(self._tables.workflow_sessions, Session, id)

    async def list_sessions(
        self, workflow_id: str | None = None, status: RunStatus | None = None, **query: Unpack[Query]
    ) -> list[Session]:
        """List runs (of a workflow, in a status), newest first. Raises `InvalidValue` for an unknown status."""
        of = where(workflow_id=where_id(workflow_id), status=status)
        return await self._list(self._tables.workflow_sessions, Session, of, query, "-created_at")

    async def update_session(self, id: str, /, **changes: Any) -> Session:
        """Change only `status` or `metadata` of a run, and return it.

        Raises `InvalidTransition` for a status that cannot follow the present one, `NotFound`, `InvalidValue`.
        """
        Session.check_changes(changes, "status", "metadata")
        return await self._update(self._tables.workflow_sessions, Session, id, changes)

    async def delete_session(self, id: str) -> None:
        """Remove a run and all that was stored of it. Raises `NotFound`."""
        await self._delete(self._tables.workflow_sessions, id)

    async def save_execution_state(self, state: ExecutionState) -> ExecutionState:
        """Create or replace the state of a run and the nodes that it names. Other nodes stay.

        Return the state with all of its nodes. One statement: all or nothing. Raises `MissingReference` without the
        session or the budget pool.
        """
        new = state.to_new(NewExecutionState)
        return ExecutionState.read(await self._tables.execution_states.save(new, state.new_nodes(new.session_id)))

    async def get_execution_state(self, session_id: str) -> ExecutionState | None:
        """Return the state of a run with all of its nodes, or None."""
        row = await self._tables.execution_states.get_by(session_id=row_id(session_id))
        return None if row is None else ExecutionState.read(row)

    async def update_node_state(self, session_id: str, node_id: str, /, **changes: Any) -> NodeState:
        """Create the state of a node, or change the fields given of the one that exists. Return the state.

        `changes` are fields of `NodeState`. Raises `MissingReference` without the session, `InvalidValue`.
        """
        fields = [name for name in NodeState.model_fields if name not in ("created_at", "updated_at")]
        NodeState.check_changes(changes, *fields)
        if not changes.keys() & {"metadata", "pending_approval_id"}:
            return NodeState.read(await self._tables.node_execution_states.set(row_id(session_id), node_id, **changes))
        return await self._update_node_document(session_id, node_id, changes)

    async def _update_node_document(self, session_id: str, node_id: str, changes: dict[str, Any]) -> NodeState:
        """Change a node with its metadata, where the text of the approval's id is kept beside the caller's own."""
        async with self._tables.transaction() as transaction:
            nodes, key = transaction.node_execution_states, row_id(session_id)
            # An upsert without fields creates or locks the row, so its metadata cannot change in between.
            before = NodeState.read(await nodes.set(key, node_id))
            kept: dict[str, Any] = {"pending_approval_id": before.pending_approval_id, "metadata": before.metadata}
            new = NodeState(**{**kept, **changes}).to_new(NewNodeExecutionState, session_id=key, node_id=node_id)
            fields = {name: getattr(new, name) for name in {*changes, "metadata"}}
            return NodeState.read(await nodes.set(key, node_id, **fields))
