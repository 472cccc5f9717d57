"""Where the nodes of runs stand."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from agent_storage.repository import Repository, sql
from agent_storage.tables.workflows.node_execution_states.record import NewNodeExecutionState, NodeExecutionState


class NodeExecutionStates(Repository[NodeExecutionState, NewNodeExecutionState]):
    """The state of a node of a run: its input, its output, its retries."""

    table = "node_execution_states"
    natural_key = ("session_id", "node_id")

    @sql("SELECT {columns} FROM {table} WHERE session_id = %(session_id)s ORDER BY node_id", repeatable=True)
    async def of_session(self, session_id: UUID) -> list[NodeExecutionState]:
        """The nodes of a run, by node id."""
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
    async def put(self, new: NewNodeExecutionState, named: list[str]) -> NodeExecutionState:
        """The node's state, made, or changed in the fields that are named."""
        ...

    async def set(self, session_id: UUID, node_id: str, **fields: Any) -> NodeExecutionState:
        """The state of a node, made, or changed in the fields given, the others as they were; one statement.

        `fields` are those of `NewNodeExecutionState`. Raises `MissingReference` for the session, `InvalidValue`.
        """
        return await self.put(NewNodeExecutionState(session_id=session_id, node_id=node_id, **fields), list(fields))
