"""Common to SQLite and MySQL: a pool of connections, transactions, errors. Synchronous, for both faces."""

from __future__ import annotations

import random
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Annotated, Any, ClassVar, Generic, TypeVar

from pydantic import Field

from agent_storage.database.forks import ProcessHome
from agent_storage.errors import ConnectionLost, PoolTimeout, Retryable, StorageError

T = TypeVar("T")
C = TypeVar("C")

Rows = list[tuple[Any, ...]]
Seconds = Annotated[float, Field(gt=0)]
Connections = Annotated[int, Field(ge=1)]
#: Runs a statement on the connection of a transaction: its text, whose parameters are written `?`, and their values.
Run = Callable[[str, Sequence[Any]], Rows]

#: How often a transaction that met a deadlock, or another writer, is run again.
_ATTEMPTS = 20


class Engine(ABC, Generic[C]):
    """A database of checkpoints and its pool. The connections are made when they are needed."""

    #: The name of its folder of migrations, and what its SQL writes differently: the present time in microseconds, the
    #: lock of rows that are read to be deleted, and the operators of patterns.
    name: ClassVar[str]
    clock: ClassVar[str]
    for_update: ClassVar[str]
    patterns: ClassVar[dict[str, str]]

    def __init__(self, address: str, *, pool_max: int, pool_timeout: float) -> None:
        self.address = address
        self.pool_max = pool_max
        self.pool_timeout = pool_timeout
        self._changed = threading.Condition()
        self._idle: deque[C] = deque()
        self._used = 0
        self._home: ProcessHome | None = None

    # ---- what each engine does its own way ---------------------------------------------------------------------------

    @abstractmethod
    def connect(self) -> C:
        """Return a new connection, in autocommit mode. Raises the driver's error."""

    @abstractmethod
    def execute(self, connection: C, text: str, values: Sequence[Any]) -> Rows:
        """Run a statement. Return its rows."""

    @abstractmethod
    def disconnect(self, connection: C) -> None:
        """Close the connection. Raises nothing."""

    @abstractmethod
    def translated(self, error: Exception, *, writes: bool) -> StorageError | None:
        """Return the package's error for the driver's, or None for another exception."""

    @abstractmethod
    def broken(self, connection: C) -> bool:
        """Return whether the connection cannot be used any more."""

    @abstractmethod
    def begin(self, connection: C) -> None:
        """Begin a transaction that writes."""

    @abstractmethod
    def rollback(self, connection: C) -> None:
        """Roll back the transaction, if there is one. Raises nothing."""

    @abstractmethod
    def exclusive(self) -> AbstractContextManager[Run]:
        """Return a context manager that yields `Run`. One process at a time is in it, for migrations."""

    def step(self, run: Run) -> AbstractContextManager[object]:
        """Return a context manager in which a statement of a migration and the record of it are one transaction."""
        return nullcontext()

    @abstractmethod
    def already(self, error: Exception) -> bool:
        """Return whether the driver's error says that a statement of a migration was executed before."""

    # ---- the pool ----------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Connect. Raises `Unavailable`."""
        if self._home is None:
            self._home = ProcessHome()
            try:
                with self.connection():
                    pass
            except BaseException:
                self.close()
                raise

    def close(self) -> None:
        """Close the idle connections; those in use are closed when they are returned. May be called twice."""
        with self._changed:
            forked = self._home is not None and self._home.forked
            self._home = None
            idle = list(self._idle)
            self._idle.clear()
            self._changed.notify_all()
        if not forked:
            for connection in idle:
                self.disconnect(connection)

    @contextmanager
    def connection(self, *, writes: bool = False) -> Generator[C]:
        """Check out a connection. Raises `PoolTimeout`, `Unavailable`, and the driver's errors as the package's."""
        taken: C | None = None
        home = self._take_place()
        try:
            try:
                taken = self._idle_one() or self.connect()
                yield taken
            except Exception as error:
                translated = self.translated(error, writes=writes)
                if translated is None:
                    raise
                raise translated from error
        except BaseException:
            self._give_back(taken, home, usable=taken is not None and not self.broken(taken))
            raise
        else:
            self._give_back(taken, home, usable=True)

    def _take_place(self) -> ProcessHome:
        until = time.monotonic() + self.pool_timeout
        with self._changed:
            while True:
                home = self._home
                if home is None:
                    raise StorageError(f"the provider of checkpoints is not open ({self.address}): call open() first")
                home.check()
                if self._used < self.pool_max:
                    self._used += 1
                    return home
                if not self._changed.wait(until - time.monotonic()):
                    raise PoolTimeout(
                        f"no connection to {self.address} became free within {self.pool_timeout:g} s; "
                        "set pool_max higher, or call less at once"
                    )

    def _idle_one(self) -> C | None:
        with self._changed:
            return self._idle.pop() if self._idle else None

    def _give_back(self, connection: C | None, home: ProcessHome, *, usable: bool) -> None:
        with self._changed:
            keep = usable and connection is not None and self._home is home
            if keep and connection is not None:
                self._idle.append(connection)
            self._used -= 1
            self._changed.notify()
        if connection is not None and not keep:
            self.disconnect(connection)

    # ---- statements --------------------------------------------------------------------------------------------------

    def read(self, text: str, values: Sequence[Any]) -> Rows:
        """Run one statement that reads. One that meets a connection lost while it was idle is repeated."""
        for last in (False, True):
            try:
                with self.connection() as connection:
                    return self.execute(connection, text, values)
            except ConnectionLost:
                if last:
                    raise
                self._drop_idle()
        raise AssertionError  # the loop returns or raises

    def write(self, work: Callable[[Run], T], *, repeatable: bool) -> T:
        """Run `work` in a transaction, again after a deadlock, and once again if the connection was lost.

        Unless it is `repeatable`, a lost connection raises `OutcomeUnknown`.
        """
        lost = not repeatable
        for attempt in range(_ATTEMPTS):
            try:
                with self.connection(writes=True) as connection, self.transaction(connection) as run:
                    return work(run)
            except ConnectionLost:
                if lost:
                    raise
                lost = True
                self._drop_idle()
            except Retryable:
                if attempt == _ATTEMPTS - 1:
                    raise
                time.sleep(random.uniform(0.001, 0.05))  # noqa: S311  # so that two do not meet again
        raise AssertionError  # the loop returns or raises

    def _drop_idle(self) -> None:
        """A server that restarted has closed all idle connections."""
        with self._changed:
            idle = list(self._idle)
            self._idle.clear()
        for connection in idle:
            self.disconnect(connection)

    @contextmanager
    def transaction(self, connection: C) -> Generator[Run]:
        """Yield `Run` in a transaction that writes, which is rolled back on an exception."""

        def run(text: str, values: Sequence[Any] = ()) -> Rows:
            return self.execute(connection, text, values)

        self.begin(connection)
        try:
            yield run
            run("COMMIT", ())
        except BaseException:
            self.rollback(connection)
            raise
