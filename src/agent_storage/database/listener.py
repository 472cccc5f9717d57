"""Notifications (LISTEN/NOTIFY) without polling: one connection for each database, served by a thread, for both faces.

A caller subscribes to a channel and a payload, reads the tables, and sleeps until it is woken. Waking only means "read
again": every subscriber is woken too after a reconnect, since notifications were lost meanwhile. So nothing can fall
between reading and listening, and a cut connection costs one more read.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import select
import selectors
import socket
import threading
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

import psycopg
from psycopg import sql
from psycopg.errors import error_from_result
from psycopg.pq import ExecStatus
from psycopg.pq.abc import PGresult

from agent_storage.database.forks import ProcessHome
from agent_storage.errors import StorageError, Unavailable
from agent_storage.search_path import PARAMETER

logger = logging.getLogger("agent_storage")

#: The tables whose triggers notify. The payload identifies the row.
CHANNELS = ("approval_requests", "event_streams")

#: The schema of the tables, by which their channels differ from those of another schema of the database.
_SCHEMA = f"""
SELECT coalesce(nullif(current_setting('{PARAMETER}', true), ''),
                (SELECT n.nspname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                  WHERE c.oid = to_regclass('{CHANNELS[0]}')),
                current_schema())
"""  # noqa: S608  # of constants

#: The pauses between attempts to connect, in seconds: the first, and the longest.
_PAUSES = (0.05, 0.5)
#: How long the connection is kept without a subscriber, and after how long without a notification it is tested, in
#: seconds.
_LINGER = 30.0
#: How long the server may take to answer, and `close` waits for the thread, in seconds.
_PATIENCE = 5.0


class Listener:
    """The connection that listens, and the subscribers to wake. It connects with the first subscription."""

    def __init__(self, conninfo: str | Callable[[], str]) -> None:
        self._conninfo = conninfo
        self._lock = threading.Lock()
        self._waiting: dict[tuple[str, str], list[Callable[[], None]]] = {}
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._wake_reader, self._wake_writer = socket.socketpair()
        self._wake_reader.setblocking(False)
        self._home = ProcessHome()
        #: The tables by the names of their channels.
        self._channels: dict[str, str] = {}
        self.failure: StorageError | None = None

    def subscribe(self, channel: str, payload: str, wake: Callable[[], None]) -> None:
        """Call `wake`, from another thread, whenever `channel` says `payload`, and after every new connection."""
        with self._lock:
            self._waiting.setdefault((channel, payload), []).append(wake)
            if self._thread is None:
                self._stop.clear()
                self.failure = None
                self._thread = threading.Thread(target=self._run, name="agent-storage-listener", daemon=True)
                self._thread.start()

    def unsubscribe(self, channel: str, payload: str, wake: Callable[[], None]) -> None:
        """Undo one `subscribe`."""
        with self._lock:
            waiting = self._waiting.get((channel, payload), [])
            if wake in waiting:
                waiting.remove(wake)
            if not waiting:
                self._waiting.pop((channel, payload), None)

    def close(self) -> None:
        """Disconnect and end the thread; every subscriber gets an error. May be called twice.

        In a child process it does nothing: the thread, the connection and the socket are the parent's.
        """
        if self._home.forked:
            return
        self._stop.set()
        thread = self._thread
        if thread is not None:
            self._wake_writer.send(b"\0")
            thread.join(_PATIENCE)  # a server that does not answer may hold it; it ends with the process
        self._fail(StorageError("the storage was closed while this waited"))
        self._wake_reader.close()
        self._wake_writer.close()

    def _run(self) -> None:
        pause = _PAUSES[0]
        while not self._ended():
            try:
                conninfo = self._conninfo() if callable(self._conninfo) else self._conninfo
                with psycopg.connect(conninfo, autocommit=True) as connection:
                    self._listen(connection)
                    pause = _PAUSES[0]
                    self._serve(connection)
            except StorageError as error:
                self._fail(error)
                return
            except Exception as error:  # whatever it is (no file descriptors left), subscribers still wait
                logger.warning("the listening connection is gone (%s); connecting again", type(error).__name__)
                self._stop.wait(pause)
                pause = min(pause * 2, _PAUSES[1])

    def _ended(self) -> bool:
        """Return whether the thread may end, in which case the next subscription starts another one."""
        with self._lock:
            if self._stop.is_set() or not self._waiting:
                self._thread = None
                return True
            return False

    def _fail(self, error: StorageError) -> None:
        """Give `error` to every subscriber; the next subscription starts again."""
        with self._lock:
            self.failure = error
            self._thread = None
        self._wake_all()

    def _listen(self, connection: psycopg.Connection) -> None:
        (answer,) = _ask(connection, b"SELECT pg_backend_pid()")
        if answer.get_value(0, 0) != b"%d" % connection.info.backend_pid:
            raise Unavailable(
                "notifications do not pass a connection pooler: set STORAGE_LISTEN_URL to the server itself"
            )
        (answer,) = _ask(connection, _SCHEMA.encode())
        schema = (answer.get_value(0, 0) or b"").decode()
        self._channels = {channel_of(table, schema): table for table in CHANNELS}
        _ask(connection, self._commands())
        self._wake_all()

    def _commands(self) -> bytes:
        """Return the LISTEN of every channel. It has no effect when repeated."""
        return "; ".join(f"LISTEN {sql.Identifier(name).as_string(None)}" for name in self._channels).encode()

    def _serve(self, connection: psycopg.Connection) -> None:
        """Pass notifications on until told to stop, or until there was no subscriber for a while."""
        with selectors.DefaultSelector() as selector:
            selector.register(connection.fileno(), selectors.EVENT_READ)
            selector.register(self._wake_reader, selectors.EVENT_READ)
            while not self._stop.is_set():
                if not selector.select(_LINGER):
                    if not self._waiting:
                        return
                    _ask(connection, self._commands())
                connection.pgconn.consume_input()
                while notification := connection.pgconn.notifies():
                    self._wake(notification.relname.decode(), notification.extra.decode())

    def _wake(self, channel: str, payload: str) -> None:
        with self._lock:
            waiting = list(self._waiting.get((self._channels.get(channel, ""), payload), ()))
        for wake in waiting:
            wake()

    def _wake_all(self) -> None:
        with self._lock:
            subscribers = [wake for waiting in self._waiting.values() for wake in waiting]
        for wake in subscribers:
            wake()


def channel_of(table: str, schema: str) -> str:
    """Return the channel of a table's notifications, as the function `notification_channel` of the schema does."""
    name = f"{table}.{schema}"
    if len(name.encode()) < 64:
        return name
    return f"{table}.{hashlib.sha256(schema.encode()).hexdigest()[:32]}"


