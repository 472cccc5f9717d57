"""Calling and awaiting in ways of which each face has its own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, TypeVar

T = TypeVar("T")


async def settled(awaitable: Awaitable[T]) -> asyncio.Future[T]:
    """The future of `awaitable`, done, however often the waiting task is cancelled meanwhile."""
    future = asyncio.ensure_future(awaitable)
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError:
            continue
    return future


def done(value: T) -> T:
    """The same on the sync face, where what was called has returned."""
    return value


def run_at_once(
    method: Callable[..., Coroutine[Any, Any, Any]], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Any:
    """What a coroutine function returns that never waits. Raises `TypeError` for one that does."""
    coroutine = method(*args, **kwargs)
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    coroutine.close()
    raise TypeError("the method waits for something else than a statement")


def call(method: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """What a function returns."""
    return method(*args, **kwargs)
