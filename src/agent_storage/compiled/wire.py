"""The compiled path of one connection: prepare once, then encode, send, wait, read."""

from __future__ import annotations

import logging
from collections.abc import Sequence
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
                self._pgconn.pipeline_sync()
                answers = (await self._answers(syncs=1))[1 if begin else 0 :]
                self._pgconn.exit_pipeline_mode()
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

    async def _prepare(self, statement: Statement[Any]) -> Prepared:
        if self._statements.full or self._pgconn.pipeline_status != PipelineStatus.OFF:
            raise Unsuitable
        name = self._statements.new_name()
        self._pgconn.enter_pipeline_mode()
        ask(self._pgconn, name, statement)
        self._pgconn.pipeline_sync()
        answers = await self._answers(syncs=1)
        self._pgconn.exit_pipeline_mode()
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

    async def _abandon(self, syncs: int) -> None:
        """Cancel what runs and read to the end; a connection on which that fails is closed."""
        try:
            await self._connection.cancel_safe(timeout=_CANCEL)
            await self._read(syncs, _CANCEL)
            if syncs:
                self._pgconn.exit_pipeline_mode()
        except BaseException as error:  # whatever it is, the wait was cut short for a reason that is raised next
            logger.warning("a connection is closed: its statement could not be cancelled (%s)", type(error).__name__)
            self._pgconn.finish()


class Wired(psycopg.AsyncConnection[Any]):
    """A connection of our own pools. It has a wire where statements may be prepared."""

    wire: Wire | None = None
