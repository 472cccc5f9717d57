"""An event of a stream."""

from __future__ import annotations

from uuid import UUID

from pydantic import BaseModel

from agent_storage.statements.records import Input, Json, Jsonb, Key, Record


class NewStreamEvent(Input):
    """Fields to create an event. The database assigns its sequence."""

    stream_id: Key
    node_id: str | None = None
    data: Jsonb[Json] = {}


class StreamEvent(Record, NewStreamEvent):
    """An event, which never changes. `sequence` counts from 1 within its stream without a gap, in order of commits."""

    sequence: int


class StreamHead(BaseModel, frozen=True):
    """The last position of a stream. `id` changes when the stream is deleted and published again."""

    id: UUID
    last_sequence: int
