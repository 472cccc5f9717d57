"""`Storage`: one object that holds the pool and hands out a repository for each table."""

from __future__ import annotations

import asyncio
import inspect
import math
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar, Unpack

import psycopg

from agent_storage.database.batch import Batch, Later
from agent_storage.database.multiplexed import MultiplexedDatabase
from agent_storage.database.pool import Database
from agent_storage.database.settings import Keywords, Settings
from agent_storage.database.transaction import Isolation, Transaction
from agent_storage.errors import (
    ConnectionLost,
    InvalidSettings,
    OutcomeUnknown,
    Retryable,
    StorageError,
    Unavailable,
)
from agent_storage.health import Health, Migrate, ensure_current, schema_health
from agent_storage.sources import Source
from agent_storage.tables import REPOSITORIES, Tables

T = TypeVar("T")
P = ParamSpec("P")

#: A table that the search_path finds outside the schema, if the schema was never migrated.
_ELSEWHERE = """
SELECT name, n.nspname
  FROM unnest(%(tables)s::text[]) AS name
  JOIN pg_class c ON c.oid = to_regclass(name)
  JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname <> %(schema)s
   AND NOT EXISTS (SELECT FROM pg_class t JOIN pg_namespace s ON s.oid = t.relnamespace
                    WHERE s.nspname = %(schema)s AND t.relname = '_yoyo_migration')
 LIMIT 1
"""

#: The longest pause before a transaction is tried again, in seconds; each pause is a random part of it.
_BACK_OFF = 0.05
#: The same for a server that is short of memory, disk or connections (SQLSTATE class 53), where pauses double.
_LONGEST_PAUSE = 2.0
_SHORT_OF = "53"


