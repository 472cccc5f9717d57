"""An event of a stream."""

from __future__ import annotations

from agent_storage.statements.records import Input, Json, Jsonb, Key, Record


class NewStreamEvent(Input):
    """What makes an event; its sequence is given by the database."""

    stream_id: Key
    node_id: str | None = None
    data: Jsonb[Json] = {}


class StreamEvent(Record, NewStreamEvent):
    """An event. `sequence` counts from 1 within its stream, in the order of commits, without a gap."""

    sequence: int
