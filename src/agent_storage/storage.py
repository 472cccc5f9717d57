"""`Storage`: one object that holds the pool and hands out a repository for each table."""

from __future__ import annotations

import asyncio
import inspect
import random
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar

from agent_storage.database.batch import Batch, Later
from agent_storage.database.multiplexed import MultiplexedDatabase
from agent_storage.database.pool import Database
from agent_storage.database.settings import Settings
from agent_storage.database.transaction import Isolation, Transaction
from agent_storage.errors import Retryable
from agent_storage.tables import Tables

T = TypeVar("T")
P = ParamSpec("P")

#: The longest pause before a transaction is tried again, in seconds; each pause is a random part of it.
_BACK_OFF = 0.05


class StorageTransaction(Tables):
    """The repositories of one transaction."""

    def __init__(self, transaction: Transaction) -> None:
        super().__init__(transaction)
        self._transaction = transaction

    @property
    def name(self) -> str:
        """The transaction's name, for logs."""
        return self._transaction.name

    def after_commit(self, callback: Callable[[], Awaitable[object]]) -> None:
        """Call `callback` once the outermost transaction is committed; never when it rolls back."""
        self._transaction.after_commit(callback)

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[StorageTransaction, None]:
        """A savepoint: an exception that leaves the block undoes the block alone."""
        async with self._transaction.begin() as inner:
            yield StorageTransaction(inner)

    @asynccontextmanager
    async def batch(self) -> AsyncGenerator[StorageBatch, None]:
        """Calls that travel together in one round trip when the block ends, as a part of this transaction."""
        batch = Batch(self._transaction)
        yield StorageBatch(batch)
        await batch.send()


class StorageBatch(Tables):
    """The repositories of one batch: `batch.add(batch.messages.append, chat.id, role="user", content="…")`."""

    def __init__(self, batch: Batch) -> None:
        super().__init__(batch)
        self._batch = batch

    def add(self, method: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> Later[T]:
        """Ask for a call; its `result` is there when the block has ended. Calls see what those before them did.

        Arguments are checked now. A method that is not just one statement is refused with `StorageError`.
        """
        return self._batch.add(method, args, kwargs)


class Storage(Tables):
    """Everything an agent platform has to remember. `async with Storage.open() as storage: storage.messages…`"""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.database = database

    @classmethod
    def open(cls, url: str | None = None, **settings: Any) -> Self:
        """A storage on `url`, else on `STORAGE_DATABASE_URL`, `DATABASE_URL` or the embedded server.

        Connects when entered (`async with`), or by `connect()`. `settings` are those of `Settings`. Raises
        `InvalidSettings` here, and `Unavailable` when the database cannot be reached.
        """
        return cls(MultiplexedDatabase(Settings.load(url, **settings)))

    async def connect(self) -> Self:
        """Open the pool. May be called twice."""
        await self.database.open()
        return self

    async def close(self) -> None:
        """Close the pool. May be called twice."""
        await self.database.close()

    async def __aenter__(self) -> Self:
        return await self.connect()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    @asynccontextmanager
    async def transaction(
        self, isolation: Isolation | None = None, *, read_only: bool = False, name: str | None = None
    ) -> AsyncGenerator[StorageTransaction, None]:
        """The same repositories on one connection: leaving the block commits, an exception rolls back.

        `name` (default: the calling function's) appears in logs and errors. Raises `OutcomeUnknown` if the connection
        is lost at COMMIT, `Retryable` for a serialization failure or a deadlock.
        """
        async with self.database.begin(isolation, read_only=read_only, name=name or _caller()) as transaction:
            yield StorageTransaction(transaction)

    @asynccontextmanager
    async def batch(self) -> AsyncGenerator[StorageBatch, None]:
        """Calls that travel together when the block ends, all or nothing: an agent's turn in one round trip or two.

        One when every call is a declared statement that makes or lists rows; else the commit takes another, after all
        methods have accepted what they got. An exception in the block sends nothing. Raises the first call's error.
        """
        batch = Batch(self.database)
        yield StorageBatch(batch)
        await batch.send()

    @property
    def outside(self) -> Tables:
        """The repositories on separate connections, even inside a transaction block."""
        return Tables(self.database.outside)

    async def run(
        self,
        work: Callable[[StorageTransaction], Awaitable[T]],
        *,
        isolation: Isolation | None = None,
        attempts: int = 5,
    ) -> T:
        """`work` in a transaction, from the start again after a serialization failure, a deadlock or a lock time-out.

        At most `attempts` times, with a random pause of up to 50 ms between them.
        """
        name = getattr(work, "__name__", "run")
        for attempt in range(1, attempts + 1):
            transaction: Transaction | None = None
            try:
                async with self.database.begin(isolation, name=name) as transaction:
                    return await work(StorageTransaction(transaction))
            except Retryable:
                if attempt >= attempts or (transaction is not None and transaction.committed):
                    raise  # a callback's error does not repeat what is committed
                await asyncio.sleep(random.uniform(0.001, _BACK_OFF))  # noqa: S311  # jitter, no secret
        raise ValueError("attempts must be at least 1")


def _caller() -> str:
    """The function that opened the transaction: the first frame outside this module and contextlib."""
    frame = inspect.currentframe()
    if frame is None:
        return "unnamed"
    while frame.f_back is not None and frame.f_globals.get("__name__") in (__name__, "contextlib"):
        frame = frame.f_back
    return frame.f_code.co_name
