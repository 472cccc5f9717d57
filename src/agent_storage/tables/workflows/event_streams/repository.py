"""Streams of events."""

from __future__ import annotations

from agent_storage.repository import Repository, sql
from agent_storage.tables.workflows.event_streams.record import EventStream, NewEventStream


class EventStreams(Repository[EventStream, NewEventStream]):
    """A stream of events and how far it has come; deleting one deletes its events."""

    table = "event_streams"
    natural_key = ("stream_id",)

    @sql("SELECT {columns} FROM {table} WHERE stream_id = %(stream_id)s", repeatable=True)
    async def get_by(self, *, stream_id: str) -> EventStream | None:
        """Return the stream, or None if nothing was ever published to it."""
        ...
