"""Events of streams: published, read, followed."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Unpack
from uuid import UUID

from typing_extensions import TypeVar

from agent_storage.database.listener import AsyncSignal
from agent_storage.errors import InvalidValue, Unavailable
from agent_storage.repository import Repository, sql
from agent_storage.statements.lists import Found
from agent_storage.statements.records import BigCount, Json, Key
from agent_storage.tables.workflows.stream_events.record import NewStreamEvent, StreamEvent

if TYPE_CHECKING:
    from agent_storage.tables.changes import StreamEventChanges

#: How many events `publish_many` sends at a time.
_AT_ONCE = 10_000
#: How many events `follow` reads at a time, and how long it pauses when the database cannot be asked, in seconds.
_CHUNK, _PAUSE = 500, 0.5

R = TypeVar("R", bound=StreamEvent, default=StreamEvent, covariant=True)
N = TypeVar("N", bound=NewStreamEvent, default=NewStreamEvent, covariant=True)


class StreamEvents(Repository[R, N]):
    """Events of streams, in the order of commits, without gaps."""

    table = "stream_events"

    @sql(
        """
        WITH stream AS (        -- its row lock, held to commit, hands out sequences without a gap
            INSERT INTO event_streams AS s (stream_id, last_sequence) VALUES (%(new.stream_id)s, 1)
            ON CONFLICT (stream_id) DO UPDATE SET last_sequence = s.last_sequence + 1
            RETURNING last_sequence
        )
        INSERT INTO stream_events ({new.columns}, sequence)
        SELECT {new.values}, last_sequence FROM stream
        RETURNING {columns}
        """,
        certain=True,
    )
    async def create(self, new: N) -> R:  # pyright: ignore[reportGeneralTypeIssues]
        """Create the event at the end of its stream, and the stream with its first event. One statement."""
        ...

    @sql("""
        WITH given AS (
            SELECT *, row_number() OVER (PARTITION BY stream_id ORDER BY ordinality) AS nth
              FROM jsonb_populate_recordset(NULL::stream_events, %(new)s) WITH ORDINALITY
        ), moved AS (           -- the row locks, held to commit, hand out sequences without a gap
            INSERT INTO event_streams AS s (stream_id, last_sequence)
            SELECT stream_id, count(*) FROM given GROUP BY stream_id ORDER BY stream_id
            ON CONFLICT (stream_id) DO UPDATE SET last_sequence = s.last_sequence + excluded.last_sequence
            RETURNING s.stream_id AS of, s.last_sequence
        ), counted AS (
            SELECT stream_id AS of, count(*) AS events FROM given GROUP BY stream_id
        )
        INSERT INTO stream_events ({new.columns}, sequence)
        SELECT {new.rows}, moved.last_sequence - counted.events + nth
          FROM given
          JOIN moved ON moved.of = stream_id
          JOIN counted ON counted.of = stream_id
         ORDER BY ordinality
        RETURNING {columns}
    """)
    async def create_many(self, new: Sequence[N]) -> list[R]:
        """Create the events at the end of their streams, in the order given; all or none, one round trip."""
        ...

    @sql(
        """
        WITH stream AS (
            INSERT INTO event_streams AS s (stream_id, last_sequence) VALUES (%(stream_id)s, %(number)s)
            ON CONFLICT (stream_id) DO UPDATE SET last_sequence = s.last_sequence + excluded.last_sequence
            RETURNING last_sequence
        ), added AS (
            INSERT INTO stream_events ({new.columns}, sequence)
            SELECT {new.rows}, last_sequence - %(number)s + ordinality
              FROM jsonb_populate_recordset(NULL::stream_events, %(new)s) WITH ORDINALITY
             CROSS JOIN stream
        )
        SELECT last_sequence FROM stream
        """,
        certain=True,
    )
    async def _publish(self, stream_id: Key, number: BigCount, new: Sequence[N]) -> int:
        """Add events at the end of a stream. Return its last sequence. Other publishers wait until the commit."""
        ...

    @sql(
        """
        SELECT {columns}
          FROM {table}
         WHERE stream_id = %(stream_id)s AND sequence > %(after)s
         ORDER BY sequence
         LIMIT %(limit)s
        """,
        repeatable=True,
    )
    async def read(self, stream_id: str, after: int = 0, limit: int = 100) -> Found[R]:
        """Return the events after the sequence `after`, oldest first."""
        ...

    async def publish(self, stream_id: str, node_id: str | None = None, data: Json = None) -> R:
        """Publish an event at the end of a stream. Followers receive it at commit. One round trip."""
        given = {} if data is None else {"data": data}
        return await self.create(self.new(stream_id=stream_id, node_id=node_id, **given))

    async def publish_many(self, stream_id: str, events: Sequence[N]) -> range:
        """Publish events at the end of a stream, in the order given, all or none. Return their sequences.

        For thousands at a time, since the events are not sent back. One round trip; more than 10,000 are a transaction
        of several. Raises `InvalidValue` for an event of another stream.
        """
        events = list(events)
        if any(event.stream_id != stream_id for event in events):
            raise InvalidValue(f"stream_events: not all events belong to {stream_id}", table=self.table)
        if not events:
            return range(0)
        if len(events) <= _AT_ONCE:
            last = await self._publish(stream_id, len(events), events)
        else:
            last = 0
            async with self.transaction() as rows:
                for start in range(0, len(events), _AT_ONCE):
                    some = events[start : start + _AT_ONCE]
                    last = await rows._publish(stream_id, len(some), some)
        return range(last - len(events) + 1, last + 1)

    @asynccontextmanager
    async def follow(self, stream_id: str, after: int = 0) -> AsyncGenerator[AsyncIterator[R]]:
        """Yield every event after `after`: those that exist, then those to come, each once and in order, without end.

            async with storage.stream_events.follow("run-1") as events:
                async for event in events:
                    ...

        Waits for notifications and never polls. A broken connection is made again and no event is missed.
        """
        with self.runner.listen("event_streams", stream_id) as signal:
            yield self._followed(signal, stream_id, after)

    async def _followed(self, signal: AsyncSignal, stream_id: str, after: int) -> AsyncGenerator[R]:
        while True:
            try:
                events = await self.read(stream_id, after, _CHUNK)
            except Unavailable:
                await signal.wait(_PAUSE)
                continue
            for event in events:
                after = event.sequence
                yield event
            if not events:
                await signal.wait()

    if TYPE_CHECKING:

        async def update(self, id: UUID, /, **changes: Unpack[StreamEventChanges]) -> R: ...  # noqa: D102
