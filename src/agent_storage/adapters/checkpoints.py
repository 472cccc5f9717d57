"""Checkpoint providers: the protocol that agents' frameworks expect, on PostgreSQL, and several of them by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack
from datetime import datetime
from types import TracebackType
from typing import Any, Protocol, Self, TypedDict, Unpack, cast, runtime_checkable
from uuid import UUID

from agent_storage.errors import InvalidSettings
from agent_storage.statements.filters import Order, Where
from agent_storage.statements.lists import Page
from agent_storage.storage import Storage
from agent_storage.tables.checkpoints.checkpoints.record import Checkpoint, CheckpointSummary, NewCheckpoint

#: The key of a configuration that names the default provider.
DEFAULT = "default"


class Listing(TypedDict, total=False):
    """Further keywords of `list_checkpoints`: equal fields, other filters, the order, and the page."""

    agent_type: str | None
    name: str | None
    owner: str | None
    where: Where | None
    order_by: Order
    cursor: str | None
    total: bool


@runtime_checkable
class CheckpointProvider(Protocol):
    """A storage of agents' states."""

    async def store_checkpoint(self, checkpoint: NewCheckpoint) -> str:
        """Store a checkpoint. Return its id. Raises `AlreadyExists` if its id is taken, `InvalidValue`."""
        ...

    async def retrieve_checkpoint(self, id: str) -> Checkpoint | None:
        """Return the checkpoint with its state, or None."""
        ...

    async def list_checkpoints(
        self,
        agent_id: str | None = None,
        session_id: str | None = None,
        limit: int = 100,
        before: datetime | None = None,
        after: datetime | None = None,
        **listing: Unpack[Listing],
    ) -> Page[CheckpointSummary]:
        """Return a page of checkpoints without their states, by default those that were captured last first.

        `before` and `after` of their capture are exclusive. `cursor` is the `next_cursor` of the page before. Raises
        `InvalidValue` for a limit that is not from 1 to 1000, a moment without a time zone, an unknown filter or order.
        """
        ...


