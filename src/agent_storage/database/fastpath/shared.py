"""One connection in libpq's pipeline mode, on which the statements of many tasks travel."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import psycopg
from psycopg.pq import ConnStatus, DiagnosticField, ExecStatus
from psycopg.pq.abc import PGresult

from agent_storage.database.connections import is_dead
from agent_storage.database.fastpath.faults import Standby, fault_in
from agent_storage.database.fastpath.prepared import Generation, Prepared, PreparedStatements
from agent_storage.database.fastpath.waiting import Poll
from agent_storage.errors import StorageError
from agent_storage.statements.statement import Statement

logger = logging.getLogger("agent_storage")


class NotShared(Exception):
    """A connection of the pool has to run the statement; nothing of it was done, or all of it was undone."""


class Call:
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


class Description:
    """A statement that is being prepared and described. Meanwhile its calls go to the pool."""

    __slots__ = ("answers", "name", "skip", "statement")

    def __init__(self, statement: Statement[Any], name: bytes, skip: int) -> None:
        self.statement = statement
        self.name = name
        self.skip = skip
        self.answers: list[PGresult] = []


class SharedConnection:
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
        self._standby = Standby(connection)
        self._describing: set[bytes] = set()
        self._writing = False
        self._pump = pump
        self.under_way: deque[Call | Description] = deque()
        self.answered_at = 0.0
        self.lost = False
        self._oldest: Call | Description | None = None
        self._watched = 0
        self._pgconn.enter_pipeline_mode()
        self._socket = self._pgconn.socket
        self._poll = Poll(self._pgconn, spin)
        self._loop.add_reader(self._socket, self._readable)

    def send(self, call: Call) -> None:
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
                self._end(Description(statement, self._statements.ask(statement), skip))
            call.fail(NotShared())
        except StorageError as error:
            call.fail(error)
        except psycopg.Error as error:
            self.lose(error)
            call.fail(NotShared())  # without its Sync, whatever has left is undone

    def _end(self, entry: Call | Description) -> None:
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
        """Close the connection if the server has closed it while it was idle."""
        if not self.lost and is_dead(self._pgconn):
            self.lose(psycopg.OperationalError("the server closed the idle connection"))

    def watch(self, patience: int) -> None:
        """Close the connection if the oldest call is the same as `patience` times before."""
        oldest = self.under_way[0] if self.under_way else None
        self._watched = self._watched + 1 if oldest is self._oldest is not None else 0
        self._oldest = oldest
        if self._watched >= patience:
            self.lose(psycopg.OperationalError("the server did not answer in time"))

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
                if isinstance(entry, Call):
                    self._answer(entry)
                else:
                    self._described(entry)
            else:
                under_way[0].answers.append(answer)
        self.answered_at = time.perf_counter()

    def _answer(self, call: Call) -> None:
        call.answered = True
        if fault := fault_in(call.answers):
            self._refuse(call, fault[1])
        elif self._standby.skipped:
            call.fail(self._standby.fault(call.statement.name))
        elif not call.done.done():
            call.done.set_result(call.answers[-1])

    def _refuse(self, call: Call, error: psycopg.Error) -> None:
        fault = self._statements.fault(error, call.statement, call.prepared, commits=True)
        fault.__cause__ = error
        call.fail(fault)

    def _described(self, entry: Description) -> None:
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
            if isinstance(entry, Description):
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
