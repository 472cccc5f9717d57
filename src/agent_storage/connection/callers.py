"""Who calls, a task or a thread: one pair for each face."""

from __future__ import annotations

import asyncio
import threading


def current_task() -> object:
    """The task that runs."""
    return asyncio.current_task()


def is_own_task(caller: object) -> bool:
    """Whether `caller` is the task that runs, or one that has ended, whose place nobody takes."""
    return caller is asyncio.current_task() or (isinstance(caller, asyncio.Task) and caller.done())


def current_thread() -> object:
    """The thread that runs."""
    return threading.current_thread()


def is_own_thread(caller: object) -> bool:
    """Whether `caller` is the thread that runs, or one that has ended."""
    return caller is threading.current_thread() or (isinstance(caller, threading.Thread) and not caller.is_alive())
