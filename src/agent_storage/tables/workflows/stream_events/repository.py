"""Events of streams: published, read, followed."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any, Self, Unpack
from uuid import UUID

from typing_extensions import TypeVar

from agent_storage.database.tails import AsyncTail, Position
from agent_storage.errors import InvalidValue, Unavailable
from agent_storage.repository import Repository, sql
from agent_storage.statements.lists import Found
from agent_storage.statements.records import BigCount, Json, Key
from agent_storage.tables.workflows.stream_events.record import NewStreamEvent, StreamEvent, StreamHead

if TYPE_CHECKING:
    from agent_storage.tables.changes import StreamEventChanges

#: How many events `publish_many` sends at a time.
_AT_ONCE = 10_000
#: How many events `follow` reads at a time, and how long it pauses when the database cannot be asked, in seconds.
_CHUNK, _PAUSE = 500, 0.5

R = TypeVar("R", bound=StreamEvent, default=StreamEvent, covariant=True)
N = TypeVar("N", bound=NewStreamEvent, default=NewStreamEvent, covariant=True)


#: Events with ids, each at the end of its stream unless it exists. The events of a stream are looked up under its row
#: lock (DO UPDATE evaluates its expressions after it has taken it), so an attempt that is under way is waited for.
_IDENTIFIED = """
        WITH given ({new.columns}, "Item", "Nth") AS MATERIALIZED (
            SELECT {new.rows}, "Item", "Nth"
              FROM jsonb_array_elements(%(new)s) WITH ORDINALITY AS items ("Item", "Nth")
             CROSS JOIN LATERAL jsonb_populate_record(NULL::stream_events, "Item")
        ), streams AS (
            SELECT stream_id AS of, count(*) AS events, jsonb_agg("Item") AS "Items" FROM given GROUP BY stream_id
        ), moved AS MATERIALIZED (
            INSERT INTO event_streams AS s (stream_id, last_sequence)
            SELECT of, events FROM streams ORDER BY of
            ON CONFLICT (stream_id) DO UPDATE
               SET last_sequence = s.last_sequence + excluded.last_sequence
                                   - (SELECT count(*)
                                        FROM streams
                                       CROSS JOIN LATERAL rows_as_given(NULL::stream_events, "Items", false)
                                       WHERE of = excluded.stream_id)
            RETURNING s.stream_id AS of, s.last_sequence
        ), present AS MATERIALIZED (
            SELECT present.*
              FROM (SELECT count(*) AS locks FROM moved) AS waited
             CROSS JOIN LATERAL rows_as_given(NULL::stream_events, CASE WHEN locks >= 0 THEN %(new)s END, false)
                        AS present
        ), missing AS MATERIALIZED (
            SELECT *, row_number() OVER (PARTITION BY stream_id ORDER BY "Nth" DESC) - 1 AS "Behind"
              FROM given
             WHERE id NOT IN (SELECT id FROM present)
        ), made AS (
            INSERT INTO stream_events ({new.columns}, sequence)
            SELECT {new.columns}, moved.last_sequence - "Behind"
              FROM missing
              JOIN moved ON moved.of = stream_id
             ORDER BY "Nth"
            RETURNING *
        ), found AS (
            SELECT * FROM made UNION ALL SELECT * FROM present
        )
