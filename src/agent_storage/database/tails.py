"""The reads of one stream that its followers in this process share. One class for each face.

Followers at the same position wait for one read and get the same rows. A follower at another position reads by itself,
and never waits for the others. A read that began before a follower came is not for that follower: it may contain rows
that were deleted before. For the same reason no read is shared from the position before a stream that does not exist.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable, Generator, Hashable
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, Self, TypeVar
from uuid import UUID

from agent_storage.database.listener import AsyncSignal, Listener, Signal
from agent_storage.statements.lists import Found

R = TypeVar("R")

#: How many rows of past reads are kept for followers that are a little slower.
_KEPT = 1000


@dataclass(frozen=True)
class Position:
    """A place in a stream: after the event `after` of the stream whose row has the id `generation`."""

    generation: UUID | None
    after: int


@dataclass(frozen=True)
class Part(Generic[R]):
    """The events that follow a position. It is another than the requested one if the stream is another one by now."""

    position: Position
    events: Found[R]
    #: The number of the read, and the version of the stream when it began.
    number: int = 0
    version: int = 0


class _Tail(Generic[R]):
    """The part that both faces have: the followers, the version of the stream, the reads that are kept."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._followers = 0
        self._reads = 0
        self._kept: dict[Position, Part[R]] = {}
        self._rows = 0
        #: How many times the stream was reported to have changed, and new notifications to be received.
        self.version: int = 0

    @classmethod
    @contextmanager
    def joined(cls, signal: Signal | AsyncSignal, kind: Hashable) -> Generator[tuple[Self, int]]:
        """Yield the tail of the signal's stream, as rows of one kind, and the number of the first read to be shared.

        The first follower makes it and subscribes to the stream, the last one ends it.
        """
        listener, (channel, stream) = signal.listener, signal.keys[0]
        tails: dict[Hashable, Any] = listener.tails
        with listener.joining:
            tail: Self | None = tails.get((kind, channel, stream))
            if tail is None or listener.failure is not None:  # its subscription has ended
                tail = tails[kind, channel, stream] = cls(listener)
                listener.subscribe(channel, stream, tail.wake)
            tail._followers += 1
        try:
            yield tail, tail._reads + 1
        finally:
            with listener.joining:
                tail._followers -= 1
                if not tail._followers:
                    listener.unsubscribe(channel, stream, tail.wake)
                    if tails.get((kind, channel, stream)) is tail:
                        del tails[kind, channel, stream]

    def wake(self) -> None:
        """Report a change. Called by the listener's thread."""
        raise NotImplementedError

    def _usable(self, position: Position, first: int) -> Part[R] | None:
        """The kept read from a position. One without rows is not usable once the stream has changed."""
        part = self._kept.get(position)
        if part is None or part.number < first or not (part.events or part.version == self.version):
            return None
        return part

    def _number(self) -> int:
        self._reads += 1
        return self._reads

    def _keep(self, position: Position, part: Part[R]) -> None:
        self._rows += 1 + len(part.events)
        if (old := self._kept.pop(position, None)) is not None:
            self._rows -= 1 + len(old.events)
        self._kept[position] = part
        while self._rows > _KEPT:
            self._rows -= 1 + len(self._kept.pop(next(iter(self._kept))).events)

    def _check(self) -> None:
        if self._listener.failure is not None:
            raise self._listener.failure


class AsyncTail(_Tail[R]):
    """The tail of a stream that tasks of one event loop follow."""

    def __init__(self, listener: Listener) -> None:
        super().__init__(listener)
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        self._under_way: dict[Position, tuple[int, asyncio.Event]] = {}

    def wake(self) -> None:
        """Report a change. Called by the listener's thread."""
        with contextlib.suppress(RuntimeError):  # the loop has been closed
            self._loop.call_soon_threadsafe(self._change)

    def _change(self) -> None:
        self.version += 1
        self._changed.set()
        self._changed = asyncio.Event()

    async def wait(self, version: int, timeout: float | None = None) -> None:
        """Sleep until the stream has changed since `version`, at most `timeout` seconds."""
        self._check()
        if version == self.version:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await self._changed.wait()
            self._check()

    async def read(
        self, position: Position, first: int, read: Callable[[Position], Awaitable[tuple[Position, Found[R]]]]
    ) -> Part[R]:
        """Return the part after `position`: from a read of at least number `first`, or else by `read`.

        When the follower that reads is cancelled or gets an error, the next one reads.
        """
        if position.generation is None:
            version = self.version
            return Part(*await read(position), self._number(), version)
        while True:
            if (part := self._usable(position, first)) is not None:
                return part
            number, done = self._under_way.get(position, (0, None))
            if done is None or number < first:
                break
            await done.wait()
        number, version = self._number(), self.version
        own = asyncio.Event()
        self._under_way[position] = (number, own)
        try:
            part = Part(*await read(position), number, version)
            self._keep(position, part)
        finally:
            if self._under_way.get(position) == (number, own):
                del self._under_way[position]
            own.set()
        return part


class Tail(_Tail[R]):
    """The tail of a stream that threads follow."""

    def __init__(self, listener: Listener) -> None:
        super().__init__(listener)
        self._changed = threading.Condition()
        self._under_way: dict[Position, int] = {}

    def wake(self) -> None:
        """Report a change. Called by the listener's thread."""
        with self._changed:
            self.version += 1
            self._changed.notify_all()

    def wait(self, version: int, timeout: float | None = None) -> None:
        """Sleep until the stream has changed since `version`, at most `timeout` seconds."""
        self._check()
        with self._changed:
            self._changed.wait_for(lambda: version != self.version, timeout)
        self._check()

    def read(self, position: Position, first: int, read: Callable[[Position], tuple[Position, Found[R]]]) -> Part[R]:
        """Return the part after `position`: from a read of at least number `first`, or else by `read`.

        When the follower that reads gets an error, the next one reads.
        """
        if position.generation is None:
            version = self.version
            return Part(*read(position), self._number(), version)
        with self._changed:
            while True:
                if (part := self._usable(position, first)) is not None:
                    return part
                if self._under_way.get(position, 0) < first:
                    break
                self._changed.wait()
            number, version = self._number(), self.version
            self._under_way[position] = number
        try:
            part = Part(*read(position), number, version)
            with self._changed:
                self._keep(position, part)
        finally:
            with self._changed:
                if self._under_way.get(position) == number:
                    del self._under_way[position]
                self._changed.notify_all()
        return part
