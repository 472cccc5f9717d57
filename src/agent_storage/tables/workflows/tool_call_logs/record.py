"""A tool call that a language model asked for."""

from __future__ import annotations

from uuid import UUID

from agent_storage.statements.records import Count, Input, Json, Jsonb, JsonObject, Key, Record


class NewToolCallLog(Input):
    """Fields to create a log entry."""

    execution_id: UUID
    tool_call_id: str
    tool_name: Key
    arguments: Jsonb[JsonObject] = {}
    result: Jsonb[Json] | None = None
    error: str | None = None
    duration_ms: Count | None = None


class ToolCallLog(Record, NewToolCallLog):
    """A tool call: arguments, result or error, and how long it took."""
