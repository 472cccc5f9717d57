"""Calling and awaiting in ways of which each face has its own."""

from __future__ import annotations

import asyncio
import sys
import types
from collections.abc import Callable, Coroutine, Generator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

T = TypeVar("T")


@types.coroutine
def _resumed(coroutine: Coroutine[Any, Any, T], future: Any) -> Generator[Any, Any, T]:
    """The rest of a coroutine that has been started by hand and waits for `future`."""
    while True:
        try:
            value = yield future
        except BaseException as error:
            step = partial(coroutine.throw, error)
        else:
            step = partial(coroutine.send, value)
        try:
            future = step()
        except StopIteration as end:
            return end.value


def _started(coroutine: Coroutine[Any, Any, T]) -> asyncio.Future[T]:
    """A coroutine that runs at once; where it has nothing to wait for, it costs no turn of the event loop."""
    loop = asyncio.get_running_loop()
    if sys.version_info >= (3, 12):
        return asyncio.Task(coroutine, loop=loop, eager_start=True)
    try:
        future = coroutine.send(None)
    except StopIteration as end:
        done = loop.create_future()
        done.set_result(end.value)
        return done
    return asyncio.ensure_future(_resumed(coroutine, future))


async def uncut(coroutine: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that is not cut short, however often the task is cancelled; that is raised at last."""
    task = _started(coroutine)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        task.exception()
        raise cancelled
    return task.result()


def returned(value: T) -> T:
    """The same on the sync face, where what was called has returned."""
    return value


@contextmanager
def insistent() -> Generator[None]:
    """A block whose cancellation is repeated once: psycopg_pool's workers swallow it there, and would never end."""
    try:
        yield
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and "-worker-" in task.get_name():
            asyncio.get_running_loop().call_soon(task.cancel)
        raise


def run_at_once(
    method: Callable[..., Coroutine[Any, Any, Any]], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Any:
    """Return the result of a coroutine function that never waits. Raises `TypeError` for one that does."""
    coroutine = method(*args, **kwargs)
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    coroutine.close()
    raise TypeError("the method waits for something else than a statement")


def call(method: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Return the result of a function."""
    return method(*args, **kwargs)
