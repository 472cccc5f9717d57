"""Streams of events."""

from __future__ import annotations

from typing import TYPE_CHECKING, Unpack
from uuid import UUID

from typing_extensions import TypeVar

from agent_storage.repository import Repository, sql
from agent_storage.tables.workflows.event_streams.record import EventStream, NewEventStream

if TYPE_CHECKING:
    from agent_storage.tables.changes import EventStreamChanges

R = TypeVar("R", bound=EventStream, default=EventStream, covariant=True)
N = TypeVar("N", bound=NewEventStream, default=NewEventStream, covariant=True)


class EventStreams(Repository[R, N]):
    """Event streams and their last sequences; deleting a stream deletes its events."""

    table = "event_streams"
    natural_key = ("stream_id",)
    immutable = ("stream_id",)

    @sql("SELECT {columns} FROM {table} WHERE stream_id = %(stream_id)s", repeatable=True)
    async def get_by(self, *, stream_id: str) -> R | None:
        """Return the stream, or None if nothing was ever published to it."""
        ...

    if TYPE_CHECKING:

        async def update(self, id: UUID, /, **changes: Unpack[EventStreamChanges]) -> R: ...  # noqa: D102
