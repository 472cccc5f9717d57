"""A stream of events: how far it has come."""

from __future__ import annotations

from agent_storage.statements.records import Input, Key, Record


class NewEventStream(Input):
    """Fields to create a stream. Publishing creates it implicitly."""

    stream_id: Key


class EventStream(Record, NewEventStream):
    """A stream and the sequence of its last event, which follows the events."""

    last_sequence: int
