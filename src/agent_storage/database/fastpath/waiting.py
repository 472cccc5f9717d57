"""Waiting until a connection has something to say: the only part of the fast path that differs between the faces.

psycopg's own waits register and unregister the socket with a selector, or with the event loop, at each call; these do
the least that is needed. Both raise psycopg's `ConnectionTimeout` after `timeout` seconds.
"""

from __future__ import annotations

import asyncio
import os
import select
import time

import psycopg
from psycopg.pq.abc import PGconn

_LATE = "the server did not answer in time"


#: The calls of this process that wait for an answer.
waiting: set[object] = set()


class Poll:
    """The socket of one connection, and whether it can be read."""

    def __init__(self, pgconn: PGconn, spin: float) -> None:
        self._socket = pgconn.socket
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)
        self._spin = spin

    def soon(self) -> bool:
        """Return whether the socket can be read now, or within `spin` seconds.

        Many replies arrive before a blocked thread would be woken. Other processes that need the core run meanwhile.
        """
        ready = self._poll.poll
        end = time.perf_counter() + self._spin
        while not ready(0):
            if time.perf_counter() > end:
                return False
            os.sched_yield()
        return True


class Waiter(Poll):
    """Waits for one connection; blocks the thread."""

    def wait(self, timeout: float | None = None, *, write: bool = False) -> None:
        """Wait until something can be read, or else written."""
        waiting.add(self)
        try:
            if len(waiting) == 1 and not write and self.soon():
                return
            poll = self._poll
            if write:
                poll = select.poll()
                poll.register(self._socket, select.POLLIN | select.POLLOUT)
            if not poll.poll(None if timeout is None else timeout * 1000):
                raise psycopg.errors.ConnectionTimeout(_LATE)
        finally:
            waiting.discard(self)


class AsyncWaiter(Poll):
    """Waits for one connection; other tasks run meanwhile."""

    async def wait(self, timeout: float | None = None, *, write: bool = False) -> None:
        """Wait until something can be read, or else written."""
        if self._poll.poll(0):  # the rows of a stream often are there already
            return
        waiting.add(self)
        loop = asyncio.get_running_loop()
        woken = loop.create_future()
        late: asyncio.TimerHandle | None = None
        try:
            await asyncio.sleep(0)  # whatever else is ready begins to wait, too
            if len(waiting) == 1 and not write and self.soon():
                return
            loop.add_reader(self._socket, _wake, woken)
            if write:
                loop.add_writer(self._socket, _wake, woken)
            late = loop.call_later(timeout, _end_wait, woken) if timeout is not None else None
            await woken
        finally:
            if late is not None:
                late.cancel()
            waiting.discard(self)
            loop.remove_reader(self._socket)
            if write:
                loop.remove_writer(self._socket)


def _wake(woken: asyncio.Future[None]) -> None:
    if not woken.done():
        woken.set_result(None)


def _end_wait(woken: asyncio.Future[None]) -> None:
    if not woken.done():
        woken.set_exception(psycopg.errors.ConnectionTimeout(_LATE))