def _ask(connection: psycopg.Connection, commands: bytes) -> list[PGresult]:
    """Return the results of commands. Raises psycopg's `OperationalError` for a server that does not answer in time."""
    pgconn = connection.pgconn
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    pgconn.send_query(commands)
    answers: list[PGresult] = []
    while True:
        while pgconn.is_busy():
            if not poll.poll(_PATIENCE * 1000):
                raise psycopg.OperationalError("the server does not answer")
            pgconn.consume_input()
        answer = pgconn.get_result()
        if answer is None:
            return answers
        if answer.status not in (ExecStatus.COMMAND_OK, ExecStatus.TUPLES_OK):
            raise error_from_result(answer)
        answers.append(answer)


class Signal:
    """One waiter of the sync face. `with signal:` subscribes."""

    def __init__(self, listener: Listener, channel: str, payloads: Sequence[str]) -> None:
        self._listener = listener
        self._keys = [(channel, payload) for payload in payloads]
        self._event = threading.Event()

    def __enter__(self) -> Self:
        for key in self._keys:
            self._listener.subscribe(*key, self._event.set)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for key in self._keys:
            self._listener.unsubscribe(*key, self._event.set)

    def wait(self, timeout: float | None = None) -> bool:
        """Sleep until it is worth looking again, at most `timeout` seconds. Return whether it was woken."""
        woken = self._event.wait(timeout)
        self._event.clear()
        if self._listener.failure is not None:
            raise self._listener.failure
        return woken


class AsyncSignal:
    """One waiter of the async face. `with signal:` subscribes."""

    def __init__(self, listener: Listener, channel: str, payloads: Sequence[str]) -> None:
        self._listener = listener
        self._keys = [(channel, payload) for payload in payloads]
        self._event = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def __enter__(self) -> Self:
        for key in self._keys:
            self._listener.subscribe(*key, self._wake)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for key in self._keys:
            self._listener.unsubscribe(*key, self._wake)

    def _wake(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has been closed
            self._loop.call_soon_threadsafe(self._event.set)

    async def wait(self, timeout: float | None = None) -> bool:
        """Sleep until it is worth looking again, at most `timeout` seconds. Return whether it was woken."""
        try:
            await asyncio.wait_for(self._event.wait(), timeout)
            woken = True
        except TimeoutError:
            woken = False
        self._event.clear()
        if self._listener.failure is not None:
            raise self._listener.failure
        return woken
