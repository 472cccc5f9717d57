"""Waiting until a connection has something to say: the only part of the fast path that differs between the faces.

psycopg's own waits register and unregister the socket with a selector, or with the event loop, at each call; these do
the least that is needed. Both raise psycopg's `OperationalError` after `timeout` seconds.
"""

from __future__ import annotations

import asyncio
import select

import psycopg
from psycopg.pq.abc import PGconn

_LATE = "the server did not answer in time"


class _Waiter:
    def __init__(self, pgconn: PGconn) -> None:
        self._socket = pgconn.socket
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)


class Waiter(_Waiter):
    """Waits for one connection; blocks the thread."""

    def wait(self, timeout: float | None = None, *, write: bool = False) -> None:
        """Wait until something can be read, or else written."""
        poll = self._poll
        if write:
            poll = select.poll()
            poll.register(self._socket, select.POLLIN | select.POLLOUT)
        if not poll.poll(None if timeout is None else timeout * 1000):
            raise psycopg.OperationalError(_LATE)


class AsyncWaiter(_Waiter):
    """Waits for one connection; other tasks run meanwhile."""

    async def wait(self, timeout: float | None = None, *, write: bool = False) -> None:
        """Wait until something can be read, or else written."""
        if self._poll.poll(0):  # the rows of a stream often are there already
            return
        loop = asyncio.get_running_loop()
        woken = loop.create_future()
        loop.add_reader(self._socket, _wake, woken)
        if write:
            loop.add_writer(self._socket, _wake, woken)
        try:
            await (woken if timeout is None else asyncio.wait_for(woken, timeout))
        except TimeoutError:
            raise psycopg.OperationalError(_LATE) from None
        finally:
            loop.remove_reader(self._socket)
            if write:
                loop.remove_writer(self._socket)


def _wake(woken: asyncio.Future[None]) -> None:
    if not woken.done():
        woken.set_result(None)
