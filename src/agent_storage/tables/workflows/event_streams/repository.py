"""Streams of events."""

from __future__ import annotations

from agent_storage.repository import Repository, sql
from agent_storage.tables.workflows.event_streams.record import EventStream, NewEventStream


class EventStreams(Repository[EventStream, NewEventStream]):
    """Event streams and their last sequences; deleting a stream deletes its events."""

    table = "event_streams"
    natural_key = ("stream_id",)

    @sql("SELECT {columns} FROM {table} WHERE stream_id = %(stream_id)s", repeatable=True)
    async def named(self, stream_id: str) -> EventStream | None:
        """The stream, or None when nothing was ever published to it."""
        ...