"""


class StreamEvents(Repository[R, N]):
    """Events of streams, in the order of commits, without gaps."""

    table = "stream_events"
    immutable = ("stream_id", "node_id", "data")

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
        identified=_IDENTIFIED + "SELECT {columns} FROM found",
    )
    async def create(self, new: N) -> R:  # pyright: ignore[reportGeneralTypeIssues]
        """Create the event at the end of its stream, and the stream with its first event. One statement.

        With an `id` the call can be repeated: an event that exists as given is returned, and no sequence is taken.
        """
        ...

    @sql(
        """
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
    """,
        identified=_IDENTIFIED + 'SELECT {found.columns} FROM given JOIN found USING (id) ORDER BY "Nth"',
    )
    async def create_many(self, new: Sequence[N]) -> list[R]:
        """Create the events at the end of their streams, in the order given; all or none, one round trip.

        Events with an `id` may exist, as for `create`.
        """
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
        _IDENTIFIED + 'SELECT found.sequence FROM given JOIN found USING (id) ORDER BY "Nth"',
        certain=True,
        identified=True,
    )
    async def _publish_identified(self, new: Sequence[N]) -> list[int]:
        """Add the events that do not exist. Return the sequences of all."""
        ...

    @sql(
        """
        SELECT {columns}
          FROM {table}
         WHERE stream_id = %(stream_id)s AND sequence > %(after)s
           AND (%(generation)s::uuid IS NULL
                OR EXISTS (SELECT FROM event_streams WHERE stream_id = %(stream_id)s AND id = %(generation)s))
         ORDER BY sequence
         LIMIT %(limit)s
        """,
        repeatable=True,
    )
    async def read(
        self, stream_id: str, after: int = 0, limit: int = 100, *, generation: UUID | None = None
    ) -> Found[R]:
        """Return the events after the sequence `after`, oldest first.

        With `generation`, the `head().id` of a stream, return none when the stream was deleted and published again.
        """
        ...

    @sql("SELECT id, last_sequence FROM event_streams WHERE stream_id = %(stream_id)s", repeatable=True)
    async def head(self, stream_id: str) -> StreamHead | None:
        """Return how far a stream has come, or None if nothing was ever published to it."""
        ...

    async def publish(
        self,
        stream_id: str,
        node_id: str | None = None,
        data: Json = None,
        *,
        id: UUID | None = None,
        created_at: datetime | None = None,
    ) -> R:
        """Publish an event at the end of a stream. Followers receive it at commit. One round trip.

        With an `id` the call can be repeated, as for `create`.
        """
        given = {} if data is None else {"data": data}
        return await self.create(self.new(stream_id=stream_id, node_id=node_id, id=id, created_at=created_at, **given))

    async def publish_many(self, stream_id: str, events: Sequence[N]) -> Sequence[int]:
        """Publish events at the end of a stream, in the order given, all or none. Return their sequences.

        For thousands at a time, since the events are not sent back. One round trip; more than 10,000 are a transaction
        of several. Events with an `id` may exist, as for `create`. Raises `InvalidValue` for an event of another
        stream.
        """
        events = list(events)
        if any(event.stream_id != stream_id for event in events):
            raise InvalidValue(f"stream_events: not all events belong to {stream_id}", table=self.table)
        if not events:
            return range(0)
        if any(event.id or event.created_at or event.updated_at for event in events):
            return await self._publish_all(events)
        if len(events) <= _AT_ONCE:
            last = await self._publish(stream_id, len(events), events)
        else:
            last = 0
            async with self.transaction() as rows:
                for start in range(0, len(events), _AT_ONCE):
                    some = events[start : start + _AT_ONCE]
                    last = await rows._publish(stream_id, len(some), some)
        return range(last - len(events) + 1, last + 1)

    async def _publish_all(self, events: Sequence[N]) -> list[int]:
        if len(events) <= _AT_ONCE:
            return await self._publish_identified(events)
        async with self.transaction() as rows:
            sequences: list[int] = []
            for start in range(0, len(events), _AT_ONCE):
                sequences += await rows._publish_identified(events[start : start + _AT_ONCE])
            return sequences

    @asynccontextmanager
    async def follow(
        self, stream_id: str, after: int = 0, *, generation: UUID | None = None
    ) -> AsyncGenerator[Follower[R]]:
        """Yield every event after `after`: those that exist, then those to come, each once and in order, without end.

            async with storage.stream_events.follow("run-1") as events:
                async for event in events:
                    ...

        Waits for notifications and never polls. A broken connection is made again and no event is missed. When the
        stream is deleted and published again, its new events follow, from the first one. To follow across restarts of
        a program, keep the event's sequence and `events.generation`, and give both: an `after` of another generation is
        not compared with the new sequences. Without `generation`, an `after` beyond the stream's end begins at its
        first event. Followers at the same position share one read, and get the same objects: do not change an event's
        `data`.
        """
        with AsyncTail[R].joined(self.runner.listen("event_streams", stream_id), type(self)) as (tail, first):
            yield Follower(self, tail, first, stream_id, Position(generation, after))

    if TYPE_CHECKING:

        async def update(self, id: UUID, /, **changes: Unpack[StreamEventChanges]) -> R: ...  # noqa: D102


class Follower(AsyncIterator[R]):
    """The events of a stream, each once and in order, without end."""

    def __init__(
        self, rows: StreamEvents[R, Any], tail: AsyncTail[R], first: int, stream_id: str, position: Position
    ) -> None:
        self._rows = rows
        self._tail = tail
        self._first = first
        self._stream_id = stream_id
        self._position = position
        self._found = self._events()

    @property
    def generation(self) -> UUID | None:
        """The id of the stream's row to which the last event belongs that was yielded. None without a stream."""
        return self._position.generation

    def __aiter__(self) -> Self:
        """Return itself."""
        return self

    async def __anext__(self) -> R:
        """Return the next event, when there is one."""
        return await anext(self._found)

    async def _events(self) -> AsyncGenerator[R]:
        located = False
        while True:
            version = self._tail.version
            try:
                if not located:
                    self._position = self._start(await self._rows.head(self._stream_id))
                    located = True
                part = await self._tail.read(self._position, self._first, self._read)
            except Unavailable:
                await self._tail.wait(version, _PAUSE)
                continue
            self._position = part.position
            for event in part.events:
                self._position = Position(part.position.generation, event.sequence)
                yield event
            if not part.events.more:
                await self._tail.wait(part.version)

    def _start(self, head: StreamHead | None) -> Position:
        """Return the position to begin at: the given one, or the first event if it is not of this stream."""
        if head is None:
            return Position(None, 0)
        given = self._position
        if given.generation == head.id:
            return given
        known = given.generation is None and given.after <= head.last_sequence
        return Position(head.id, given.after if known else 0)

    async def _read(self, position: Position) -> tuple[Position, Found[R]]:
        """Return the events after a position. When there are none, the stream may be another one by now."""
        while True:
            if position.generation is not None:
                generation = position.generation
                events = await self._rows.read(self._stream_id, position.after, _CHUNK, generation=generation)
                if events:
                    return position, events
            head = await self._rows.head(self._stream_id)
            if head is None:
                return Position(None, 0), Found()
            if head.id == position.generation:
                return position, Found()
            position = Position(head.id, 0)