class Storage(Tables):
    """A storage: the repositories of all tables on one pool of connections.

        async with Storage("postgresql://localhost/app") as storage:
            chat = await storage.conversations.create(NewConversation(title="Trip to Oslo"))

    A subclass adds repositories, or replaces shipped ones, by annotations:

        class Shop(Storage):
            customers: Customers

    `transaction()` and `batch()` give the same class on one connection.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        migrate: Migrate = False,
        sources: Sequence[Source | str | Path] = (),
        **settings: Unpack[Keywords],
    ) -> None:
        """Make a storage on `url`, else on `STORAGE_DATABASE_URL`, `DATABASE_URL` or the embedded server.

        It connects when it is entered (`async with`), or by `connect()`. With `migrate=True` that applies the pending
        migrations first: the shipped ones, and those of `sources`, which are folders with `tables/` and `migrations/`.
        Any number of processes may do so at once. "wait" waits until another process has applied them, "fail" raises
        `Pending`. Raises `InvalidSettings`.
        """
        super().__init__(MultiplexedDatabase(Settings.load(url, **settings)))
        self._migrate: Migrate = migrate
        self._sources = tuple(sources)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} on {self.runner!r}>"

    @property
    def database(self) -> Database:
        """The pool. Raises `StorageError` inside a transaction and in a batch."""
        if not isinstance(self.runner, Database):
            raise StorageError("a transaction and a batch have no pool: use the storage that they were made from")
        return self.runner

    # ---- life ------------------------------------------------------------------------------------------------------

    async def connect(self, *, migrate: Migrate | None = None) -> Self:
        """Open the pool. Idempotent. Raises `Unavailable` when the database cannot be reached.

        `migrate` is as for the storage, whose own value is the default when the pool is not open yet. With it, raises
        the errors of the migrations.
        """
        settings = self.database.settings
        if migrate is None:
            migrate = not self.database.opened and self._migrate
        if migrate:
            await asyncio.to_thread(ensure_current, settings, migrate, self._sources)
        await self.database.open()
        if settings.schema_name is not None:
            await self._refuse_others_tables(settings.schema_name)
        return self

    async def _refuse_others_tables(self, schema: str) -> None:
        """Raise `InvalidSettings` if the schema is not migrated and the search_path leads to tables of another one."""
        async with self.connection() as connection:
            found = await connection.execute(_ELSEWHERE, {"schema": schema, "tables": list(REPOSITORIES)})
            row = await found.fetchone()
        if row is not None:
            await self.close()
            raise InvalidSettings(
                f"schema {schema} is not migrated, and {row[0]} would be the table of schema {row[1]}: "
                "run `storage migrate up` first, or open the storage with migrate=True"
            )

    async def close(self) -> None:
        """Close the pool. Idempotent."""
        await self.database.close()

    async def __aenter__(self) -> Self:
        return await self.connect()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def health(self) -> Health:
        """Return whether the database answers, how fast, and how its schema differs from the shipped migrations.

        Raises nothing for a database that is down: the answer says so. For a readiness probe; three round trips and a
        connection beside the pool.
        """
        started = time.perf_counter()
        try:
            async with self.connection() as connection:
                await connection.execute(b"SELECT 1")
                version = connection.info.server_version
        except (Unavailable, psycopg.Error) as error:
            return Health(reachable=False, error=str(error))
        seconds = time.perf_counter() - started
        return await asyncio.to_thread(schema_health, self.database.conninfo, version, seconds, self._sources)

    # ---- connections -----------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def connection(self) -> AsyncGenerator[psycopg.AsyncConnection[Any]]:
        """Yield a psycopg connection for your own SQL: in a transaction its connection, else one of the pool.

        A connection of the pool autocommits, and goes back to the pool when the block ends.
        """
        if isinstance(self.runner, Transaction):
            yield self.runner.connection
        else:
            async with self.database.connection() as connection:
                yield connection

    @asynccontextmanager
    async def transaction(
        self, isolation: Isolation | None = None, *, read_only: bool = False, name: str | None = None
    ) -> AsyncGenerator[Self]:
        """Yield the same repositories on one connection: leaving the block commits, an exception rolls back.

        Inside a transaction it is a savepoint. `name` (default: the calling function's) is shown in logs and errors.
        Raises `OutcomeUnknown` when the connection breaks at COMMIT, `Retryable` for a serialization failure or a
        deadlock.
        """
        name = name or _caller()
        async with self.runner.begin(isolation, read_only=read_only, name=name) as transaction:
            yield self._on(transaction)

    def after_commit(self, callback: Callable[[], Awaitable[object]]) -> None:
        """Call `callback` once the outermost transaction is committed; never when it rolls back."""
        if not isinstance(self.runner, Transaction):
            raise StorageError("after_commit() belongs to a transaction: async with storage.transaction() as tx")
        self.runner.after_commit(callback)

    @property
    def autonomous(self) -> Self:
        """The repositories on other connections: their statements commit at once, also inside a transaction block."""
        return self._on(self.database.autonomous)

    async def run(
        self,
        work: Callable[[Self], Awaitable[T]],
        *,
        isolation: Isolation | None = None,
        attempts: int = 20,
        timeout: float | None = None,
    ) -> T:
        """Run `work` in a transaction, and from the start again when a repetition may succeed and nothing was kept.

        That is after a serialization failure, a deadlock or a lock time-out, after a connection that was lost before
        COMMIT was sent, and when the server is short of memory, disk or connections. At most `attempts` times, and not
        after `timeout` seconds. The pause between two attempts is random and at most 50 ms; for a server that is short
        of something it doubles up to 2 s. Raises the last error, and `OutcomeUnknown` at once.
        """
        name = getattr(work, "__name__", "run")
        end = math.inf if timeout is None else time.monotonic() + timeout
        for attempt in range(1, attempts + 1):
            transaction: Transaction | None = None
            try:
                async with self.database.begin(isolation, name=name) as transaction:
                    return await work(self._on(transaction))
            except StorageError as error:
                pause = _pause(error, attempt)
                committed = transaction is not None and transaction.committed
                # A callback's error does not repeat what is committed.
                if pause is None or committed or attempt == attempts or time.monotonic() + pause > end:
                    raise
                await asyncio.sleep(pause)
        raise ValueError("attempts must be at least 1")

    # ---- batches ---------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def batch(self) -> AsyncGenerator[Self]:
        """Collect calls and send them together when the block ends, all or nothing, in one round trip or two.

        One round trip is enough when no result may raise an error; else COMMIT takes another. In a transaction the
        batch is a part of it. An exception in the block sends nothing. Raises the first call's error.
        """
        if isinstance(self.runner, Batch):
            raise StorageError("a batch has no batches: add the calls to this one")
        batch = Batch(self.runner)
        yield self._on(batch)
        await batch.send()

    def add(self, method: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> Later[T]:
        """Add a call to the batch: `batch.add(batch.messages.append, chat.id, "user", "Hello")`.

        Its `result` is there when the block has ended. Calls see what those before them did. Arguments are checked now.
        Raises `StorageError` for a method that is not one statement.
        """
        if not isinstance(self.runner, Batch):
            raise StorageError("add() belongs to a batch: async with storage.batch() as batch")
        return self.runner.add(method, args, kwargs)


def _pause(error: StorageError, attempt: int) -> float | None:
    """How long to wait before the transaction is run again, in seconds; None for an error that would come again."""
    if isinstance(error, OutcomeUnknown):
        return None
    if isinstance(error, Unavailable) and (error.sqlstate or "").startswith(_SHORT_OF):
        return min(_BACK_OFF * 2**attempt, _LONGEST_PAUSE) * random.uniform(0.5, 1)  # noqa: S311  # jitter, no secret
    if isinstance(error, Retryable | ConnectionLost) or error.sqlstate == "25006":
        return random.uniform(0.001, _BACK_OFF)  # noqa: S311  # jitter, no secret
    return None


def _caller() -> str:
    """The function that opened the transaction: the first frame outside this module and contextlib."""
    frame = inspect.currentframe()
    if frame is None:
        return "unnamed"
    while frame.f_back is not None and frame.f_globals.get("__name__") in (__name__, "contextlib"):
        frame = frame.f_back
    return frame.f_code.co_name
