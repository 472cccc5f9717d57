"""Waiting until a connection has something to say: the only part of the fast path that differs between the faces.

psycopg's own waits register and unregister the socket with a selector, or with the event loop, at each call; these do
the least that is needed.
"""

from __future__ import annotations

import asyncio
import select

import psycopg
from psycopg.pq.abc import PGconn

_LATE = "the server did not answer in time"


class Waiter:
    """Waits for one connection; blocks the thread."""

    def __init__(self, pgconn: PGconn) -> None:
        self._socket = pgconn.socket
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)

    def to_read(self, timeout: float | None = None) -> None:
        """Wait until something can be read. Raises psycopg's `OperationalError` after `timeout` seconds."""
        if not self._poll.poll(None if timeout is None else timeout * 1000):
            raise psycopg.OperationalError(_LATE)

    def to_write(self, timeout: float | None = None) -> None:
        """Wait until something can be written or read. Raises as `to_read`."""
        both = select.poll()
        both.register(self._socket, select.POLLIN | select.POLLOUT)
        if not both.poll(None if timeout is None else timeout * 1000):
            raise psycopg.OperationalError(_LATE)


class AsyncWaiter:
    """Waits for one connection; other tasks run meanwhile."""

    def __init__(self, pgconn: PGconn) -> None:
        self._socket = pgconn.socket

    async def to_read(self, timeout: float | None = None) -> None:
        """Wait until something can be read. Raises psycopg's `OperationalError` after `timeout` seconds."""
        loop = asyncio.get_running_loop()
        woken = loop.create_future()
        loop.add_reader(self._socket, _wake, woken)
        try:
            await _within(timeout, woken)
        finally:
            loop.remove_reader(self._socket)

    async def to_write(self, timeout: float | None = None) -> None:
        """Wait until something can be written or read. Raises as `to_read`."""
        loop = asyncio.get_running_loop()
        woken = loop.create_future()
        loop.add_reader(self._socket, _wake, woken)
        loop.add_writer(self._socket, _wake, woken)
        try:
            await _within(timeout, woken)
        finally:
            loop.remove_reader(self._socket)
            loop.remove_writer(self._socket)


def _wake(woken: asyncio.Future[None]) -> None:
    if not woken.done():
        woken.set_result(None)


async def _within(timeout: float | None, woken: asyncio.Future[None]) -> None:
    if timeout is None:
        await woken
        return
    try:
        await asyncio.wait_for(woken, timeout)
    except TimeoutError:
        raise psycopg.OperationalError(_LATE) from None
