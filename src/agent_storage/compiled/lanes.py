"""Lanes: connections that the autocommit statements of all tasks share (multiplexing), in libpq's pipeline mode.

A statement is sent when it is asked for, whoever else waits for an answer on the same connection, so the wire is never
idle. Behind each write stands a Sync of its own: it is a transaction of its own, with its own error, whose commit is
confirmed before the caller goes on. Quick statements that only read, and that were asked for in the same moment, share
a Sync and with it a system call; when one of them fails, nothing of the group has happened, and each is run again for
itself.

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
from .prepared import FINE, GONE, Prepared, PreparedStatements, ask, checked
from .readiness import Patience

T = TypeVar("T")
Answer = asyncio.Future[PGresult]

logger = logging.getLogger("agent_storage")

#: The longest that a statement may take on a lane, in seconds.
LIMIT = 0.05
#: An answer is late after this time, the way there and back apart, and so late that its statement must go, in seconds.
_LATE, _TOO_LATE = 2e-3, 20e-3
_IDLE = (False, 0)
#: The most reads that share a Sync: each waits for all of them.
_GROUP = 16
#: For how long a slow statement stays away: at first, and at most, in seconds.
_AWAY = (1.0, 60.0)
#: The pause after a failed attempt to connect, in seconds.
_PAUSE = 1.0


class Pace:
    """What is known of one statement: whether it is `quick`, and until when it stays away because it was slow."""

    __slots__ = ("_away", "quick", "until")

    def __init__(self) -> None:
        self._away = _AWAY[0]
        self.until = 0.0
        #: Whether it was, when it was last sent alone. Others share a Sync only with such, else one could not tell who
        #: holds up whom: the server sends the answers to a group together.
        self.quick = False

    def stay_away(self, now: float) -> None:
        """It is for the pool now: each time for twice as long, unless it behaved for as long in between."""
        if now < self.until:
            return
        self.quick = False
        self._away = min(2 * self._away, _AWAY[1]) if now - self.until < self._away else _AWAY[0]
        self.until = now + self._away


class Sent:
    """A statement that was asked for: how it is sent, and who waits for its answer."""

    __slots__ = ("done", "pace", "parameters", "prepared")

    def __init__(self, done: Answer, prepared: Prepared, parameters: list[bytes | None], pace: Pace) -> None:
        self.done = done
        self.prepared = prepared
        self.parameters = parameters
        self.pace = pace


class _Group:
    """What was sent up to one Sync: a transaction, of one statement or of several that only read."""

    __slots__ = ("answers", "members", "since")

    def __init__(self, members: Sequence[Sent], since: float) -> None:
        self.members = members
        self.since = since
        self.answers: list[PGresult] = []

    def blame(self, now: float) -> None:
        """Its answer is too late. Of several, each is sent alone the next time, to see which one it was."""
        for one in self.members:
            one.pace.quick = False
        if len(self.members) == 1:
            self.members[0].pace.stay_away(now)

    def complete(self, now: float, took: float) -> PGresult | None:
        """Give each member its answer, which took so long; what has failed, if anything did.

        Where one of several has failed, the transaction was undone: all are run again, each for itself, on the pool.
        """
        place = next((place for place, answer in enumerate(self.answers) if answer.status not in FINE), None)
        if place is None:
            if len(self.members) == 1:
                self.members[0].pace.quick = took < _TOO_LATE / 2
            for one, answer in zip(self.members, self.answers, strict=True):
                if not one.done.done():
                    one.done.set_result(answer)
            return None
        fault = self.answers[place]
        if len(self.members) == 1:
            self.fail(lambda: error_from_result(fault))
        else:
            self.fail(Unsuitable)
            self.members[min(place, len(self.members) - 1)].pace.stay_away(now)
        return fault

    def fail(self, error: Callable[[], Exception]) -> None:
        """Give each member an error of its own."""
        for one in self.members:
            if not one.done.done():
                one.done.set_exception(error())


class _Preparing(_Group):
    """A statement that is being prepared and described, for all who want to run it."""

    __slots__ = ("done",)

    def __init__(self, done: asyncio.Future[list[PGresult]], since: float) -> None:
        super().__init__((), since)
        self.done = done

    def complete(self, now: float, took: float) -> PGresult | None:
        """Give all the answers."""
        self.done.set_result(self.answers)
        return None

    def fail(self, error: Callable[[], Exception]) -> None:
        """The connection is gone."""
        self.done.set_exception(error())


class Lane:
    """One connection that is shared."""

    def __init__(self, connection: psycopg.AsyncConnection[Any]) -> None:
        self._connection = connection
        self._pgconn = connection.pgconn
        self._loop = asyncio.get_running_loop()
        self._statements = PreparedStatements(connection)
        self._preparing: dict[bytes, asyncio.Future[list[PGresult]]] = {}
        self._reads: list[Sent] = []
        self._alone: list[Sent] = []
        self._waiting: deque[_Group] = deque()
        self._patience = Patience()
        self._looking = False
        self._looking_until = 0.0
        self._answered_at = 0.0
        self._way = _LATE
        self._writing = False
        self._watching = False
        self.lost = False
        self._pgconn.enter_pipeline_mode()
        self._socket = self._pgconn.socket
        self._loop.add_reader(self._socket, self._readable)

    @property
    def busy(self) -> bool:
        """Whether somebody waits for an answer."""
        return bool(self._waiting)

    def load(self, now: float) -> tuple[bool, int] | None:
        """How busy it is; the least is the best choice. None for a lane that is lost.

        Whose answer is too late now that somebody else wants to send holds others up: it is for the pool for a while.
        """
        waiting = self._waiting
        late = 0.0
        if now - self._answered_at > _LATE:  # else it is neither late nor dead
            if not waiting:
                self._look_after()
            elif self._lateness(now) > _LATE:
                self._readable()  # it may have come while this process was busy
            late = self._lateness(now) if waiting else 0.0
            if late > _TOO_LATE:
                waiting[0].blame(now)
        return None if self.lost else (late > _LATE, len(waiting) + len(self._reads) + len(self._alone))

    def _lateness(self, now: float) -> float:
        return now - max(self._waiting[0].since + self._way, self._answered_at)

    def send(self, statement: Statement[Any], values: Sequence[Any], pace: Pace) -> Sent | None:
        """Send it, at once or with others of this moment; None when it must be prepared first.

        Raises `Unsuitable` when nothing of it can be sent.
        """
        prepared = self._statements.get(statement.query)
        if prepared is None:
            return None
        sent = Sent(self._loop.create_future(), prepared, prepared.encode(values), pace)
        if not (self._waiting or self._reads or self._alone):
            self._send_group([sent])
            return sent
        if not (self._reads or self._alone):
            self._loop.call_soon(self._send_collected)
        (self._reads if pace.quick and not statement.writes else self._alone).append(sent)
        return sent

    def _send_collected(self) -> None:
        """What tasks have asked for meanwhile has no order among itself: quick reads share a Sync, others go alone."""
        reads, alone = self._reads, self._alone
        self._reads, self._alone = [], []
        for start in range(0, len(reads), _GROUP):
            self._send_group(reads[start : start + _GROUP])
        for one in alone:
            self._send_group([one])

    def _send_group(self, members: Sequence[Sent]) -> None:
        group = _Group(members, time.perf_counter())
        try:
            for one in members:
                prepared = one.prepared
                self._pgconn.send_query_prepared(prepared.name, one.parameters, prepared.formats, Format.BINARY)
        except psycopg.Error as error:
            self._lose(error)  # without its Sync, whatever has left is undone
            group.fail(Unsuitable)
        else:
            self._finish(group)

    async def prepare(self, statement: Statement[Any]) -> None:
        """Prepare and describe it; whoever else wants the same waits for the same answer."""
        answers = self._preparing.get(statement.query)
        if answers is None:
            if self._statements.full or self.lost:
                raise Unsuitable
            name = self._statements.new_name()
            try:
                ask(self._pgconn, name, statement)
            except psycopg.Error as error:
                self._lose(error)
                raise Unsuitable from None
            answers = self._preparing[statement.query] = self._loop.create_future()
            self._finish(_Preparing(answers, time.perf_counter()))

            def keep(answers: asyncio.Future[list[PGresult]]) -> None:
                self._preparing.pop(statement.query, None)
                if answers.exception() is None and all(one.status in FINE for one in answers.result()):
                    self._statements.add(statement, name, answers.result()[1])

            answers.add_done_callback(keep)
        checked(await asyncio.shield(answers))

    def _finish(self, group: _Group) -> None:
        """Send the Sync behind `group`; look for the answers before the loop goes to sleep, where that pays."""
        if not self._waiting and (until := self._patience.until()):
            self._looking_until = until
            if not self._looking:
                self._looking = True
                self._loop.call_soon(self._look)
        self._waiting.append(group)
        if not self._watching:
            self._watching = True
            self._loop.call_later(_TOO_LATE, self._watch)
        try:
            self._pgconn.pipeline_sync()
            if not self._writing and self._pgconn.flush():
                self._writing = True
                self._loop.add_writer(self._socket, self._writable)
        except psycopg.Error as error:
            self._lose(error)

    def _look(self) -> None:
        if self._waiting and not self.lost:
            self._readable()
        self._looking = bool(self._waiting) and time.perf_counter() < self._looking_until
        if self._looking:
            self._loop.call_soon(self._look)
        elif self._waiting:
            self._patience.in_vain()
        else:
            self._patience.paid()

    def _watch(self) -> None:
        """Who holds up others that wait already is for the pool too, though nobody new wants to send."""
        self._watching = False
        if not self._waiting or self.lost:
            return
        if self._lateness(time.perf_counter()) > _TOO_LATE:
            self._readable()
        if self._waiting and not self.lost:
            now, first = time.perf_counter(), self._waiting[0]
            if self._lateness(now) > _TOO_LATE and len(self._waiting) + len(first.members) > 2:
                first.blame(now)
            self._watching = True
            self._loop.call_later(_TOO_LATE / 2, self._watch)

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
        pgconn, waiting, now = self._pgconn, self._waiting, time.perf_counter()
        while waiting and not pgconn.is_busy():
            answer = pgconn.get_result()
            if answer is None:
                if pgconn.status != ConnStatus.OK:
                    return
            elif answer.status == ExecStatus.PIPELINE_SYNC:
                group = waiting.popleft()
                took = now - max(group.since, self._answered_at)
                if group.since >= self._answered_at:
                    self._way = min(self._way, took)
                self._answered_at = now
                fault = group.complete(now, took)
                if fault is not None and (fault.error_field(DiagnosticField.SQLSTATE) or b"").decode() in GONE:
                    self._statements.forget()
            else:
                waiting[0].answers.append(answer)

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
            # A server that says farewell does nothing afterwards; of one that falls silent nothing is known.
            self._waiting.popleft().fail(
                lambda: error_from_result(words) if words else psycopg.OperationalError(str(error))
            )
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
        """Connect the first; the others follow when it is busy. Where it fails, the pool serves meanwhile."""
        await self._connect_lanes(self._lanes[:1])

    async def _connect_lanes(self, lanes: Sequence[Lane | None]) -> None:
        for place, lane in enumerate(lanes):
            if lane is None or lane.lost:
                connection = await self._connect()
                if connection is None:
                    return
                if self._closed:
                    await connection.close()
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
        elif now < pace.until:
            raise Unsuitable
        lane = self._choose(now)
        try:
            sent = lane.send(statement, values, pace) or await self._prepared(lane, statement, values, pace)
            answer = await sent.done
        except QueryCanceled:
            pace.stay_away(time.perf_counter())
            raise Unsuitable from None
        except psycopg.Error as error:
            if error.sqlstate in GONE:
                raise Unsuitable from None
            raise
        return sent.prepared.result(statement, answer, codec)

    async def _prepared(self, lane: Lane, statement: Statement[Any], values: Sequence[Any], pace: Pace) -> Sent:
        await lane.prepare(statement)
        if sent := lane.send(statement, values, pace):
            return sent
        raise Unsuitable  # somebody has made the lane forget it meanwhile

    def _choose(self, now: float) -> Lane:
        best: Lane | None = None
        least = (True, 0)
        for lane in self._lanes:
            load = None if lane is None else lane.load(now)
            if lane is None or load is None:
                self._mend(now)
                continue
            if load == _IDLE:
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
        self._mending = asyncio.get_running_loop().create_task(self._connect_lanes(self._lanes))
