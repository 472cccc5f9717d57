"""Execution states of runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Unpack
from uuid import UUID

from agent_storage.errors import InvalidValue
from agent_storage.repository import Repository, sql
from agent_storage.tables.workflows.execution_states.record import (
    ExecutionState,
    ExecutionStateWithNodes,
    NewExecutionState,
)
from agent_storage.tables.workflows.node_execution_states.record import NewNodeExecutionState

if TYPE_CHECKING:
    from agent_storage.tables.changes import ExecutionStateChanges


class ExecutionStates(Repository[ExecutionState, NewExecutionState]):
    """Execution states of workflow runs, one for each run."""

    table = "execution_states"
    natural_key = ("session_id",)
    references = {"session_id": "workflow_sessions", "budget_pool_id": "budget_pools"}

    @sql(
        """
        SELECT {state.columns},
               coalesce((SELECT jsonb_agg({nodes.json} ORDER BY nodes.node_id)
                           FROM node_execution_states nodes
                          WHERE nodes.session_id = state.session_id), '[]') AS nodes
          FROM execution_states state
         WHERE state.session_id = %(session_id)s
        """,
        repeatable=True,
    )
    async def get_by(self, *, session_id: UUID) -> ExecutionStateWithNodes | None:
        """Return the state of a run with all of its nodes, or None. One round trip."""
        ...

    @sql("""
        WITH state AS (
            INSERT INTO execution_states ({new.columns}) VALUES ({new.values})
            ON CONFLICT (session_id) DO UPDATE SET {new.updates}
            RETURNING *
        ), saved AS (
            INSERT INTO node_execution_states ({states.columns})
            SELECT {states.rows}
              FROM jsonb_populate_recordset(NULL::node_execution_states, %(states)s) given
             ORDER BY (SELECT n.id           -- those that exist are locked in the order of ids, as update_many does
                         FROM node_execution_states n
                        WHERE n.session_id = given.session_id AND n.node_id = given.node_id)
            ON CONFLICT (session_id, node_id) DO UPDATE SET {states.updates}
            RETURNING *
        ), nodes AS (
            SELECT * FROM saved
             UNION ALL
            SELECT other.*      -- this statement's snapshot: those saved just now are as they were before
              FROM node_execution_states other
              JOIN state USING (session_id)
             WHERE NOT EXISTS (SELECT FROM saved WHERE saved.node_id = other.node_id)
        )
        SELECT {state.columns},
               coalesce((SELECT jsonb_agg({nodes.json} ORDER BY nodes.node_id) FROM nodes), '[]') AS nodes
          FROM state
    """)
    async def _save(self, new: NewExecutionState, states: Sequence[NewNodeExecutionState]) -> ExecutionStateWithNodes:
        """Create or replace the state and the nodes given."""
        ...

    async def save(
        self, new: NewExecutionState, nodes: Sequence[NewNodeExecutionState] = ()
    ) -> ExecutionStateWithNodes:
        """Create or replace the state of a run and the nodes given; other nodes stay. Return all of it.

        One statement, one round trip. Raises `MissingReference` for the session, `InvalidValue` for a node of another
        run or one that is given twice.
        """
        if len({node.node_id for node in nodes}) < len(nodes) or any(n.session_id != new.session_id for n in nodes):
            raise InvalidValue(
                f"node_execution_states: each node of session {new.session_id} once, and of no other",
                table="node_execution_states",
                column="node_id",
            )
        return await self._save(new, nodes)

    if TYPE_CHECKING:

        async def update(self, id: UUID, /, **changes: Unpack[ExecutionStateChanges]) -> ExecutionState: ...  # noqa: D102
