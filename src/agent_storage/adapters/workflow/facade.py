"""`WorkflowStorage`: every operation that a workflow engine expects of its storage, in one object."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Self

from agent_storage.adapters.workflow.calls import Calls
from agent_storage.adapters.workflow.decisions import Decisions
from agent_storage.adapters.workflow.runs import Runs
from agent_storage.errors import StorageError, Unavailable
from agent_storage.storage import Storage


class WorkflowStorage(Runs, Calls, Decisions):
    """Workflows, runs, calls, budgets, approvals and events, with ids that are any text.

    Over a `Storage` of the caller's, or one that it opens itself on a URL (none: as `Storage()` finds it). It
    closes what it opened and nothing else. `initialize()` applies the migrations that the database lacks, unless
    `migrate=False`.
    """

    def __init__(self, storage_or_url: Storage | str | None = None, *, migrate: bool = True) -> None:
        """Raise `InvalidSettings` for a URL that cannot be used."""
        self._migrate = migrate
        self._storage = storage_or_url if isinstance(storage_or_url, Storage) else Storage(storage_or_url)
        self._opened = False
        super().__init__(self._storage)

    async def initialize(self) -> None:
        """Connect, unless the storage is open, and apply missing migrations. May be called twice.

        Several processes may do so at once: one of them applies. Raises `Unavailable`, and `MigrationError` if the
        role may not, or if the database's history contradicts the shipped migrations.
        """
        was_open = await _is_open(self._storage)
        if self._migrate or not was_open:
            await self._storage.connect(migrate=self._migrate or None)
        self._opened = self._opened or not was_open
        self._migrate = False

    async def close(self) -> None:
        """Close the storage if `initialize` opened it. May be called twice."""
        if self._opened:
            self._opened = False
            await self._storage.close()

    async def __aenter__(self) -> Self:
        await self.initialize()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    @asynccontextmanager
    async def begin_transaction(self) -> AsyncGenerator[WorkflowStorage, None]:
        """Yield a `WorkflowStorage` on one transaction: leaving the block commits, an exception rolls all of it back.

        Within a transaction it is a savepoint. The outer object raises `PoolUsedInTransaction` inside the block.
        """
        async with self._tables.transaction() as transaction:
            yield _InTransaction(self._storage, transaction)


class _InTransaction(WorkflowStorage):
    """The facade on one transaction; there is nothing to connect or close."""

    def __init__(self, storage: Storage, transaction: Storage) -> None:
        super().__init__(storage)
        self._tables = transaction

    async def initialize(self) -> None:
        """Nothing to do: a transaction is connected."""

    async def close(self) -> None:
        """Nothing to do: the block ends the transaction."""


async def _is_open(storage: Storage) -> bool:
    try:
        async with storage.connection():
            return True
    except Unavailable:  # it is, though there is no connection to be had now
        return True
    except StorageError:
        return False
