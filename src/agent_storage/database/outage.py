"""Attempts to connect, and whether they show that the server is down."""

from __future__ import annotations

import time
from collections.abc import Callable
from weakref import WeakSet

import psycopg

from agent_storage.errors import Unavailable

#: The longest pause between two attempts of the pool to connect, in seconds.
PAUSE = 0.5
#: A failure says nothing about now after this time, in seconds: an attempt takes 5 s by default, and the pause.
_MEMORY = 10.0


class Outage:
    """The attempts of one database to connect. Used by several threads: each writes whole values."""

    def __init__(self, patience: float, restart: Callable[[], object] | None = None) -> None:
        self._patience = patience
        #: Starts the server again, if it is the embedded one and was killed.
        self.restart = restart
        self._live: WeakSet[psycopg.BaseConnection[object]] = WeakSet()
        #: When the first of the attempts failed that have failed since the last success; None after a success.
        self.since: float | None = None
        self._latest = 0.0
        self._reason = ""

    def connected(self, connection: psycopg.BaseConnection[object]) -> None:
        """Record a success."""
        self._live.add(connection)
        self.since = None

    def failed(self, reason: str) -> None:
        """Record a failure."""
        self._latest = time.monotonic()
        self._reason = reason
        if self.since is None:
            self.since = self._latest

    def check(self) -> None:
        """Raise `Unavailable` if no attempt has succeeded for longer than a call waits, and no connection is left."""
        now = time.monotonic()
        since = self.since
        if (
            since is not None
            and now - since > self._patience
            and now - self._latest < _MEMORY
            and all(connection.closed for connection in list(self._live))
        ):
            raise Unavailable(
                f"{self._reason}; it has been down for {now - since:.0f} s, and is tried every {PAUSE:g} s"
            )
