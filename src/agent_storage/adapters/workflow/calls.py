"""Calls of language models and of tools, and streams of events."""

from __future__ import annotations

from agent_storage.adapters.text_ids import row_id
from agent_storage.adapters.workflow.bound import Bound
from agent_storage.adapters.workflow.records import LlmExecution, StreamEvent, ToolCall
from agent_storage.types import NewLlmExecution, NewStreamEvent, NewToolCallLog


class Calls(Bound):
    """The part of the facade that keeps model calls, tool calls and events."""

    async def save_llm_execution(self, execution: LlmExecution) -> LlmExecution:
        """Store a call of a language model. Raises `AlreadyExists` if the id is taken, `MissingReference`."""
        return LlmExecution.read(await self._tables.llm_executions.create(execution.to_new(NewLlmExecution)))

    async def get_llm_executions(self, session_id: str, limit: int = 1000, offset: int = 0) -> list[LlmExecution]:
        """List the calls of a run, oldest first."""
        asked = {"session_id": row_id(session_id)}
        return LlmExecution.read_all(await self._tables.llm_executions.find(asked, "created_at", limit, offset))

    async def get_node_llm_executions(
        self, session_id: str, node_id: str, limit: int = 1000, offset: int = 0
    ) -> list[LlmExecution]:
        """List the calls of a node of a run, oldest first."""
        asked = {"session_id": row_id(session_id), "node_id": node_id}
        return LlmExecution.read_all(await self._tables.llm_executions.find(asked, "created_at", limit, offset))

    async def log_tool_call(self, call: ToolCall) -> ToolCall:
        """Store a tool call. Raises `AlreadyExists` if the id is taken, `MissingReference` without the model's call."""
        return ToolCall.read(await self._tables.tool_call_logs.create(call.to_new(NewToolCallLog)))

    async def get_tool_calls(self, execution_id: str, limit: int = 1000, offset: int = 0) -> list[ToolCall]:
        """List the tool calls of one call of a model, oldest first."""
        asked = {"execution_id": row_id(execution_id)}
        return ToolCall.read_all(await self._tables.tool_call_logs.find(asked, "created_at", limit, offset))

    async def get_session_tool_calls(self, session_id: str, limit: int = 1000) -> list[ToolCall]:
        """List the tool calls of a run, oldest first; one query for all of its model calls.

        When there are more than `limit`, they are the newest by id.
        """
        return ToolCall.read_all(await self._tables.tool_call_logs.by_session(row_id(session_id), limit))

    async def save_stream_event(self, event: StreamEvent) -> StreamEvent:
        """Put an event at the end of its stream; `sequence` counts from 1 in the order of commits, without a gap.

        Those who follow the stream (`storage.stream_events.follow`) hear of it.
        """
        new = NewStreamEvent(stream_id=event.stream_id, node_id=event.node_id, data=event.data)
        return StreamEvent.read(await self._tables.stream_events.create(new))

    async def get_stream_events(self, stream_id: str, after: int = 0, limit: int = 100) -> list[StreamEvent]:
        """Return the events of a stream after the sequence `after`, oldest first."""
        return [StreamEvent.read(row) for row in await self._tables.stream_events.read(stream_id, after, limit)]
