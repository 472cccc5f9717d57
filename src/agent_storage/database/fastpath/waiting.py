"""Waiting until a connection has something to say: the only part of the fast path that differs between the faces.

Most answers of a near server arrive after some 20 microseconds, while putting a thread to sleep and waking it takes
longer than that on many machines. So when only one call is waiting, the client polls the socket for a moment before it
blocks (the setting `spin`). Each miss doubles the number of calls that skip polling.
"""

from __future__ import annotations

import asyncio
import os
import select
import time
from collections.abc import Callable

import psycopg
from psycopg.pq.abc import PGconn

#: How many waits skip polling at most after a miss.
_MOST_SKIPPED = 1024
_LATE = "the server did not answer in time"
#: Whether polling leaves a processor for a server on the same machine.
_SPARE_PROCESSOR = (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1) > 1
#: Let another process run; not every system has it.
_yield_processor: Callable[[], object] = getattr(os, "sched_yield", lambda: None)


class AdaptiveSpin:
    """Decides whether a wait polls first: as long as that pays."""

    __slots__ = ("_seconds", "_skip", "_skips")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds if _SPARE_PROCESSOR else 0.0
        self._skips = 0
        self._skip = 1

    def until(self) -> float:
        """The moment (`time.perf_counter`) until which to poll; 0 for not at all."""
        if not self._seconds:
            return 0.0
        if self._skips:
            self._skips -= 1
            return 0.0
        return time.perf_counter() + self._seconds

    def hit(self) -> None:
        """The answer came while polling."""
        self._skip = 1

    def miss(self) -> None:
        """It did not."""
        self._skips = self._skip
        self._skip = min(2 * self._skip, _MOST_SKIPPED)


#: The connections that calls of this process wait for. Several pollers would keep each other from working.
_waiting: set[object] = set()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_waiting.clear)


class Waiter:
    """Waits for one connection; blocks the thread."""

    def __init__(self, pgconn: PGconn, spin: float) -> None:
        self._socket = pgconn.socket
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)
        self._spin = AdaptiveSpin(spin)

    def to_read(self, timeout: float | None = None) -> None:
        """Wait until something can be read. Raises psycopg's `OperationalError` after `timeout` seconds."""
        _waiting.add(self)
        try:
            if not self._polled() and not self._poll.poll(None if timeout is None else timeout * 1000):
                raise psycopg.OperationalError(_LATE)
        finally:
            _waiting.discard(self)

    def _polled(self) -> bool:
        """Poll for a moment; whether there is something to read."""
        if len(_waiting) == 1 and (until := self._spin.until()):
            while time.perf_counter() < until:
                if self._poll.poll(0):
                    self._spin.hit()
                    return True
                if len(_waiting) > 1:
                    return False
                _yield_processor()  # the server may want this very processor
            self._spin.miss()
        return False

    def to_write(self, timeout: float | None = None) -> None:
        """Wait until something can be written or read. Raises as `to_read`."""
        both = select.poll()
        both.register(self._socket, select.POLLIN | select.POLLOUT)
        if not both.poll(None if timeout is None else timeout * 1000):
            raise psycopg.OperationalError(_LATE)


class AsyncWaiter:
    """Waits for one connection; other tasks run meanwhile."""

    def __init__(self, pgconn: PGconn, spin: float) -> None:
        self._socket = pgconn.socket
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)
        self._spin = AdaptiveSpin(spin)

    async def to_read(self, timeout: float | None = None) -> None:
        """Wait until something can be read. Raises psycopg's `OperationalError` after `timeout` seconds."""
        _waiting.add(self)
        try:
            if not await self._polled():
                await self._sleep(timeout)
        finally:
            _waiting.discard(self)

    async def _polled(self) -> bool:
        """Poll for a moment, while other tasks run; whether there is something to read."""
        if len(_waiting) == 1 and (until := self._spin.until()):
            while time.perf_counter() < until:
                if self._poll.poll(0):
                    self._spin.hit()
                    return True
                if len(_waiting) > 1:
                    return False
                await asyncio.sleep(0)
            self._spin.miss()
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
