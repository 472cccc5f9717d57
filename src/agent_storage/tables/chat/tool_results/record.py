"""A tool call's record, and statistics over many."""

from __future__ import annotations

from typing import Literal
from uuid import UUID

from pydantic import BaseModel

from agent_storage.statements.records import Count, Input, Json, Jsonb, JsonObject, Key, Record, Timestamp

CallStatus = Literal["pending", "running", "success", "error", "timeout", "cancelled"]


class NewToolResult(Input):
    """Fields to create a call. An imported call may include its outcome."""

    conversation_id: UUID
    message_id: UUID | None = None
    tool_config_id: UUID | None = None
    call_id: Key
    tool_name: Key
    arguments: Jsonb[JsonObject] = {}
    result: Jsonb[Json] | None = None
    error: str | None = None
    status: CallStatus = "pending"
    started_at: Timestamp | None = None
    duration_ms: Count | None = None


class ToolResult(Record, NewToolResult):
    """A call of a tool."""


class ToolStats(BaseModel, frozen=True):
    """The calls of one tool: how many, how many failed (error or timeout), and durations in milliseconds."""

    tool_name: str
    calls: int
    errors: int
    p50_ms: float | None
    p95_ms: float | None
