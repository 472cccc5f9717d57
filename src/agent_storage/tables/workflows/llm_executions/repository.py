"""Calls of language models."""

from __future__ import annotations

from uuid import UUID

from agent_storage.repository import Repository, sql
from agent_storage.tables.workflows.llm_executions.record import LlmExecution, ModelUsage, NewLlmExecution


class LlmExecutions(Repository[LlmExecution, NewLlmExecution]):
    """Each call of a language model in a run: what it said, its tokens and its cost."""

    table = "llm_executions"

    @sql("SELECT {columns} FROM {table} WHERE session_id = %(session_id)s ORDER BY id LIMIT %(limit)s", repeatable=True)
    async def of_session(self, session_id: UUID, limit: int = 1000) -> list[LlmExecution]:
        """The calls of a run, oldest first."""
        ...

    @sql(
        """
        SELECT {columns}
          FROM {table}
         WHERE session_id = %(session_id)s AND node_id = %(node_id)s
         ORDER BY id
         LIMIT %(limit)s
        """,
        repeatable=True,
    )
    async def of_node(self, session_id: UUID, node_id: str, limit: int = 1000) -> list[LlmExecution]:
        """The calls of a node of a run, oldest first."""
        ...

    @sql(
        """
        SELECT count(*) AS calls,
               count(*) FILTER (WHERE NOT success) AS failures,
               coalesce(sum(prompt_tokens), 0) AS prompt_tokens,
               coalesce(sum(completion_tokens), 0) AS completion_tokens,
               coalesce(sum(cost), 0) AS cost
          FROM llm_executions
         WHERE session_id = %(session_id)s
        """,
        repeatable=True,
    )
    async def usage(self, session_id: UUID) -> ModelUsage:
        """Return the usage of the calls of a run, in tokens and cost."""
        ...
