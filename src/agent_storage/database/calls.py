"""Calling and awaiting in ways of which each face has its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, TypeVar

import psycopg
import psycopg_pool

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


async def check_out(pool: psycopg_pool.AsyncConnectionPool[Any]) -> psycopg.AsyncConnection[Any]:
    """Return a connection of the pool. When a waiting caller is cancelled, the connection it would get goes back.

    Cancelled twice while it waits, psycopg_pool's getconn() may lose a connection, and asyncio.Condition its lock. So
    getconn() is not cancelled while it waits.
    """
    if pool.get_stats()["pool_available"]:
        return await pool.getconn()
    task = asyncio.ensure_future(pool.getconn())

    def abandoned(_: object) -> None:
        if not task.cancelled() and task.exception() is None:
            undoing = asyncio.ensure_future(pool.putconn(task.result()))
            _undoing.add(undoing)  # the event loop alone would not keep it
            undoing.add_done_callback(_undoing.discard)

    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        task.add_done_callback(abandoned)
        raise


def check_out_sync(pool: psycopg_pool.ConnectionPool[Any]) -> psycopg.Connection[Any]:
    """Return a connection of the pool."""
    return pool.getconn()


def returned(value: T) -> T:
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
