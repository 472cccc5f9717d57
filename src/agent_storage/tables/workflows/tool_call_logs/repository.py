"""Tool calls of runs."""

from __future__ import annotations

from uuid import UUID

from agent_storage.repository import Repository, sql
from agent_storage.tables.workflows.tool_call_logs.record import NewToolCallLog, ToolCallLog


class ToolCallLogs(Repository[ToolCallLog, NewToolCallLog]):
    """Tool calls that language models asked for in workflow runs."""

    table = "tool_call_logs"

    @sql(
        "SELECT {columns} FROM {table} WHERE execution_id = %(execution_id)s ORDER BY id LIMIT %(limit)s",
        repeatable=True,
    )
    async def of_execution(self, execution_id: UUID, limit: int = 1000) -> list[ToolCallLog]:
        """The tool calls of one call of a model, oldest first."""
        ...

    @sql(
        """
        SELECT {log.columns}
          FROM llm_executions e
          JOIN tool_call_logs log ON log.execution_id = e.id
         WHERE e.session_id = %(session_id)s
         ORDER BY log.id
         LIMIT %(limit)s
        """,
        repeatable=True,
    )
    async def of_session(self, session_id: UUID, limit: int = 1000) -> list[ToolCallLog]:
        """The tool calls of a run, oldest first. One round trip."""
        ...
