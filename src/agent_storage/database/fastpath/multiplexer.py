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
from psycopg.pq import ConnStatus, DiagnosticField, ExecStatus
from psycopg.pq.abc import PGresult

from agent_storage.database.calls import uncut
from agent_storage.database.connections import is_dead
from agent_storage.database.fastpath.prepared import Generation, Prepared, PreparedStatements, fault_in
from agent_storage.database.fastpath.waiting import Poll, waiting
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
#: The pause after a failed attempt to connect, in seconds.
_PAUSE = 1.0
#: After how many seconds without an answer an idle connection is looked at before it is used.
_FRESH = 2e-3


class NotShared(Exception):
    """A connection of the pool has to run the statement; nothing of it was done, or all of it was undone."""


class _Call:
    """A statement that was asked for, and the future of its answer."""

    __slots__ = ("answered", "answers", "deadline", "done", "prepared", "sent", "statement", "values")

    def __init__(self, statement: Statement[Any], values: Sequence[Any], done: asyncio.Future[PGresult]) -> None:
        self.statement = statement
        self.values = values
        self.done = done
        self.prepared: Prepared | None = None
        self.answers: list[PGresult] = []
        self.sent = False
        self.answered = False
        self.deadline = 0.0

    def fail(self, error: Exception) -> None:
        """Give the caller an error."""
        self.answered = True
        if not self.done.done():
            self.done.set_exception(error)


class _Description:
    """A statement that is being prepared and described. Meanwhile its calls go to the pool."""

    __slots__ = ("answers", "name", "skip", "statement")

    def __init__(self, statement: Statement[Any], name: bytes, skip: int) -> None:
        self.statement = statement
        self.name = name
        self.skip = skip
        self.answers: list[PGresult] = []


