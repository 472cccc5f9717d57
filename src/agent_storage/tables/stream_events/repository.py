"""Events of streams: published, read, followed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from agent_storage.connection.rows import encode_row
from agent_storage.errors import InvalidValue, Unavailable
from agent_storage.records import Json
from agent_storage.tables.stream_events.record import NewStreamEvent, StreamEvent

from ...repository import Repository, sql

#: How many events `follow` reads at a time, and how long it pauses when the database cannot be asked, in seconds.
_CHUNK, _PAUSE = 500, 0.5


class StreamEvents(Repository[StreamEvent, NewStreamEvent]):
    """What happened in a stream, in the order of commits, without a gap."""

    table = "stream_events"

    @sql("""
        WITH stream AS (        -- its row lock, held to commit, hands out sequences without a gap
            INSERT INTO event_streams AS s (stream_id, last_sequence) VALUES (%(new.stream_id)s, 1)
            ON CONFLICT (stream_id) DO UPDATE SET last_sequence = s.last_sequence + 1
            RETURNING last_sequence
        )
        INSERT INTO stream_events ({new.columns}, sequence)
        SELECT {new.values}, last_sequence FROM stream
        RETURNING {columns}
    """)
    async def create(self, new: NewStreamEvent) -> StreamEvent:
        """The event at the end of its stream, which is made when it is the first. One statement."""
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
    async def create_many(self, new: Sequence[NewStreamEvent]) -> list[StreamEvent]:
        """The events at the end of their streams, in the order given; all or none, one round trip."""
        ...

    @sql("""
        INSERT INTO event_streams AS s (stream_id, last_sequence) VALUES (%(stream_id)s, %(events)s)
        ON CONFLICT (stream_id) DO UPDATE SET last_sequence = s.last_sequence + excluded.last_sequence
        RETURNING last_sequence
    """)
    async def reserve(self, stream_id: str, events: int) -> int:
        """The last sequence of a stream that has been lengthened by `events`; others wait until the commit."""
        ...

    @sql("""
        SELECT {columns}
          FROM {table}
         WHERE stream_id = %(stream_id)s AND sequence > %(after)s
         ORDER BY sequence
         LIMIT %(limit)s
    """)
    async def read(self, stream_id: str, after: int = 0, limit: int = 100) -> list[StreamEvent]:
        """The events behind the sequence `after`, oldest first."""
        ...

    async def publish(self, stream_id: str, node_id: str | None = None, data: Json = None) -> StreamEvent:
        """A new event at the end of a stream; followers hear of it at commit. One round trip."""
        given = {} if data is None else {"data": data}
        return await self.create(NewStreamEvent(stream_id=stream_id, node_id=node_id, **given))

    async def publish_many(self, stream_id: str, events: Sequence[NewStreamEvent]) -> range:
        """New events at the end of a stream by COPY, in the order given, all or none; their sequences.

        For thousands at a time: the events are not sent back. Raises `InvalidValue` for an event of another stream.
        """
        if any(event.stream_id != stream_id for event in events):
            raise InvalidValue(f"stream_events: not all events belong to {stream_id}", table=self.table)
        if not events:
            return range(0)
        names = ["stream_id", "node_id", "data"]
        encoded = [encode_row(event, names, self.runner.codec, table=self.table) for event in events]
        async with self.runner.begin(name="stream_events.publish_many") as transaction:
            last = await type(self)(transaction).reserve(stream_id, len(events))
            sequences = range(last - len(events) + 1, last + 1)
            rows = ([*row.values(), sequence] for row, sequence in zip(encoded, sequences, strict=True))
            await transaction.copy(self.table, [*names, "sequence"], rows)
        return sequences

    async def follow(self, stream_id: str, after: int = 0) -> AsyncIterator[StreamEvent]:
        """Every event behind `after`, those that are there and then those to come, each once and in order, for ever.

        Notified, never polling; a broken connection is made anew and nothing is missed. Leave the loop to stop.
        """
        with self.runner.listen("event_streams", stream_id) as signal:
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
