"""An event of a stream."""

from __future__ import annotations

from agent_storage.statements.records import Input, Json, Jsonb, Key, Record


class NewStreamEvent(Input):
    """Fields to create an event. The database assigns its sequence."""

    stream_id: Key
    node_id: str | None = None
    data: Jsonb[Json] = {}


class StreamEvent(Record, NewStreamEvent):
    """An event. `sequence` counts from 1 within its stream, in the order of commits, without a gap."""

    sequence: int
