"""Report the duration of a long-running statement, and the sessions that hold the lock for which it waits.

A waiting session cannot query the server itself. A thread does so on a separate connection, which it opens only when a
statement has been running for a while.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

import psycopg

from agent_storage.migrations.results import Event
from agent_storage.migrations.run.lock import Holder, blockers

_REPORT_EVERY = 5.0


class Watch:
    """Watch one backend from a daemon thread. `blocked_by` is the last list of sessions that blocked it."""

    def __init__(self, conninfo: str, notify: Callable[[Event], None], delay: float) -> None:
        self._conninfo = conninfo
        self._notify = notify
        self._delay = delay
        self._changed = threading.Condition()
        self._watched: tuple[int, Event, float] | None = None
        self._stopped = False
        self._thread: threading.Thread | None = None
        self.blocked_by: list[Holder] = []

    @contextmanager
    def over(self, pid: int, what: Event) -> Generator[None]:
        """Watch the backend `pid` while the block runs one statement."""
        self._set((pid, what, time.monotonic()))
        try:
            yield
        finally:
            self._set(None)

    def close(self) -> None:
        """End the thread."""
        with self._changed:
            self._stopped = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(5)

    def _set(self, watched: tuple[int, Event, float] | None) -> None:
        with self._changed:
            self._watched = watched
            # No notify: the thread looks after its delay anyway, and most statements end before it.
        if watched is not None and self._thread is None:
            self._thread = threading.Thread(target=self._run, name="storage-migrate-watch", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        connection: psycopg.Connection | None = None
        reported: tuple[float, float] = (0.0, 0.0)
        try:
            while not self._pause():
                watched = self._watched
                if watched is None or time.monotonic() - watched[2] < self._delay:
                    continue
                connection = connection or psycopg.connect(
                    self._conninfo, autocommit=True, application_name="storage migrate watch"
                )
                reported = self._look(connection, watched, reported)
        except psycopg.Error:
            return  # no second connection: the run continues without the names of blocking sessions
        finally:
            if connection is not None:
                connection.close()

    def _pause(self) -> bool:
        with self._changed:
            if not self._stopped:
                self._changed.wait(self._delay)
            return self._stopped

    def _look(
        self, connection: psycopg.Connection, watched: tuple[int, Event, float], reported: tuple[float, float]
    ) -> tuple[float, float]:
        """Report on the watched statement. `reported` is its start and the time of the last report."""
        pid, what, started = watched
        found = blockers(connection, pid)
        if self._watched is not watched:
            return reported
        now = time.monotonic()
        if found and [holder.pid for holder in found] != [holder.pid for holder in self.blocked_by]:
            self._tell("blocked", f"waiting for {'; '.join(map(str, found))}", what)
        elif reported[0] != started or now - reported[1] >= _REPORT_EVERY:
            if now - started < _REPORT_EVERY:
                return reported
            self._tell("progress", f"{what.message}: running for {now - started:.0f} s", what)
            reported = (started, now)
        self.blocked_by = found or self.blocked_by
        return reported

    def _tell(self, kind: str, message: str, what: Event) -> None:
        self._notify(Event(kind, message, what.migration, what.statement, what.total))
