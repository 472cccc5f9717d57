"""Calling a method that has nothing to wait for: one function for each face."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from typing import Any


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