class _Shared:
    """One connection that is shared."""

    def __init__(
        self,
        connection: psycopg.AsyncConnection[Any],
        generation: Generation,
        pump: Callable[[], None],
        spin: float,
    ) -> None:
        self._pgconn = connection.pgconn
        self._connection = connection  # holds the socket open
        self._loop = asyncio.get_running_loop()
        self._statements = PreparedStatements(connection, generation, keep=True)
        self._describing: set[bytes] = set()
        self._writing = False
        self._pump = pump
        self.under_way: deque[_Call | _Description] = deque()
        self.answered_at = 0.0
        self.lost = False
        self._pgconn.enter_pipeline_mode()
        self._socket = self._pgconn.socket
        self._poll = Poll(self._pgconn, spin)
        self._loop.add_reader(self._socket, self._readable)

    def send(self, call: _Call) -> None:
        """Send it. A statement that is not known here is prepared and described for the next call; this one fails."""
        statement = call.statement
        prepared = self._statements.get(statement)
        try:
            if prepared is not None:
                parameters = prepared.encode(statement, call.values)
                prepared.send(self._pgconn, parameters)
                call.prepared, call.sent = prepared, True
                self._end(call)
                return
            if statement.query not in self._describing:
                self._describing.add(statement.query)
                skip = self._statements.close()
                self._end(_Description(statement, self._statements.ask(statement), skip))
            call.fail(NotShared())
        except StorageError as error:
            call.fail(error)
        except psycopg.Error as error:
            self.lose(error)
            call.fail(NotShared())  # without its Sync, whatever has left is undone

    def _end(self, entry: _Call | _Description) -> None:
        """Send the Sync after `entry`."""
        self.under_way.append(entry)
        self._pgconn.pipeline_sync()
        if not self._writing and self._pgconn.flush():
            self._writing = True
            self._loop.add_writer(self._socket, self._writable)

    def wait_for_one(self) -> None:
        """Read the only answer that is awaited, if it comes soon."""
        while self.under_way and self._poll.soon():
            self._readable()

    def look_after(self) -> None:
        """An idle connection has nothing to say but the server's last words."""
        if not self.lost and is_dead(self._pgconn):
            self.lose(psycopg.OperationalError("the server closed the idle connection"))

    def _readable(self) -> None:
        if not self.under_way:
            self.look_after()
            return
        try:
            self._pgconn.consume_input()
            self._receive()
        except psycopg.Error as error:
            self._receive()
            self.lose(error)
        self._pump()

    def _receive(self) -> None:
        """Give the answers that have come to those who wait for them."""
        pgconn, under_way = self._pgconn, self.under_way
        while under_way and not pgconn.is_busy():
            answer = pgconn.get_result()
            if answer is None:
                if pgconn.status != ConnStatus.OK:
                    return
            elif answer.status == ExecStatus.PIPELINE_SYNC:
                entry = under_way.popleft()
                if isinstance(entry, _Call):
                    self._answer(entry)
                else:
                    self._described(entry)
            else:
                under_way[0].answers.append(answer)
        self.answered_at = time.perf_counter()

    def _answer(self, call: _Call) -> None:
        call.answered = True
        if fault := fault_in(call.answers):
            self._refuse(call, fault[1])
        elif not call.done.done():
            call.done.set_result(call.answers[-1])

    def _refuse(self, call: _Call, error: psycopg.Error) -> None:
        fault = self._statements.fault(error, call.statement, call.prepared, commits=True)
        fault.__cause__ = error
        call.fail(fault)

    def _described(self, entry: _Description) -> None:
        self._describing.discard(entry.statement.query)
        answers = entry.answers[entry.skip :]
        if fault_in(answers) is None:
            self._statements.add(entry.statement, entry.name, answers[1])

    def _writable(self) -> None:
        try:
            if not self._pgconn.flush():
                self._writing = False
                self._loop.remove_writer(self._socket)
        except psycopg.Error as error:
            self.lose(error)

    def lose(self, error: psycopg.Error) -> None:
        """End every call in flight with a separate error, after the connection was lost."""
        if self.lost:
            return
        self.lost = True
        self._loop.remove_reader(self._socket)
        self._loop.remove_writer(self._socket)
        words = self._last_words()
        for entry in self.under_way:
            if isinstance(entry, _Description):
                continue
            # The server executed the statements that it replied to, and none after them.
            fault = (fault_in(entry.answers) or fault_in([words])) if words is not None else None
            self._refuse(entry, fault[1] if fault else psycopg.OperationalError(str(error)))
        self.under_way.clear()
        self._pgconn.finish()
        logger.info("a shared connection was lost: %s", error)

    def _last_words(self) -> PGresult | None:
        for answer in self.under_way[0].answers if self.under_way else ():
            if answer.error_field(DiagnosticField.SEVERITY_NONLOCALIZED) in (b"FATAL", b"PANIC"):
                return answer
        return None


class Multiplexer:
    """The shared connections of one database, made again when they are lost, and the queue before them."""

    def __init__(
        self,
        connect: Callable[[], Awaitable[psycopg.AsyncConnection[Any] | None]],
        number: int,
        generation: Generation,
        codec: Codec,
        patience: float,
        spin: float,
    ) -> None:
        self._connect = connect
        self._codec = codec
        self._generation = generation
        self._patience = patience
        self._spin = spin
        self._looking = False
        self._expiry: asyncio.TimerHandle | None = None
        self._shared: list[_Shared | None] = [None] * number
        self._queue: deque[_Call] = deque()
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
                self._shared[place] = _Shared(connection, self._generation, self._pump, self._spin)
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
        if self._mending is not None:
            self._mending.cancel()

    async def run(self, statement: Statement[T], values: Sequence[Any]) -> T:
        """Return the statement's result. Raises `NotShared`, and `PoolTimeout` when it was never sent."""
        if not statement.atomic or self._is_slow(statement):
            raise NotShared
        call = _Call(statement, values, self._loop.create_future())
        shared = self._with_room()
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

    def _look_for_one(self, shared: _Shared) -> None:
        self._looking = False
        if not waiting and sum(len(one.under_way) for one in self._shared if one) == 1:
            shared.wait_for_one()

    def _is_slow(self, statement: Statement[Any]) -> bool:
        return bool(self._slow) and time.monotonic() < self._slow.get(statement.query, 0.0)

    def _with_room(self) -> _Shared | None:
        """The connection with the fewest statements under way; None where each has its `DEPTH`."""
        best: _Shared | None = None
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

    def _take(self, call: _Call, shared: _Shared | None) -> None:
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
