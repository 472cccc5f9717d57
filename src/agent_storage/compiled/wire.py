"""The compiled path of one connection: prepare once, then encode, send, wait, read."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import psycopg
from psycopg.errors import error_from_result
from psycopg.pq import ExecStatus, Format, PipelineStatus
from psycopg.pq.abc import PGresult

from agent_storage.compiled.parameters import Unsuitable
from agent_storage.compiled.prepared import FINE, GONE, Failed, Prepared, PreparedStatements, ask, checked
from agent_storage.compiled.readiness import AsyncReadiness
from agent_storage.connection.rows import Codec
from agent_storage.statement import Statement

T = TypeVar("T")

logger = logging.getLogger("agent_storage")

#: How long the server may take to confirm that an abandoned statement is cancelled, in seconds.
_CANCEL = 5.0
#: How many rows of a stream are made at a time: so few that they are gone before the garbage collector looks at them.
CHUNK = 50
#: How libpq marks a part of the rows; older ones (before 17) cannot, and the cursor has to do it.
CHUNKS = frozenset({ExecStatus.TUPLES_CHUNK} if psycopg.capabilities.has_stream_chunked() else ())


class Wire:
    """Runs declared statements on one connection without a cursor."""

    def __init__(self, connection: psycopg.AsyncConnection[Any]) -> None:
        self._connection = connection
        self._pgconn = connection.pgconn
        self._lock = connection.lock
        self._statements = PreparedStatements(connection)
        self._readiness = AsyncReadiness(connection.pgconn)

    async def run(self, statement: Statement[T], values: Sequence[Any], codec: Codec) -> T:
        """The statement's result; one round trip, and one more when this connection has not prepared it yet.

        Raises `Unsuitable`, before anything of the statement is sent, when a cursor has to do it; psycopg's errors.
        """
        async with self._lock:
            try:
                prepared = self._statements.get(statement.query) or await self._prepare(statement)
                parameters = prepared.encode(values)
                self._pgconn.send_query_prepared(prepared.name, parameters, prepared.formats, Format.BINARY)
                answer = checked(await self._answers())
            except psycopg.Error as error:
                if error.sqlstate in GONE:
                    self._statements.forget()
                raise
            return prepared.result(statement, answer, codec)

    async def run_all(
        self, asked: Sequence[tuple[Statement[Any], Sequence[Any]]], *, begin: bool
    ) -> list[tuple[Prepared, PGresult]]:
        """The answers to several statements in one round trip, and one more for those that are not prepared yet.

        All or nothing: without a transaction they are one, `begin` opens one that stays open. Raises as `run`, and
        `Failed` for the statement that has failed.
        """
        async with self._lock:
            try:
                for statement, _ in asked:
                    if self._statements.get(statement.query) is None:
                        await self._prepare(statement)
                prepared = [self._statements.require(statement) for statement, _ in asked]
                parameters = [one.encode(values) for one, (_, values) in zip(prepared, asked, strict=True)]
                self._pgconn.enter_pipeline_mode()
                if begin:
                    self._pgconn.send_query_params(b"BEGIN", None)
                for one, given in zip(prepared, parameters, strict=True):
                    self._pgconn.send_query_prepared(one.name, given, one.formats, Format.BINARY)
                answers = (await self._end_pipeline())[1 if begin else 0 :]
            except psycopg.Error as error:
                if error.sqlstate in GONE:
                    self._statements.forget()
                raise
            for place, answer in enumerate(answers):
                if answer.status not in FINE:
                    error = error_from_result(answer)
                    if error.sqlstate in GONE:
                        self._statements.forget()
                    raise Failed(min(place, len(asked) - 1), error)  # the commit comes last, and may fail too
            return list(zip(prepared, answers[:-1], strict=True))

    async def run_parts(self, statement: Statement[list[T]], parts: Iterable[Sequence[Any]], codec: Codec) -> list[T]:
        """What a statement gives for each part's values, together; to be run in a transaction, which an error ends.

        Two parts are under way at a time: while the server works on one, this process reads what came of the part
        before it and encodes the one behind. Raises as `run`.
        """
        made: list[T] = []
        async with self._lock:
            prepared = self._statements.get(statement.query) or await self._prepare(statement)
            self._pgconn.enter_pipeline_mode()
            try:
                under_way = 0
                for values in parts:
                    self._pgconn.send_query_prepared(
                        prepared.name, prepared.encode(values), prepared.formats, Format.BINARY
                    )
                    self._pgconn.send_flush_request()
                    self._pgconn.flush()
                    under_way += 1
                    if under_way > 1:
                        made += prepared.result(statement, checked(await self._read(0)), codec)
                        under_way -= 1
                if under_way:
                    made += prepared.result(statement, checked(await self._read(0)), codec)
            except psycopg.Error as error:
                if error.sqlstate in GONE:
                    self._statements.forget()
                with suppress(psycopg.Error):  # the first error says more than that the connection is gone, too
                    await self._end_pipeline()  # the server skips what is left
                raise
            except BaseException as error:
                await self._abandon(1, ended=False)
                if isinstance(error, Unsuitable):  # earlier parts are sent: no cursor can go on from here
                    raise TypeError(f"{statement.name}: the values of a part cannot be sent") from error
                raise
            await self._end_pipeline()
        return made

    async def _end_pipeline(self) -> list[PGresult]:
        self._pgconn.pipeline_sync()
        answers = await self._answers(syncs=1)
        self._pgconn.exit_pipeline_mode()
        return answers

    async def stream(
        self, statement: Statement[Any], values: Sequence[Any], codec: Codec, cancel: Callable[[], bool]
    ) -> AsyncGenerator[list[Any], None]:
        """The rows a few at a time, as libpq gets them; the connection is taken until the iterator ends or is closed.

        When it is closed early, `cancel` says whether the statement is cancelled, or, where that would spoil a
        transaction, its other rows are read and dropped. Raises as `run`.
        """
        async with self._lock:
            prepared = self._statements.get(statement.query) or await self._prepare(statement)
            parameters = prepared.encode(values)
            if not CHUNKS:
                raise Unsuitable
            self._pgconn.send_query_prepared(prepared.name, parameters, prepared.formats, Format.BINARY)
            self._pgconn.set_chunked_rows_mode(CHUNK)
            try:
                while (answer := await self._next()) is not None:
                    if answer.status not in CHUNKS:
                        checked([answer])
                    yield prepared.rows(statement, answer, codec)
            except psycopg.Error as error:
                if error.sqlstate in GONE:
                    self._statements.forget()
                if error.pgresult is None:  # a value that cannot be loaded: the server goes on sending
                    await self._abandon(0)
                else:
                    with suppress(psycopg.Error):
                        await self._answers()
                raise
            except GeneratorExit:
                if cancel():
                    await self._abandon(0)
                else:
                    await self._drop_rows()
                raise
            except BaseException:
                await self._abandon(0)
                raise

    async def _drop_rows(self) -> None:
        try:
            while await self._next() is not None:
                pass
        except psycopg.Error as error:
            logger.warning("a stream that was left early failed while it was read to its end: %s", error)
            # The transaction hears of it at its next statement, or at its end.
        except BaseException:
            await self._abandon(0)
            raise

    async def _next(self) -> PGresult | None:
        """The next answer as it comes; None when there are no more."""
        pgconn = self._pgconn
        while pgconn.flush():
            await self._readiness.to_write()
            pgconn.consume_input()
        while pgconn.is_busy():
            await self._readiness.to_read()
            pgconn.consume_input()
        return pgconn.get_result()

    async def _prepare(self, statement: Statement[Any]) -> Prepared:
        if self._statements.full or self._pgconn.pipeline_status != PipelineStatus.OFF:
            raise Unsuitable
        name = self._statements.new_name()
        self._pgconn.enter_pipeline_mode()
        ask(self._pgconn, name, statement)
        answers = await self._end_pipeline()
        checked(answers)
        return self._statements.add(statement, name, answers[1])

    async def _answers(self, syncs: int = 0) -> list[PGresult]:
        """All that the server answers: to one statement, or in pipeline mode up to the given number of Syncs.

        When the wait is cut short, the statement is cancelled and the connection made fit for the next, or closed.
        """
        try:
            return await self._read(syncs)
        except psycopg.Error:
            raise
        except BaseException:
            await self._abandon(syncs)
            raise

    async def _read(self, syncs: int, timeout: float | None = None) -> list[PGresult]:
        pgconn, readiness = self._pgconn, self._readiness
        while pgconn.flush():
            await readiness.to_write(timeout)
            pgconn.consume_input()
        answers: list[PGresult] = []
        while True:
            while pgconn.is_busy():
                await readiness.to_read(timeout)
                try:
                    pgconn.consume_input()
                except psycopg.OperationalError:
                    if answers and answers[-1].status == ExecStatus.FATAL_ERROR:
                        return answers  # the server's last words say more than the lost connection
                    raise
            answer = pgconn.get_result()
            if answer is not None:
                answers.append(answer)
                if answer.status == ExecStatus.PIPELINE_SYNC:
                    syncs -= 1
                    if not syncs:
                        return answers
            elif not syncs:
                return answers

    async def _abandon(self, syncs: int, *, ended: bool = True) -> None:
        """Cancel what runs and read to the end, behind a Sync if the pipeline has not `ended`; if that fails, close."""
        try:
            if not ended:
                self._pgconn.pipeline_sync()
            await self._connection.cancel_safe(timeout=_CANCEL)
            await self._read(syncs, _CANCEL)
            if syncs:
                self._pgconn.exit_pipeline_mode()
        except BaseException as error:  # an error is not raised: what cut the wait short says more
            logger.warning("a connection is closed: its statement could not be cancelled (%s)", type(error).__name__)
            self._pgconn.finish()
            if not isinstance(error, Exception):
                raise


class Wired(psycopg.AsyncConnection[Any]):
    """A connection of our own pools. It has a wire where statements may be prepared."""

    wire: Wire | None = None
