"""Run declared statements on one connection: describe once, then encode, send, wait, load."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterable, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from itertools import count
from typing import Any, TypeVar

import psycopg
from psycopg.pq import ExecStatus, PipelineStatus, TransactionStatus
from psycopg.pq.abc import PGresult

from agent_storage.database.fastpath.faults import Standby, checked, fault_in
from agent_storage.database.fastpath.prepared import Generation, Prepared, PreparedStatements
from agent_storage.database.fastpath.replies import Replies
from agent_storage.database.forks import ProcessHome
from agent_storage.errors import ConnectionLost, StorageError, translate
from agent_storage.statements.codec import Codec
from agent_storage.statements.statement import Statement

T = TypeVar("T")
#: Raises where the caller may not use the connection any more. It is called under the connection's lock.
Check = Callable[[], None]

logger = logging.getLogger("agent_storage")

#: How many rows of a stream are made at a time: so few that they are gone before the garbage collector looks at them.
_CHUNK = 50
#: How many rows a cursor inside a transaction fetches at a time: each time costs a round trip.
_FETCH = 500


def _anybody() -> None:
    pass


class Executor:
    """Runs statements on one connection, one at a time, in the order in which they take its lock.

    Every method raises the package's errors: `StaleStatement` for a prepared statement that is to be prepared again,
    `InvalidValue` for a value that cannot be sent, `Unreadable` for a row that cannot be made, and what `translate`
    makes of psycopg's.
    """

    def __init__(
        self,
        connection: psycopg.AsyncConnection[Any],
        codec: Codec,
        generation: Generation,
        *,
        keep: bool,
        spin: float,
        deadline: float | None,
    ) -> None:
        self.connection = connection
        self.codec = codec
        self._pgconn = connection.pgconn
        self._lock = connection.lock
        self._home = ProcessHome()
        self._statements = PreparedStatements(connection, generation, keep=keep)
        self._replies = Replies(connection, spin, deadline)
        self._standby = Standby(connection)
        self._cursors = count(1)
        self._stream: object | None = None

    def _turn(self) -> asyncio.Lock:
        """Return the connection's lock. Raises `StorageError` in a forked process, where it may be held for ever."""
        self._home.check()
        return self._lock

    def _ready(self, check: Check) -> None:
        """Raise unless the connection can take a statement of this caller."""
        check()
        if self._stream is not None:
            raise StorageError("a stream is open on this connection: leave its block first")
        if self.connection.closed:
            raise ConnectionLost("the connection to PostgreSQL is closed; nothing was sent")
        if self._pgconn.pipeline_status != PipelineStatus.OFF:
            raise StorageError("the connection is in pipeline mode: leave its pipeline(), or use storage.batch()")

    async def run(self, statement: Statement[T], values: Sequence[Any], check: Check = _anybody) -> T:
        """Return the statement's result. One round trip, and one more when this connection has not prepared it yet."""
        async with self._turn():
            self._ready(check)
            prepared = self._statements.get(statement) or (await self._prepare([statement]))[0]
            parameters = prepared.encode(statement, values)
            idle = self._idle
            try:
                prepared.send(self._pgconn, parameters)
                answer = checked(await self._replies.all())
            except psycopg.Error as error:
                raise self._statements.fault(error, statement, prepared, commits=idle) from error
            if self._standby.skipped:
                raise self._standby.fault(statement.name)
            return prepared.result(statement, answer, values, self.codec, kept=idle and not statement.repeatable)

    @property
    def _idle(self) -> bool:
        """Return whether no transaction is open, so that a statement commits by itself."""
        return self._pgconn.transaction_status == TransactionStatus.IDLE

    @contextmanager
    def _using(self, statement: Statement[Any], prepared: Prepared) -> Generator[None]:
        """Raise the package's errors for psycopg's, inside a transaction."""
        try:
            yield
        except psycopg.Error as error:
            raise self._statements.fault(error, statement, prepared) from error

    @asynccontextmanager
    async def _whole(self, name: str, *, begun: bool) -> AsyncGenerator[None]:
        """COMMIT at the end of the block, or ROLLBACK, when it has `begun` a transaction."""
        try:
            yield
        except BaseException:
            if begun:
                await self._undo(b"ROLLBACK", name)
            raise
        if begun:
            await self._told(b"COMMIT", name)

    async def run_all(
        self, asked: Sequence[tuple[Statement[Any], Sequence[Any]]], check: Check = _anybody
    ) -> list[Any]:
        """Return the results of several statements. One round trip, and one more for those that are not prepared yet.

        Outside a transaction they are atomic. When a result may raise an error, COMMIT takes one more round trip, and
        the first error is raised. Otherwise a `StorageError` takes the place of a result that cannot be made. When the
        replies were lost, the error names the first statement that may have written.
        """
        async with self._turn():
            self._ready(check)
            prepared = await self._prepare([statement for statement, _ in asked])
            parameters = [one.encode(*given) for one, given in zip(prepared, asked, strict=True)]
            idle = self._idle
            begin = idle and not all(statement.certain for statement, _ in asked)
            commits = idle and not begin
            results: list[Any] = []
            async with self._whole("batch", begun=begin):
                try:
                    self._pgconn.enter_pipeline_mode()
                    if begin:
                        self._pgconn.send_query_params(b"BEGIN", None)
                    for one, given in zip(prepared, parameters, strict=True):
                        one.send(self._pgconn, given)
                    answers = await self._replies.end_pipeline()
                    if begin:
                        checked(answers[:1])
                        del answers[0]
                except psycopg.Error as error:
                    statement = next((one for one, _ in asked if not one.repeatable), asked[0][0])
                    raise self._statements.fault(error, statement, None, commits=commits) from error
                if fault := fault_in(answers, len(asked)):
                    place = min(fault[0], len(asked) - 1)  # the commit comes last, and may fail too
                    raise self._statements.fault(
                        fault[1], asked[place][0], prepared[place], commits=commits
                    ) from fault[1]
                if self._standby.skipped:
                    raise self._standby.fault("batch")
                for one, answer, (statement, values) in zip(prepared, answers, asked, strict=False):
                    try:
                        results.append(one.result(statement, answer, values, self.codec, kept=commits))
                    except StorageError as error:
                        if begin:
                            raise
                        results.append(error)
            return results

    async def run_chunks(
        self, statement: Statement[list[T]], chunks: Iterable[Sequence[Any]], check: Check = _anybody
    ) -> list[T]:
        """Return the combined results of a statement for all chunks. Outside a transaction they are one.

        Two chunks are under way at a time: while the server works on one, this process loads what came of the one
        before and encodes the next. An error of the server aborts the transaction, any other undoes the chunks.
        """
        made: list[T] = []
        mark = b"agent_storage_chunks"
        async with self._turn():
            self._ready(check)
            (prepared,) = await self._prepare([statement])
            begin = self._idle
            under_way: list[Sequence[Any]] = [()]
            async with self._whole(statement.name, begun=begin):
                self._pgconn.enter_pipeline_mode()
                try:
                    with self._using(statement, prepared):
                        self._pgconn.send_query_params(b"BEGIN" if begin else b"SAVEPOINT " + mark, None)
                        for values in chunks:
                            prepared.send(self._pgconn, prepared.encode(statement, values))
                            self._pgconn.send_flush_request()
                            self._pgconn.flush()
                            under_way.append(values)
                            while len(under_way) > 2:
                                await self._take(statement, prepared, under_way, made)
                        while under_way:
                            await self._take(statement, prepared, under_way, made)
                except BaseException as error:
                    with suppress(psycopg.Error):  # the first error says more than that the connection is gone, too
                        if isinstance(error, StorageError):
                            # After a chunk that the server has refused, it skips the others.
                            await self._replies.end_pipeline()
                        else:
                            await self._replies.abandon(1, ended=False)
                        if not begin and self._pgconn.transaction_status == TransactionStatus.INTRANS:
                            await self._replies.command(b"ROLLBACK TO " + mark)
                    raise
                with self._using(statement, prepared):
                    if not begin:
                        self._pgconn.send_query_params(b"RELEASE " + mark, None)
                    checked(await self._replies.end_pipeline())
        return made

    async def _take(
        self, statement: Statement[list[Any]], prepared: Prepared, under_way: list[Sequence[Any]], made: list[Any]
    ) -> None:
        """Read what came of the oldest that is under way. No values are those of what begins the chunks."""
        answer = checked(await self._replies.read(0, self._replies.deadline))
        if values := under_way.pop(0):
            made += prepared.result(statement, answer, values, self.codec, kept=False)

    @asynccontextmanager
    async def stream(self, statement: Statement[Any], values: Sequence[Any]) -> AsyncGenerator[AsyncIterator[Any]]:
        """Stream the statement's rows as libpq gets them, a few at a time.

        Leaving the block early cancels the statement. Any other statement on this connection is refused while the
        block is open.
        """
        async with self._turn():
            self._ready(_anybody)
            (prepared,) = await self._prepare([statement])
            parameters = prepared.encode(statement, values)
            self._stream = stream = object()
        try:
            async with self._turn():
                with self._using(statement, prepared):
                    prepared.send(self._pgconn, parameters)
                    self._pgconn.set_chunked_rows_mode(_CHUNK)
                    first = await self._next_chunk()
            yield self._chunks(stream, statement, prepared, first)
        finally:
            if not self._home.forked:
                async with self._turn():
                    self._stream = None
                    if self._pgconn.transaction_status == TransactionStatus.ACTIVE:
                        await self._replies.abandon(0)

    async def _chunks(
        self, stream: object, statement: Statement[Any], prepared: Prepared, answer: PGresult | None
    ) -> AsyncGenerator[Any]:
        while answer is not None:
            for row in prepared.made(statement, answer, self.codec):
                yield row
            async with self._turn():
                if self._stream is not stream:
                    raise StorageError("the block of this stream has ended")
                with self._using(statement, prepared):
                    answer = await self._next_chunk()

    async def _next_chunk(self) -> PGresult | None:
        """The next rows; None after the last. Raises psycopg's errors when the statement has ended with one."""
        answer = await self._replies.next()
        if answer is None or answer.status == ExecStatus.TUPLES_CHUNK:
            return answer
        checked([answer, *await self._replies.all()])
        return answer if answer.ntuples else None

    @asynccontextmanager
    async def cursor(
        self, statement: Statement[Any], values: Sequence[Any], check: Check = _anybody
    ) -> AsyncGenerator[AsyncIterator[Any]]:
        """Stream the statement's rows inside a transaction, through a server-side cursor.

        Other statements can run between two rows. Leaving the block early does not abort the transaction.
        """
        name = b"agent_storage_cursor_%d" % next(self._cursors)
        async with self._turn():
            self._ready(check)
            (prepared,) = await self._prepare([statement])
            with self._using(statement, prepared):
                prepared.declare(self._pgconn, name, prepared.encode(statement, values))
                checked(await self._replies.all())
        ended = False

        def check_open() -> None:
            check()
            if ended:
                raise StorageError("the block of this stream has ended")

        try:
            yield self._fetched(statement, prepared, name, check_open)
        finally:
            ended = True
            # An error says that the transaction has ended; if it has not, its next statement says so.
            with suppress(StorageError, psycopg.Error):
                async with self._turn():
                    check()
                    if self._pgconn.transaction_status == TransactionStatus.INTRANS:
                        await self._replies.command(b"CLOSE " + name)

    async def _fetched(
        self, statement: Statement[Any], prepared: Prepared, cursor: bytes, check: Check
    ) -> AsyncGenerator[Any]:
        more = True
        while more:
            async with self._turn():
                self._ready(check)
                with self._using(statement, prepared):
                    prepared.fetch(self._pgconn, cursor, _FETCH)
                    answer = checked(await self._replies.all())
                rows = prepared.made(statement, answer, self.codec)
            more = len(rows) == _FETCH
            for row in rows:
                yield row

    async def command(self, text: bytes, check: Check = _anybody, *, name: str) -> None:
        """Run one or more commands that take no parameters and give no rows, such as COMMIT; `name` is for errors."""
        async with self._turn():
            self._ready(check)
            await self._told(text, name)

    async def undo(self, text: bytes, *, name: str) -> None:
        """Roll back with `text` if a transaction is open. An error is only logged: the pool closes that connection.

        A forked process leaves the transaction to its parent.
        """
        if not self._home.forked:
            async with self._turn():  # a statement that is under way ends first
                await self._undo(text, name)

    async def _undo(self, text: bytes, name: str) -> None:
        if self._pgconn.transaction_status in (TransactionStatus.INTRANS, TransactionStatus.INERROR):
            try:
                await self._told(text, name)
            except StorageError as error:
                logger.warning("%s could not be rolled back: %s", name, error)

    async def _told(self, text: bytes, name: str) -> None:
        try:
            await self._replies.command(text)
        except psycopg.Error as error:
            raise translate(error, statement=name, committing=text == b"COMMIT") from error
        if self._standby.skipped:
            raise self._standby.fault(name)

    async def _prepare(self, statements: Sequence[Statement[Any]]) -> list[Prepared]:
        """Each as this connection knows it. Those that it does not know are prepared together, in one round trip."""
        found = {one.query: self._statements.get(one) for one in statements}
        missing = list({one.query: one for one in statements if found[one.query] is None}.values())
        if missing:
            try:
                self._pgconn.enter_pipeline_mode()
                skip = self._statements.close()
                names = [self._statements.ask(one) for one in missing]
                answers = (await self._replies.end_pipeline())[skip:]
            except psycopg.Error as error:
                raise self._statements.fault(error, missing[0], None) from error
            fault = fault_in(answers)
            done = len(missing) if fault is None else fault[0] // 2
            for place, one in enumerate(missing[:done]):
                found[one.query] = self._statements.add(one, names[place], answers[2 * place + 1])
            if fault is not None:
                raise self._statements.fault(fault[1], missing[min(done, len(missing) - 1)], None) from fault[1]
        return [prepared for one in statements if (prepared := found[one.query]) is not None]
