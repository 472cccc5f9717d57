"""Waiting until a connection has something to say: the only part of the compiled path that differs between the faces.

Most answers of a near server are there after some 20 microseconds, while putting a thread to sleep and waking it takes
longer than that on many machines. So both faces look for a moment before they sleep, and soon stop looking where that
does not pay (a far server, a slow statement).
"""

from __future__ import annotations

import asyncio
import os
import select
import time
from collections.abc import Callable

import psycopg
from psycopg.pq.abc import PGconn

#: How long to look before sleeping, in seconds, and for how many waits at most not to look after it was in vain.
_LOOK = 300e-6
_REST = 1024
_LATE = "the server did not answer in time"
#: Whether looking leaves a processor for a server on the same machine.
_SPARE_PROCESSOR = (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1) > 1
#: Let another process run; not every system has it.
_give_way: Callable[[], object] = getattr(os, "sched_yield", lambda: None)


class Patience:
    """Whether to look before sleeping: as long as it pays; each time in vain doubles the rest before the next try."""

    __slots__ = ("_left", "_rest")

    def __init__(self) -> None:
        self._left = 0 if _SPARE_PROCESSOR else -1
        self._rest = 1

    def until(self) -> float:
        """The moment (`time.perf_counter`) until which to look; 0 for not at all."""
        if self._left == 0:
            return time.perf_counter() + _LOOK
        if self._left > 0:
            self._left -= 1
        return 0.0

    def paid(self) -> None:
        """The answer came while looking."""
        self._rest = 1

    def in_vain(self) -> None:
        """It did not."""
        self._left = self._rest
        self._rest = min(2 * self._rest, _REST)


#: Who waits on a wire in this process. Who is alone looks, which keeps both sides awake; several would keep each other
#: from working.
_waiting: set[object] = set()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_waiting.clear)


class Readiness:
    """Waits for one connection; blocks the thread."""

    def __init__(self, pgconn: PGconn) -> None:
        self._socket = pgconn.socket
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)
        self._patience = Patience()

    def to_read(self, timeout: float | None = None) -> None:
        """Until something can be read. Raises psycopg's `OperationalError` after `timeout` seconds."""
        _waiting.add(self)
        try:
            if not self._seen() and not self._poll.poll(None if timeout is None else timeout * 1000):
                raise psycopg.OperationalError(_LATE)
        finally:
            _waiting.discard(self)

    def _seen(self) -> bool:
        """Whether there was something to read within the moment that one looks for it."""
        if len(_waiting) == 1 and (until := self._patience.until()):
            while time.perf_counter() < until:
                if self._poll.poll(0):
                    self._patience.paid()
                    return True
                if len(_waiting) > 1:
                    return False
                _give_way()  # the server may want this very processor
            self._patience.in_vain()
        return False

    def to_write(self, timeout: float | None = None) -> None:
        """Until something can be written or read. Raises as `to_read`."""
        both = select.poll()
        both.register(self._socket, select.POLLIN | select.POLLOUT)
        if not both.poll(None if timeout is None else timeout * 1000):
            raise psycopg.OperationalError(_LATE)


class AsyncReadiness:
    """Waits for one connection; other tasks run meanwhile."""

    def __init__(self, pgconn: PGconn) -> None:
        self._socket = pgconn.socket
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)
        self._patience = Patience()

    async def to_read(self, timeout: float | None = None) -> None:
        """Until something can be read. Raises psycopg's `OperationalError` after `timeout` seconds."""
        _waiting.add(self)
        try:
            if not await self._seen():
                await self._sleep(timeout)
        finally:
            _waiting.discard(self)

    async def _seen(self) -> bool:
        """Whether there was something to read within the moment that one looks for it, while other tasks run."""
        if len(_waiting) == 1 and (until := self._patience.until()):
            while time.perf_counter() < until:
                if self._poll.poll(0):
                    self._patience.paid()
                    return True
                if len(_waiting) > 1:
                    return False
                await asyncio.sleep(0)
            self._patience.in_vain()
        return False

    async def _sleep(self, timeout: float | None) -> None:
        loop = asyncio.get_running_loop()
        woken = loop.create_future()
        loop.add_reader(self._socket, _wake, woken)
        try:
            await _within(timeout, woken)
        finally:
            loop.remove_reader(self._socket)

    async def to_write(self, timeout: float | None = None) -> None:
        """Until something can be written or read. Raises as `to_read`."""
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
