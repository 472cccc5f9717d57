"""Calls of synchronous functions on each face: in threads, which the event loop does not wait for, or directly."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")


class Threads:
    """As many threads as there are connections, which are started when they are needed."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._executor: ThreadPoolExecutor | None = None

    async def run(self, function: Callable[..., T], *args: Any) -> T:
        """Return the result of a function. A cancelled call is dropped, or awaited if it has begun."""
        if self._executor is None:
            self._executor = ThreadPoolExecutor(self._count, "checkpoints")
        begun = self._executor.submit(function, *args)
        waiting = asyncio.wrap_future(begun)
        cancelled: asyncio.CancelledError | None = None
        while not waiting.done():
            try:
                await asyncio.wait([waiting])
            except asyncio.CancelledError as error:
                cancelled = error
                begun.cancel()
        if cancelled is None:
            return waiting.result()
        if not waiting.cancelled():
            waiting.exception()
        raise cancelled

    async def close(self) -> None:
        """End the threads, after the calls under way. May be called twice."""
        executor, self._executor = self._executor, None
        if executor is not None:
            await asyncio.get_running_loop().run_in_executor(None, executor.shutdown)


class NoThreads:
    """The same of the sync face: the calling thread runs the function."""

    def __init__(self, count: int) -> None:
        pass

    def run(self, function: Callable[..., T], *args: Any) -> T:
        """Return the result of a function."""
        return function(*args)

    def close(self) -> None:
        """Do nothing."""
