"""Calls of tools and what came of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Unpack
from uuid import UUID

from typing_extensions import TypeVar

from agent_storage.repository import Repository, sql
from agent_storage.statements.lists import Found
from agent_storage.statements.records import Json, Jsonb, Timestamp
from agent_storage.tables.chat.tool_results.record import FailedStatus, NewToolResult, ToolResult, ToolStats

if TYPE_CHECKING:
    from agent_storage.tables.changes import ToolResultChanges

R = TypeVar("R", bound=ToolResult, default=ToolResult, covariant=True)
N = TypeVar("N", bound=NewToolResult, default=NewToolResult, covariant=True)


class ToolResults(Repository[R, N]):
    """Tool calls of conversations: arguments, results or errors, and durations."""

    table = "tool_results"
    references = {"conversation_id": "conversations", "message_id": "messages", "tool_config_id": "tool_configs"}

    @sql(
        """
        SELECT {columns}
          FROM {table}
         WHERE conversation_id = %(conversation_id)s
         ORDER BY id DESC
         LIMIT %(limit)s
        """,
        repeatable=True,
    )
    async def by_conversation(self, conversation_id: UUID, limit: int = 100) -> Found[R]:
        """Return the calls of a conversation, newest first."""
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
         LIMIT %(limit)s
        """,
        repeatable=True,
    )
    async def stats(self, since: Timestamp, limit: int = 100) -> Found[ToolStats]:
        """Return calls, errors and durations (milliseconds) of each tool, of the calls created since then, by name."""
        ...

    @sql("""
        UPDATE {table} SET status = 'running', started_at = clock_timestamp()
         WHERE id = %(id)s AND status = 'pending'
        RETURNING {columns}
    """)
    async def _start(self, id: UUID) -> R | None:
        """Return the running call, or None if it is not pending."""
        ...

    @sql("""
        UPDATE {table}
           SET status = 'success', result = %(result)s,
               duration_ms = extract(epoch FROM clock_timestamp() - coalesce(started_at, created_at)) * 1000
         WHERE id = %(id)s AND status IN ('pending', 'running')
        RETURNING {columns}
    """)
    async def _complete(self, id: UUID, result: Jsonb[Json] | None) -> R | None:
        """Return the completed call, or None if it had ended."""
        ...

    @sql("""
        UPDATE {table}
           SET status = %(status)s, error = %(error)s,
               duration_ms = extract(epoch FROM clock_timestamp() - coalesce(started_at, created_at)) * 1000
         WHERE id = %(id)s AND status IN ('pending', 'running')
        RETURNING {columns}
    """)
    async def _fail(self, id: UUID, error: str, status: FailedStatus) -> R | None:
        """Return the failed call, or None if it had ended."""
        ...

    async def start(self, id: UUID) -> R:
        """Start a pending call; its duration counts from now. Raises `InvalidTransition`, `NotFound`."""
        return await self._accepted(await self._start(id), id, "start")

    async def complete(self, id: UUID, result: Json = None) -> R:
        """Complete a pending or running call with its result. Raises `InvalidTransition`, `NotFound`."""
        return await self._accepted(await self._complete(id, result), id, "complete")

    async def fail(self, id: UUID, error: str, status: FailedStatus = "error") -> R:
        """Fail a pending or running call. Raises `InvalidTransition`, `NotFound`."""
        return await self._accepted(await self._fail(id, error, status), id, "fail")

    if TYPE_CHECKING:

        async def update(self, id: UUID, /, **changes: Unpack[ToolResultChanges]) -> R: ...  # noqa: D102
