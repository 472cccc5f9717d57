"""Calling and awaiting in ways of which each face has its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, TypeVar

T = TypeVar("T")

_undoing: set[asyncio.Future[None]] = set()


async def uncut(coroutine: Coroutine[Any, Any, T]) -> T:
    """Return the result of a coroutine that runs to its end, however often the task is cancelled.

    Raises the `CancelledError` afterwards.
    """
    task = asyncio.ensure_future(coroutine)
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


async def unless_cancelled(coroutine: Coroutine[Any, Any, T], undo: Callable[[T], Coroutine[Any, Any, None]]) -> T:
    """Return the result of a coroutine that is never cancelled. When its caller is, call `undo` with the result.

    Cancelled twice while it waits, psycopg_pool's getconn() may lose a connection, and asyncio.Condition its lock.
    """
    task = asyncio.ensure_future(coroutine)

    def abandoned(_: object) -> None:
        if not task.cancelled() and task.exception() is None:
            undoing = asyncio.ensure_future(undo(task.result()))
            _undoing.add(undoing)  # the event loop alone would not keep it
            undoing.add_done_callback(_undoing.discard)

    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        task.add_done_callback(abandoned)
        raise


def returned(value: T, *_: object) -> T:
    """Return `value`: on the sync face the call has returned already."""
    return value


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
