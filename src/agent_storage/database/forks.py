"""The process and the event loop that opened a connection, in which alone it may be used."""

from __future__ import annotations

import asyncio
import os

from agent_storage.errors import StorageError

#: How often this process was made by fork(). A counter, since asking for the process's id is a system call.
_forks = 0


def _count_fork() -> None:
    global _forks
    _forks += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_count_fork)


class ProcessHome:
    """The process in which it was made."""

    def __init__(self) -> None:
        self._forks = _forks

    @property
    def forked(self) -> bool:
        """Return whether this is a forked process, which must neither use nor close objects that its parent opened."""
        return self._forks != _forks

    @property
    def abandoned(self) -> bool:
        """Return whether objects that were opened there can no longer be closed."""
        return self.forked

    def check(self) -> None:
        """Raise `StorageError` anywhere else."""
        if self._forks != _forks:
            raise StorageError("the storage was opened before fork(): open another one in the child process")


class LoopHome(ProcessHome):
    """The process and the event loop in which it was made."""

    def __init__(self) -> None:
        super().__init__()
        self._loop = asyncio.get_running_loop()

    @property
    def abandoned(self) -> bool:
        """Return whether objects that were opened there can no longer be closed."""
        return self.forked or self._loop.is_closed()

    def check(self) -> None:
        """Raise `StorageError` anywhere else."""
        super().check()
        if asyncio.get_running_loop() is not self._loop:
            raise StorageError("the storage was opened in another event loop: open another one in this loop")
