"""File locks, which the kernel releases when their holder ends, so that none is ever stale."""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

from agent_storage.embedded.account import Account

#: Seconds between two polls.
POLL = 0.015
#: Seconds until the first report, and between two reports.
FIRST_REPORT = 2.0
NEXT_REPORT = 5.0


def polls(seconds: float, report: Callable[[], None]) -> Iterator[None]:
    """Yield at once and then every `POLL` seconds, for `seconds`, and call `report` from time to time."""
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
    """An open file with an advisory lock, which belongs to the open file and to processes that inherit it.

    It is closed and never unlocked, so a process that was started with `fd` as its output still holds the lock.
    """

    def __init__(self, path: Path, account: Account) -> None:
        self.path = path
        self.fd = account.open(path, os.O_RDWR | os.O_APPEND)
        _open_here.add(self)

    def share(self) -> bool:
        """Take a shared lock without waiting. Return whether it is held. A failed conversion loses a held lock."""
        import fcntl  # not on Windows, where this module must still import

        return self._take(fcntl.LOCK_SH)

    def claim(self) -> bool:
        """Take the exclusive lock without waiting. Return whether it is held. A failed conversion loses a held lock."""
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
        """Return whether this is open and still the file at `path`: not after a fork or if the folder was replaced."""
        try:
            return self.fd >= 0 and os.path.samestat(os.fstat(self.fd), self.path.stat())
        except OSError:
            return False

    def close(self) -> None:
        """Close the file. The lock is released when no other process has it open. Idempotent."""
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
    # A forked child inherits the open files, so it would hold the parent's locks after the parent has ended.
    for lock in list(_open_here):
        lock.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_inherited)
