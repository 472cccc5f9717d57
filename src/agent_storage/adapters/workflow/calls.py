"""Calls of language models and of tools, and streams of events."""

from __future__ import annotations

from typing import Unpack

from agent_storage.adapters.text_ids import row_id
from agent_storage.adapters.workflow.bound import Bound, Query
from agent_storage.adapters.workflow.records import LlmExecution, StreamEvent, ToolCall
from agent_storage.types import NewLlmExecution, NewStreamEvent, NewToolCallLog


class Calls(Bound):
    """The part of the facade that keeps model calls, tool calls and events."""

    async def save_llm_execution(self, execution: LlmExecution) -> LlmExecution:
        """Store a call of a language model. Raises `AlreadyExists` if the id is taken, `MissingReference`."""
        return await self._insert(self._tables.llm_executions, execution, NewLlmExecution)

    async def get_llm_executions(self, session_id: str, **query: Unpack[Query]) -> list[LlmExecution]:
        """List the calls of a run, by default the oldest 1000."""
        return await self._executions(query, session_id=row_id(session_id))

    async def get_node_llm_executions(
        self, session_id: str, node_id: str, **query: Unpack[Query]
    ) -> list[LlmExecution]:
        """List the calls of a node of a run, by default the oldest 1000."""
        return await self._executions(query, session_id=row_id(session_id), node_id=node_id)

    async def _executions(self, query: Query, **of: object) -> list[LlmExecution]:
        return await self._list(self._tables.llm_executions, LlmExecution, of, {"limit": 1000, **query})

    async def log_tool_call(self, call: ToolCall) -> ToolCall:
        """Store a tool call. Raises `AlreadyExists` if the id is taken, `MissingReference` without the model's call."""
        return await self._insert(self._tables.tool_call_logs, call, NewToolCallLog)

    async def get_tool_calls(self, execution_id: str, **query: Unpack[Query]) -> list[ToolCall]:
        """List the tool calls of one call of a model, by default the oldest 1000."""
        return await self._tool_calls(query, execution_id=row_id(execution_id))

    async def get_session_tool_calls(self, session_id: str, **query: Unpack[Query]) -> list[ToolCall]:
        """List the tool calls of a run, by default the oldest 1000; one query for all of its model calls."""
        return await self._tool_calls(query, session_id=row_id(session_id))

    async def _tool_calls(self, query: Query, **of: object) -> list[ToolCall]:
        return await self._list(self._tables.tool_call_logs, ToolCall, of, {"limit": 1000, **query})

    async def save_stream_event(self, event: StreamEvent) -> StreamEvent:
        """Put an event at the end of its stream; `sequence` counts from 1 in the order of commits, without a gap.

        Those who follow the stream (`storage.stream_events.follow`) hear of it. Raises `AlreadyExists` if the id is
        taken.
        """
        return await self._insert(self._tables.stream_events, event, NewStreamEvent)

    async def get_stream_events(self, stream_id: str, after: int = 0, **query: Unpack[Query]) -> list[StreamEvent]:
        """List the events of a stream after the sequence `after`, oldest first."""
        of = {"stream_id": stream_id, "sequence__gt": after}
        return await self._list(self._tables.stream_events, StreamEvent, of, query, "sequence")