class PostgresCheckpoints(CheckpointProvider):
    """Checkpoints in the table `checkpoints` of a storage, which the caller opens and closes."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage

    async def initialize(self) -> None:
        """Connect, and apply the pending migrations. May be called twice, and by several processes at once.

        At head, and ahead of it, it only reads. Raises `MigrationError`, `Unavailable`.
        """
        await self.storage.connect(migrate=True)

    async def store_checkpoint(self, checkpoint: NewCheckpoint) -> str:
        """Store a checkpoint. Return its id.

        Raises `AlreadyExists`, `InvalidValue`, `MissingReference` without its parent.
        """
        return str(await self.storage.checkpoints.store(checkpoint))

    async def retrieve_checkpoint(self, id: str) -> Checkpoint | None:
        """Return the checkpoint with its state, or None, also when `id` is no UUID."""
        try:
            row = UUID(id)
        except (ValueError, TypeError, AttributeError):
            return None
        return await self.storage.checkpoints.get(row)

    async def list_checkpoints(
        self,
        agent_id: str | None = None,
        session_id: str | None = None,
        limit: int = 100,
        before: datetime | None = None,
        after: datetime | None = None,
        **listing: Unpack[Listing],
    ) -> Page[CheckpointSummary]:
        """Return a page of checkpoints without their states, by default those that were captured last first.

        One round trip.
        """
        return await self.storage.checkpoints.summaries(
            agent_id, limit, session_id=session_id, before=before, after=after, **listing
        )


class CheckpointProviders(CheckpointProvider):
    """Several providers, each on a separate database. It is itself a provider, the default one.

    `{"main": {"url": …}, "backup": {"url": …}, "default": "main"}`: a provider is a URL, a mapping of the settings of
    `Storage()`, or a `Storage` that the caller opens and closes. A single provider is the default by itself. Connects
    and migrates when entered (`async with`).
    """

    def __init__(self, configuration: Mapping[str, Any]) -> None:
        """Raise `InvalidSettings` that names the provider, before anything is connected."""
        configured = {name: settings for name, settings in configuration.items() if name != DEFAULT}
        if not configured:
            raise InvalidSettings("no checkpoint provider is configured; give one, such as {'main': {'url': …}}")
        self._providers = {name: PostgresCheckpoints(_storage(name, settings)) for name, settings in configured.items()}
        self.default_name = self._default_name(configuration.get(DEFAULT))
        self._storages = [
            provider.storage for name, provider in self._providers.items() if provider.storage is not configured[name]
        ]

    def _default_name(self, given: Any) -> str:
        if given is None and len(self._providers) == 1:
            return next(iter(self._providers))
        known = ", ".join(self._providers)
        if given is None:
            raise InvalidSettings(f"say which checkpoint provider is the default: {DEFAULT} must be one of {known}")
        if not isinstance(given, str) or given not in self._providers:
            raise InvalidSettings(f"the default checkpoint provider {given!r} is not configured; known are: {known}")
        return given

    async def initialize(self) -> Self:
        """Connect all providers and apply their pending migrations. May be called twice.

        When one fails, all are closed again. Raises `Unavailable`, `MigrationError`.
        """
        return await self._start(migrate=True)

    async def open(self) -> Self:
        """Connect all providers; their databases are migrated. When one fails, all are closed again."""
        return await self._start(migrate=False)

    async def _start(self, *, migrate: bool) -> Self:
        try:
            if migrate:
                for provider in self._providers.values():
                    await provider.initialize()
            else:
                for storage in self._storages:
                    await storage.connect()
        except BaseException:
            await self.close()
            raise
        return self

    async def close(self) -> None:
        """Close all providers that were opened here, also when closing one fails. May be called twice."""
        async with AsyncExitStack() as stack:
            for storage in self._storages:
                stack.push_async_callback(storage.close)

    async def __aenter__(self) -> Self:
        return await self.initialize()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def __getitem__(self, name: str) -> PostgresCheckpoints:
        """Return the provider of this name. Raises `InvalidSettings` that lists the known ones."""
        if name not in self._providers:
            known = ", ".join(self._providers)
            raise InvalidSettings(f"no checkpoint provider {name!r} is configured; known are: {known}")
        return self._providers[name]

    def __iter__(self) -> Iterator[str]:
        """Return an iterator over the names, in the order of the configuration."""
        return iter(self._providers)

    def __len__(self) -> int:
        return len(self._providers)

    @property
    def default(self) -> PostgresCheckpoints:
        """The provider that is meant when none is named."""
        return self._providers[self.default_name]

    async def store_checkpoint(self, checkpoint: NewCheckpoint) -> str:
        """Store a checkpoint with the default provider. Return its id."""
        return await self.default.store_checkpoint(checkpoint)

    async def retrieve_checkpoint(self, id: str) -> Checkpoint | None:
        """Return the checkpoint of the default provider, or None."""
        return await self.default.retrieve_checkpoint(id)

    async def list_checkpoints(
        self,
        agent_id: str | None = None,
        session_id: str | None = None,
        limit: int = 100,
        before: datetime | None = None,
        after: datetime | None = None,
        **listing: Unpack[Listing],
    ) -> Page[CheckpointSummary]:
        """Return a page of the checkpoints of the default provider without their states."""
        return await self.default.list_checkpoints(agent_id, session_id, limit, before, after, **listing)


def _storage(name: str, settings: Any) -> Storage:
    """Return the storage of a provider; one that is made here is not yet connected."""
    if isinstance(settings, Storage):
        return settings
    if isinstance(settings, str):
        settings = {"url": settings}
    if not isinstance(settings, Mapping):
        raise InvalidSettings(f"the checkpoint provider {name!r} must be a URL, a mapping of settings or a Storage")
    keywords = {str(key): value for key, value in cast(Mapping[Any, Any], settings).items()}
    try:
        return Storage(keywords.pop("url", None), **keywords)
    except InvalidSettings as error:
        raise InvalidSettings(f"the checkpoint provider {name!r}: {error}") from None
