"""Lanes: connections that the autocommit statements of all tasks share (multiplexing), in libpq's pipeline mode.

A statement is sent when it is asked for, with a Sync of its own behind it, whoever else waits for an answer on the same
connection. So the wire is never idle, and still each statement is a transaction of its own, with its own error, whose
commit is confirmed before the caller goes on.

One slow statement would hold up those behind it. Three things keep that short: who is seen to be slow goes to the pool
for a while; a lane whose next answer is late gets no more while another one is free; and the server ends what takes
longer than `LIMIT` on a lane, which undoes it, so that it is run again on a connection of the pool with the limit that
was asked for.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import psycopg
from psycopg.errors import QueryCanceled, error_from_result
from psycopg.pq import ConnStatus, DiagnosticField, ExecStatus, Format
from psycopg.pq.abc import PGresult

from ..connection.pool import is_dead
from ..connection.rows import Codec
from ..statement import Statement
from .parameters import Unsuitable
from .prepared import GONE, Prepared, PreparedStatements, ask, checked
from .readiness import Patience

T = TypeVar("T")
Answers = asyncio.Future[list[PGresult]]

logger = logging.getLogger("agent_storage")

#: The longest that a statement may take on a lane, in seconds.
LIMIT = 0.05
#: A statement that takes longer than this on the average, the way there and back apart, is for the pool.
_SLOW = 0.5e-3
#: A lane whose next answer is out for longer than this is not chosen while another one is better, in seconds.
_LATE = 1e-3
#: For how long a slow statement stays away: at first, and at most, in seconds.
_AWAY = (0.25, 30.0)
#: The pause after a failed attempt to connect, in seconds.
_PAUSE = 1.0


class Pace:
    """How long one statement takes on lanes, and until when it stays away from them."""

    __slots__ = ("_away", "_mean", "until")

    def __init__(self) -> None:
        self._mean = 0.0
        self._away = _AWAY[0]
        self.until = 0.0

    def took(self, seconds: float, now: float) -> None:
        """Count one more."""
        self._mean += (seconds - self._mean) / 8
        if self._mean > _SLOW:
            self.stay_away(now)

    def stay_away(self, now: float) -> None:
        """It is for the pool; each time for twice as long, until lanes have seen it quick again."""
        self.until = now + self._away
        self._away = min(2 * self._away, _AWAY[1])
        self._mean = 0.0


class _Waiting:
    """Who waits for the answers up to the next Sync."""

    __slots__ = ("answers", "done", "pace", "since")

    def __init__(self, done: Answers, pace: Pace | None, since: float) -> None:
        self.answers: list[PGresult] = []
        self.done = done
        self.pace = pace
        self.since = since


class Lane:
    """One connection that is shared."""

    def __init__(self, connection: psycopg.AsyncConnection[Any]) -> None:
        self._connection = connection
        self._pgconn = connection.pgconn
        self._loop = asyncio.get_running_loop()
        self._statements = PreparedStatements(connection)
        self._asked: dict[bytes, Answers] = {}
        self._waiting: deque[_Waiting] = deque()
        self._patience = Patience()
        self._looking_until = 0.0
        self._answered_at = 0.0
        self._way = float("inf")
        self._writing = False
        self.lost = False
        self._pgconn.enter_pipeline_mode()
        self._socket = self._pgconn.socket
        self._loop.add_reader(self._socket, self._readable)

    def load(self, now: float) -> tuple[bool, int] | None:
        """How busy it is; the least is the best choice. None for a lane that is lost."""
        waiting = self._waiting
        if not waiting:
            self._look_after()
        if self.lost:
            return None
        if not waiting:
            return False, 0
        return now - max(waiting[0].since, self._answered_at) > _LATE, len(waiting)

    async def run(self, statement: Statement[T], values: Sequence[Any], codec: Codec, pace: Pace) -> T:
        """The statement's result. Raises `Unsuitable` when nothing of it was or could be sent, and psycopg's errors."""
        prepared = self._statements.get(statement.query) or await self._prepare(statement)
        parameters = prepared.encode(values)
        if self.lost:
            raise Unsuitable
        try:
            self._pgconn.send_query_prepared(prepared.name, parameters, prepared.formats, Format.BINARY)
        except psycopg.Error as error:
            self._lose(error)  # without its Sync, whatever has left is undone
            raise Unsuitable from None
        self._pgconn.pipeline_sync()
        answers = await self._sent(pace)
        try:
            checked(answers)
        except psycopg.Error as error:
            if error.sqlstate in GONE:
                self._statements.forget()
            raise
        return prepared.result(statement, answers[0], codec)

    async def _prepare(self, statement: Statement[Any]) -> Prepared:
        asked = self._asked.get(statement.query)
        if asked is None:
            if self._statements.full or self.lost:
                raise Unsuitable
            name = self._statements.new_name()
            ask(self._pgconn, name, statement)
            asked = self._asked[statement.query] = self._sent(None)

            def keep(answers: Answers) -> None:
                self._asked.pop(statement.query, None)
                if not answers.cancelled() and answers.exception() is None and _fine(answers.result()):
                    self._statements.add(statement, name, answers.result()[1])

            asked.add_done_callback(keep)
        checked(await asyncio.shield(asked))
        prepared = self._statements.get(statement.query)
        if prepared is None:
            raise Unsuitable  # others have made all forget it meanwhile
        return prepared

    def _sent(self, pace: Pace | None) -> Answers:
        """What will be the answers to what was sent up to this Sync."""
        now = time.perf_counter()
        done: Answers = self._loop.create_future()
        if not self._waiting and (until := self._patience.until()):
            self._looking_until = until
            self._loop.call_soon(self._look)
        self._waiting.append(_Waiting(done, pace, now))
        if self._pgconn.flush() and not self._writing:
            self._writing = True
            self._loop.add_writer(self._socket, self._writable)
        return done

    def _look(self) -> None:
        """Read as long as looking pays, so that the loop does not go to sleep."""
        if self._waiting and not self.lost:
            self._readable()
        if not self._waiting:
            self._patience.paid()
        elif time.perf_counter() < self._looking_until:
            self._loop.call_soon(self._look)
        else:
            self._patience.in_vain()

    def _look_after(self) -> None:
        """While nobody waits, the server has nothing to say but its last words."""
        if not self.lost and is_dead(self._pgconn):
            self._lose(psycopg.OperationalError("the server closed the idle connection"))

    def _readable(self) -> None:
        if not self._waiting:
            self._look_after()
            return
        try:
            self._pgconn.consume_input()
            self._receive()
        except psycopg.Error as error:
            self._receive()
            self._lose(error)

    def _receive(self) -> None:
        """Give what has come to those who wait for it."""
        pgconn, waiting = self._pgconn, self._waiting
        while waiting and not pgconn.is_busy():
            answer = pgconn.get_result()
            if answer is None:
                if pgconn.status != ConnStatus.OK:
                    return
                continue
            waiting[0].answers.append(answer)
            if answer.status == ExecStatus.PIPELINE_SYNC:
                self._complete(waiting.popleft())

    def _complete(self, one: _Waiting) -> None:
        now = time.perf_counter()
        alone = one.since >= self._answered_at
        took = now - (one.since if alone else self._answered_at)
        self._answered_at = now
        if alone:
            self._way = min(self._way, took)
        if one.pace is not None:
            one.pace.took(took - self._way, now)
        if not one.done.done():
            one.done.set_result(one.answers)

    def _writable(self) -> None:
        try:
            if not self._pgconn.flush():
                self._writing = False
                self._loop.remove_writer(self._socket)
        except psycopg.Error as error:
            self._lose(error)

    def _lose(self, error: psycopg.Error) -> None:
        """The connection is gone: everybody in flight hears of it."""
        if self.lost:
            return
        self.lost = True
        self._loop.remove_reader(self._socket)
        self._loop.remove_writer(self._socket)
        words = self._last_words()
        while self._waiting:
            one = self._waiting.popleft()
            if not one.done.done():
                # A server that says farewell does nothing afterwards; of one that falls silent nothing is known.
                one.done.set_exception(error_from_result(words) if words else psycopg.OperationalError(str(error)))
        self._pgconn.finish()
        logger.info("a shared connection was lost: %s", words.error_message.decode() if words else error)

    def _last_words(self) -> PGresult | None:
        for answer in self._waiting[0].answers if self._waiting else ():
            if answer.error_field(DiagnosticField.SEVERITY_NONLOCALIZED) in (b"FATAL", b"PANIC"):
                return answer
        return None

    def close(self) -> None:
        """Close the connection."""
        self._lose(psycopg.OperationalError("the storage was closed"))


def _fine(answers: list[PGresult]) -> bool:
    return all(answer.status != ExecStatus.FATAL_ERROR for answer in answers)


class Lanes:
    """The shared connections of one database, made anew when they are lost."""

    def __init__(self, connect: Callable[[], Awaitable[psycopg.AsyncConnection[Any] | None]], number: int) -> None:
        self._connect = connect
        self._lanes: list[Lane | None] = [None] * number
        self._paces: dict[bytes, Pace] = {}
        self._mending: asyncio.Task[None] | None = None
        self._closed = False
        self._not_before = 0.0

    async def open(self) -> None:
        """Connect all; where that fails, statements go to the pool and it is tried again."""
        for place, lane in enumerate(self._lanes):
            if lane is None or lane.lost:
                connection = await self._connect()
                if connection is None or self._closed:
                    return
                self._lanes[place] = Lane(connection)

    def close(self) -> None:
        """Close all."""
        self._closed = True
        if self._mending is not None:
            self._mending.cancel()
        for lane in self._lanes:
            if lane is not None:
                lane.close()

    async def run(self, statement: Statement[T], values: Sequence[Any], codec: Codec) -> T:
        """The statement's result. Raises `Unsuitable` where a connection of the pool has to do it; nothing was done."""
        now = time.perf_counter()
        pace = self._paces.get(statement.query)
        if pace is None:
            pace = self._paces[statement.query] = Pace()
        if now < pace.until:
            raise Unsuitable
        lane = self._choose(now)
        try:
            return await lane.run(statement, values, codec, pace)
        except QueryCanceled:
            pace.stay_away(time.perf_counter())
            raise Unsuitable from None
        except psycopg.Error as error:
            if error.sqlstate in GONE:
                raise Unsuitable from None
            raise

    def _choose(self, now: float) -> Lane:
        best: Lane | None = None
        least = (True, 0)
        for lane in self._lanes:
            load = None if lane is None else lane.load(now)
            if lane is None or load is None:
                self._mend(now)
                continue
            if load == (False, 0):
                return lane
            if best is None or load < least:
                best, least = lane, load
        if best is None:
            raise Unsuitable
        return best

    def _mend(self, now: float) -> None:
        if self._closed or now < self._not_before or (self._mending is not None and not self._mending.done()):
            return
        self._not_before = now + _PAUSE
        self._mending = asyncio.get_running_loop().create_task(self.open())
