"""Calls of language models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Unpack
from uuid import UUID

from typing_extensions import TypeVar

from agent_storage.repository import Repository, sql
from agent_storage.statements.lists import Found
from agent_storage.tables.workflows.llm_executions.record import LlmExecution, ModelUsage, NewLlmExecution

if TYPE_CHECKING:
    from agent_storage.tables.changes import LlmExecutionChanges

R = TypeVar("R", bound=LlmExecution, default=LlmExecution, covariant=True)
N = TypeVar("N", bound=NewLlmExecution, default=NewLlmExecution, covariant=True)


class LlmExecutions(Repository[R, N]):
    """Calls of language models in workflow runs: texts, tokens and costs."""

    table = "llm_executions"
    references = {"session_id": "workflow_sessions"}

    @sql(
        "SELECT {columns} FROM {table} WHERE session_id = %(session_id)s ORDER BY id DESC LIMIT %(limit)s",
        repeatable=True,
    )
    async def by_session(self, session_id: UUID, limit: int = 100) -> Found[R]:
        """Return the calls of a run, newest first."""
        ...

    @sql(
        """
        SELECT {columns}
          FROM {table}
         WHERE session_id = %(session_id)s AND node_id = %(node_id)s
         ORDER BY id DESC
         LIMIT %(limit)s
        """,
        repeatable=True,
    )
    async def by_node(self, session_id: UUID, node_id: str, limit: int = 100) -> Found[R]:
        """Return the calls of a node of a run, newest first."""
        ...

    @sql(
        """
        SELECT count(*) AS calls,
               count(*) FILTER (WHERE NOT success) AS failures,
               coalesce(sum(input_tokens), 0) AS input_tokens,
               coalesce(sum(output_tokens), 0) AS output_tokens,
               coalesce(sum(cost), 0) AS cost
          FROM llm_executions
         WHERE session_id = %(session_id)s
        """,
        repeatable=True,
    )
    async def usage(self, session_id: UUID) -> ModelUsage:
        """Return the tokens and the cost of the calls of a run."""
        ...

    if TYPE_CHECKING:

        async def update(self, id: UUID, /, **changes: Unpack[LlmExecutionChanges]) -> R: ...  # noqa: D102
