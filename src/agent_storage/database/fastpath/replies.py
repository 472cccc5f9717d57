"""Read the server's replies; cancel the statement when the wait for them is cut short."""

from __future__ import annotations

import logging
from typing import Any

import psycopg
from psycopg.pq import ConnStatus, DiagnosticField, ExecStatus
from psycopg.pq.abc import PGresult

from agent_storage.database.calls import uncut
from agent_storage.database.fastpath.faults import checked
from agent_storage.database.fastpath.waiting import AsyncWaiter

logger = logging.getLogger("agent_storage")

#: How long the server may take to confirm that an abandoned statement is cancelled, in seconds.
_CANCEL = 5.0


class Replies:
    """The replies that one connection receives."""

    def __init__(self, connection: psycopg.AsyncConnection[Any], spin: float, deadline: float | None) -> None:
        self._connection = connection
        #: How long the server may stay silent, in seconds. Its own time limit ends a statement before.
        self.deadline = deadline
        self._pgconn = connection.pgconn
        self._waiter = AsyncWaiter(connection.pgconn, spin)

    async def command(self, text: bytes) -> None:
        """Run a command that takes no parameters, and wait for its end. Raises psycopg's errors."""
        self._pgconn.send_query(text)
        checked(await self.all())

    async def end_pipeline(self) -> list[PGresult]:
        """Send a Sync, return the replies up to it, and leave pipeline mode."""
        self._pgconn.pipeline_sync()
        answers = await self.all(syncs=1)
        self._pgconn.exit_pipeline_mode()
        return answers

    async def all(self, syncs: int = 0) -> list[PGresult]:
        """Return all replies: to one statement, or in pipeline mode up to the given number of Syncs.

        When the wait is cut short, the statement is cancelled and the connection made fit for the next, or closed. A
        server that stays silent past the deadline loses the connection.
        """
        try:
            return await self.read(syncs, self.deadline)
        except psycopg.Error:
            raise
        except BaseException:
            await self.abandon(syncs)
            raise

    async def read(self, syncs: int, timeout: float | None = None) -> list[PGresult]:
        """Return the replies as `all` does. A wait that is cut short leaves the statement running."""
        answers: list[PGresult] = []
        while True:
            try:
                answer = await self.next(timeout)
            except psycopg.OperationalError:
                if any(answer.status == ExecStatus.FATAL_ERROR for answer in answers):
                    return answers  # the server's last words say more than that the connection is lost
                raise
            if answer is not None:
                answers.append(answer)
                if answer.status == ExecStatus.PIPELINE_SYNC:
                    syncs -= 1
                    if not syncs:
                        return answers
                elif self._pgconn.status == ConnStatus.BAD:
                    return answers
            elif not syncs:
                return answers

    async def next(self, timeout: float | None = None) -> PGresult | None:
        """Return the next reply as it comes; None when there are no more to a statement."""
        pgconn, waiter = self._pgconn, self._waiter
        try:
            while pgconn.flush():
                await waiter.wait(timeout, write=True)
                pgconn.consume_input()
            while pgconn.is_busy():
                await waiter.wait(timeout)
                pgconn.consume_input()
        except psycopg.errors.ConnectionTimeout:
            pgconn.finish()
            raise
        except psycopg.OperationalError:
            words = pgconn.get_result() if pgconn.status == ConnStatus.BAD else None
            if words is None or words.error_field(DiagnosticField.SQLSTATE) is None:
                raise
            return words
        return pgconn.get_result()

    async def abandon(self, syncs: int, *, ended: bool = True) -> None:
        """Stop the running statement: cancel it and read to its end, after a Sync if not `ended`; if that fails, close.

        Cancelling the task once more does not cut this short: what the server still ran would be done afterwards.
        """
        await uncut(self._cancel(syncs, ended=ended))

    async def _cancel(self, syncs: int, *, ended: bool) -> None:
        try:
            if not ended:
                self._pgconn.pipeline_sync()
            await self._connection.cancel_safe(timeout=_CANCEL)
            await self.read(syncs, _CANCEL)
            if syncs:
                self._pgconn.exit_pipeline_mode()
        except BaseException as error:  # an error is not raised: what cut the wait short says more
            logger.warning("a connection is closed: its statement could not be cancelled (%s)", type(error).__name__)
            self._pgconn.finish()
            if not isinstance(error, Exception):
                raise
