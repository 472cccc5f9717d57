"""Execution states of the nodes of runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Unpack
from uuid import UUID

from typing_extensions import TypeVar

from agent_storage.errors import InvalidTransition, NotFound
from agent_storage.repository import Repository, sql
from agent_storage.statements.lists import Found
from agent_storage.tables.workflows.node_execution_states.record import NewNodeExecutionState, NodeExecutionState

if TYPE_CHECKING:
    from agent_storage.tables.changes import NodeExecutionStateChanges, NodeStateFields

R = TypeVar("R", bound=NodeExecutionState, default=NodeExecutionState, covariant=True)
N = TypeVar("N", bound=NewNodeExecutionState, default=NewNodeExecutionState, covariant=True)


class NodeExecutionStates(Repository[R, N]):
    """Execution states of the nodes of workflow runs: inputs, outputs and retries."""

    table = "node_execution_states"
    natural_key = ("session_id", "node_id")
    references = {"session_id": "workflow_sessions"}

    @sql("SELECT {columns} FROM {table} WHERE session_id = %(session_id)s AND node_id = %(node_id)s", repeatable=True)
    async def get_by(self, *, session_id: UUID, node_id: str) -> R | None:
        """Return the state of this node of a run, or None."""
        ...

    @sql(
        "SELECT {columns} FROM {table} WHERE session_id = %(session_id)s ORDER BY node_id LIMIT %(limit)s",
        repeatable=True,
    )
    async def by_session(self, session_id: UUID, limit: int = 100) -> Found[R]:
        """Return the states of the nodes of a run, by node id."""
        ...

    @sql("""
        INSERT INTO node_execution_states AS n ({new.columns}) VALUES ({new.values})
        ON CONFLICT (session_id, node_id) DO UPDATE
           SET status = CASE WHEN 'status' = ANY(%(named)s) THEN excluded.status ELSE n.status END,
               input = CASE WHEN 'input' = ANY(%(named)s) THEN excluded.input ELSE n.input END,
               output = CASE WHEN 'output' = ANY(%(named)s) THEN excluded.output ELSE n.output END,
               error = CASE WHEN 'error' = ANY(%(named)s) THEN excluded.error ELSE n.error END,
               started_at = CASE WHEN 'started_at' = ANY(%(named)s) THEN excluded.started_at ELSE n.started_at END,
               completed_at = CASE WHEN 'completed_at' = ANY(%(named)s) THEN excluded.completed_at
                                   ELSE n.completed_at END,
               retry_count = CASE WHEN 'retry_count' = ANY(%(named)s) THEN excluded.retry_count
                                  ELSE n.retry_count END,
               pending_approval_id = CASE WHEN 'pending_approval_id' = ANY(%(named)s) THEN excluded.pending_approval_id
                                          ELSE n.pending_approval_id END,
               metadata = CASE WHEN 'metadata' = ANY(%(named)s) THEN excluded.metadata ELSE n.metadata END
        RETURNING {columns}
    """)
    async def _set(self, new: N, named: list[str]) -> R:  # pyright: ignore[reportGeneralTypeIssues]
        """Create the state of the node, or change the named fields."""
        ...

    async def set(self, session_id: UUID, node_id: str, **fields: Unpack[NodeStateFields]) -> R:
        """Create the state of a node, or change the given fields and keep the others; one statement.

        `fields` are those of `NewNodeExecutionState`. Raises `MissingReference` for the session, `InvalidValue`.
        """
        return await self._set(self.new(session_id=session_id, node_id=node_id, **fields), list(fields))

    @sql("""
        WITH run AS (
            UPDATE workflow_sessions
               SET status = CASE status WHEN 'failed' THEN 'running' ELSE status END
             WHERE id = %(session_id)s AND status <> 'completed'
               AND EXISTS (SELECT FROM {table}
                            WHERE session_id = %(session_id)s AND node_id = %(node_id)s AND status = 'failed')
            RETURNING id AS run_id
        )
        UPDATE {table} node
           SET status = 'pending', retry_count = retry_count + 1, output = NULL, error = NULL,
               started_at = NULL, completed_at = NULL, pending_approval_id = NULL
          FROM run
         WHERE session_id = run_id AND node_id = %(node_id)s AND status = 'failed'
        RETURNING {node.columns}
    """)
    async def _retry(self, session_id: UUID, node_id: str) -> R | None:
        """Return the node, pending again, or None if it has not failed or its run is completed."""
        ...

    async def retry(self, session_id: UUID, node_id: str) -> R:
        """Set a failed node pending again, with `retry_count` one higher, and its run running if that has failed.

        One statement. Raises `InvalidTransition` unless the node has failed and its run is not completed, `NotFound`.
        """
        if (node := await self._retry(session_id, node_id)) is not None:
            return node
        found = await self.get_by(session_id=session_id, node_id=node_id)
        if found is None:
            raise NotFound(f"{self.table} has no node {node_id!r} of session {session_id}", table=self.table)
        why = "its run is completed" if found.status == "failed" else f"its status is {found.status}"
        raise InvalidTransition(f"{self.table} {found.id} cannot retry: {why}", table=self.table)

    if TYPE_CHECKING:

        async def update(self, id: UUID, /, **changes: Unpack[NodeExecutionStateChanges]) -> R: ...  # noqa: D102
