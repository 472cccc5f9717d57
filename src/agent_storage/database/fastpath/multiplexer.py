"""Connections that the single statements of all tasks share, in libpq's pipeline mode.

A statement is sent while others still wait for their replies, so the connection is never idle. Each is followed by
a Sync: it is a separate transaction, with its own error, whose commit is confirmed before the caller continues.
Replies arrive in the order of the statements, so a slow one delays later ones; two rules limit that delay. The
server cancels what takes longer than `LIMIT`, which undoes it, and it runs on a connection of the pool instead, as do
the next calls of the same statement for a while. And no more than `DEPTH` statements are under way on one connection:
others wait in one queue, from which a call that is given up is dropped.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar, cast

import psycopg

from agent_storage.database.calls import uncut
from agent_storage.database.fastpath.prepared import Generation, Prepared
from agent_storage.database.fastpath.shared import Call, NotShared, SharedConnection
from agent_storage.database.fastpath.waiting import waiting
from agent_storage.errors import PoolTimeout, StatementTimeout, StorageError
from agent_storage.statements.codec import Codec
from agent_storage.statements.statement import Statement

T = TypeVar("T")

logger = logging.getLogger("agent_storage")

#: The longest that a statement may take on a shared connection, in seconds.
LIMIT = 0.05
#: The most statements that are under way on one connection.
DEPTH = 16
#: How long the calls of a statement that took too long go to the pool, in seconds.
_AWAY = 5.0
#: How often a connection is looked at before its deadline.
_LOOKS = 4
#: The pause after a failed attempt to connect, in seconds.
_PAUSE = 1.0
#: After how many seconds without an answer an idle connection is looked at before it is used.
_FRESH = 2e-3


class Multiplexer:
    """The shared connections of one database, made again when they are lost, and the queue before them."""

    def __init__(
        self,
        connect: Callable[[], Awaitable[psycopg.AsyncConnection[Any] | None]],
        number: int,
        generation: Generation,
        codec: Codec,
        *,
        patience: float,
        spin: float,
        deadline: float | None,
    ) -> None:
        self._connect = connect
        self._codec = codec
        self._generation = generation
        self._patience = patience
        self._spin = spin
        self._deadline = deadline
        self._watching: asyncio.TimerHandle | None = None
        self._looking = False
        self._expiry: asyncio.TimerHandle | None = None
        self._shared: list[SharedConnection | None] = [None] * number
        self._queue: deque[Call] = deque()
        self._slow: dict[bytes, float] = {}
        self._mending: asyncio.Task[None] | None = None
        self._closed = False
        self._not_before = 0.0
        self._loop = asyncio.get_running_loop()

    async def connect(self, number: int) -> None:
        """Connect as many, at most; where that fails, the pool serves meanwhile. Others follow when they are wanted."""
        for place, shared in enumerate(self._shared[:number]):
            if shared is None or shared.lost:
                connection = await self._connect()
                if connection is None:
                    return
                if self._closed:
                    await connection.close()
                    return
                self._shared[place] = SharedConnection(connection, self._generation, self._pump, self._spin)
        self._pump()

    def close(self) -> None:
        """Close all connections; calls under way get an error."""
        self.drop()
        for shared in self._shared:
            if shared is not None:
                shared.lose(psycopg.OperationalError("the storage was closed"))
        for call in self._queue:
            call.fail(StorageError("the storage was closed before the statement was sent"))
        self._queue.clear()

    def drop(self) -> None:
        """Make no further connection."""
        self._closed = True
        for pending in (self._mending, self._watching):
            if pending is not None:
                pending.cancel()

    async def run(self, statement: Statement[T], values: Sequence[Any]) -> T:
        """Return the statement's result. Raises `NotShared`, and `PoolTimeout` when it was never sent."""
        if not statement.atomic or self._is_slow(statement):
            raise NotShared
        call = Call(statement, values, self._loop.create_future())
        shared = self._with_room()
        if self._watching is None and self._deadline is not None:
            self._watching = self._loop.call_later(self._deadline / _LOOKS, self._watch)
        if shared is not None and not self._queue:
            shared.send(call)
            if not self._looking:
                self._looking = True
                self._loop.call_soon(self._look_for_one, shared)
        elif shared is None and not any(one and not one.lost for one in self._shared):
            raise NotShared
        else:
            self._queue.append(call)
            call.deadline = self._loop.time() + self._patience
            if self._expiry is None:
                self._expiry = self._loop.call_at(call.deadline, self._expire)
            self._pump()
        try:
            answer = await call.done
        except asyncio.CancelledError:
            if call.sent and not call.answered and not statement.repeatable:
                call.done = self._loop.create_future()
                call.done.add_done_callback(lambda done: done.exception())
                await uncut(asyncio.wait([call.done]))  # it is done or undone when its caller goes on
            raise
        except StatementTimeout:
            now = time.monotonic()
            self._slow = {query: until for query, until in self._slow.items() if until > now}
            self._slow[statement.query] = now + _AWAY
            raise NotShared from None
        prepared = cast(Prepared, call.prepared)
        return prepared.result(statement, answer, values, self._codec, kept=not statement.repeatable)

    def _watch(self) -> None:
        """Lose the connections whose server has been silent past the deadline. Looks again while one is in use."""
        busy = False
        for shared in self._shared:
            if shared is not None and not shared.lost:
                shared.watch(_LOOKS)
                busy |= bool(shared.under_way)
        self._watching = None
        if busy and self._deadline is not None:
            self._watching = self._loop.call_later(self._deadline / _LOOKS, self._watch)

    def renew(self) -> None:
        """Close the connections that are idle; others take their place when they are wanted."""
        for shared in self._shared:
            if shared is not None and not shared.under_way:
                shared.lose(psycopg.OperationalError("the connection is replaced"))

    def _look_for_one(self, shared: SharedConnection) -> None:
        self._looking = False
        if not waiting and sum(len(one.under_way) for one in self._shared if one) == 1:
            shared.wait_for_one()

    def _is_slow(self, statement: Statement[Any]) -> bool:
        return bool(self._slow) and time.monotonic() < self._slow.get(statement.query, 0.0)

    def _with_room(self) -> SharedConnection | None:
        """The connection with the fewest statements under way; None where each has its `DEPTH`."""
        best: SharedConnection | None = None
        least = DEPTH
        for shared in self._shared:
            if shared is None or shared.lost:
                self._mend()
                continue
            depth = len(shared.under_way)
            if not depth:
                if time.perf_counter() - shared.answered_at > _FRESH:
                    shared.look_after()
                    if shared.lost:
                        self._mend()
                        continue
                return shared
            if depth < least:
                best, least = shared, depth
        return best

    def _pump(self) -> None:
        """Send what waits in the queue, as far as there is room."""
        while self._queue and (shared := self._with_room()) is not None:
            self._take(self._queue.popleft(), shared)
        if self._queue and all(one is None or one.lost for one in self._shared):
            while self._queue:
                self._take(self._queue.popleft(), None)

    def _take(self, call: Call, shared: SharedConnection | None) -> None:
        if call.done.done():  # it was given up
            return
        if shared is None or self._is_slow(call.statement):
            call.fail(NotShared())
        else:
            shared.send(call)

    def _expire(self) -> None:
        """Give up the calls whose time in the queue is over; the first in it is the oldest."""
        late = f"the statement was not sent within {self._patience:g} s: the shared connections are busy"
        while self._queue and self._queue[0].deadline <= self._loop.time():
            self._queue.popleft().fail(PoolTimeout(late))
        self._expiry = self._loop.call_at(self._queue[0].deadline, self._expire) if self._queue else None

    def _mend(self) -> None:
        now = time.monotonic()
        if self._closed or now < self._not_before or (self._mending is not None and not self._mending.done()):
            return
        self._not_before = now + _PAUSE
        self._mending = self._loop.create_task(self.connect(len(self._shared)))
