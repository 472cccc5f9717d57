"""Calls of tools and what came of them."""

from __future__ import annotations

from datetime import datetime
from typing import Literal
from uuid import UUID

from agent_storage.repository import Repository, sql
from agent_storage.statements.records import Json, Jsonb, JsonObject, Timestamp
from agent_storage.tables.chat.tool_results.record import NewToolResult, ToolResult, ToolStats


class ToolResults(Repository[ToolResult, NewToolResult]):
    """Tool calls of conversations: arguments, results or errors, and durations."""

    table = "tool_results"

    @sql("SELECT {columns} FROM {table} WHERE conversation_id = %(conversation_id)s ORDER BY id", repeatable=True)
    async def of_conversation(self, conversation_id: UUID) -> list[ToolResult]:
        """The calls of a conversation, oldest first."""
        ...

    @sql(
        """
        SELECT tool_name,
               count(*) AS calls,
               count(*) FILTER (WHERE status IN ('error', 'timeout')) AS errors,
               percentile_cont(0.5) WITHIN GROUP (ORDER BY duration_ms) AS p50_ms,
               percentile_cont(0.95) WITHIN GROUP (ORDER BY duration_ms) AS p95_ms
          FROM tool_results
         WHERE created_at >= %(since)s
         GROUP BY tool_name
         ORDER BY tool_name
        """,
        repeatable=True,
    )
    async def stats(self, since: Timestamp) -> list[ToolStats]:
        """Calls, errors and durations (milliseconds) per tool, of the calls made since then."""
        ...

    @sql("""
        UPDATE {table} SET status = 'running', started_at = clock_timestamp()
         WHERE id = %(id)s AND status = 'pending'
        RETURNING {columns}
    """)
    async def run_pending(self, id: UUID) -> ToolResult | None:
        """The call, now running; None when it is not pending."""
        ...

    @sql("""
        UPDATE {table}
           SET status = %(status)s, result = %(result)s, error = %(error)s,
               duration_ms = extract(epoch FROM clock_timestamp() - coalesce(started_at, created_at)) * 1000
         WHERE id = %(id)s AND status IN ('pending', 'running')
        RETURNING {columns}
    """)
    async def end(
        self, id: UUID, status: str, result: Jsonb[Json] | None = None, error: str | None = None
    ) -> ToolResult | None:
        """The call, ended; None when it is not open."""
        ...

    async def start(
        self,
        conversation_id: UUID,
        call_id: str,
        tool_name: str,
        arguments: JsonObject | None = None,
        *,
        message_id: UUID | None = None,
        tool_config_id: UUID | None = None,
        started_at: datetime | None = None,
    ) -> ToolResult:
        """A call that runs from now on. Raises `MissingReference` for a missing conversation."""
        return await self.create(
            NewToolResult(
                conversation_id=conversation_id,
                call_id=call_id,
                tool_name=tool_name,
                arguments=arguments or {},
                message_id=message_id,
                tool_config_id=tool_config_id,
                status="running",
                started_at=started_at or datetime.now().astimezone(),
            )
        )

    async def begin(self, id: UUID) -> ToolResult:
        """A pending call runs from now on. Raises `Conflict` when it is not pending, `NotFound`."""
        return await self.accepted(await self.run_pending(id), id, "begin")

    async def finish(self, id: UUID, result: Json) -> ToolResult:
        """The call succeeded. Raises `Conflict` when it had already ended, `NotFound`."""
        return await self.accepted(await self.end(id, "success", result), id, "finish")

    async def fail(
        self, id: UUID, error: str, status: Literal["error", "timeout", "cancelled"] = "error"
    ) -> ToolResult:
        """The call failed. Raises `Conflict` when it had already ended, `NotFound`."""
        return await self.accepted(await self.end(id, status, None, error), id, "fail")
