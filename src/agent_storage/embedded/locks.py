"""Locks on files, which the kernel frees when their holder ends, however it ends: nobody ever has to break one."""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

from agent_storage.embedded.account import Account

#: Seconds between two looks at something that is waited for.
POLL = 0.015
#: Seconds until the first word about it, and between two words.
FIRST_REPORT = 2.0
NEXT_REPORT = 5.0


def polls(seconds: float, report: Callable[[], None]) -> Iterator[None]:
    """Yields at once and then each `POLL` seconds, for `seconds`, with a call of `report` now and then."""
    now = time.monotonic()
    end, next_report = now + seconds, now + FIRST_REPORT
    while now < end:
        if now >= next_report:
            report()
            next_report = now + NEXT_REPORT
        yield
        time.sleep(POLL)
        now = time.monotonic()


class LockFile:
    """An open file with an advisory lock, which belongs to the open file and to whoever inherits it.

    Never unlocked, only closed: a process that was started with `fd` as its output goes on holding the lock.
    """

    def __init__(self, path: Path, account: Account) -> None:
        self.path = path
        self.fd = account.open(path, os.O_RDWR | os.O_APPEND)
        _open_here.add(self)

    def share(self) -> bool:
        """Take a shared lock, at once or not at all. A failed change of a held lock loses it."""
        import fcntl  # not on Windows, where this module must still import

        return self._take(fcntl.LOCK_SH)

    def claim(self) -> bool:
        """Take the exclusive lock, at once or not at all. A failed change of a held lock loses it."""
        import fcntl

        return self._take(fcntl.LOCK_EX)

    def _take(self, kind: int) -> bool:
        import fcntl

        try:
            fcntl.flock(self.fd, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    @property
    def current(self) -> bool:
        """Whether this is still the file at `path`, and open; not after a fork nor when the folder was replaced."""
        try:
            return self.fd >= 0 and os.path.samestat(os.fstat(self.fd), self.path.stat())
        except OSError:
            return False

    def close(self) -> None:
        """Idempotent. The lock is free once nobody else has this open file either."""
        _open_here.discard(self)
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> LockFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


_open_here: weakref.WeakSet[LockFile] = weakref.WeakSet()


def _close_inherited() -> None:
    # A forked child has the parent's open files, so it would hold the parent's locks beyond the parent's end.
    for lock in list(_open_here):
        lock.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_inherited)
