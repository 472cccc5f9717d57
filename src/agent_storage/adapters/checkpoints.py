"""Checkpoint providers: the protocol that agents' frameworks expect, on PostgreSQL, and several of them by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack
from datetime import datetime
from types import TracebackType
from typing import Any, Protocol, Self, cast, runtime_checkable

from agent_storage import Storage
from agent_storage.adapters.text_ids import row_id
from agent_storage.errors import InvalidSettings, InvalidValue
from agent_storage.types import Checkpoint, CheckpointSummary, NewCheckpoint

#: The key of a configuration that names the default provider.
DEFAULT = "default"


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
    ) -> list[CheckpointSummary]:
        """List checkpoints (of an agent, of a session) without their states, the one that was captured last first.

        `before` and `after` are exclusive. Raises `InvalidValue` for a limit that is not from 1 to 1000, and for a
        moment without a time zone.
        """
        ...


class PostgresCheckpoints(CheckpointProvider):
    """Checkpoints in the table `checkpoints` of a storage, which the caller opens and closes."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage

    async def store_checkpoint(self, checkpoint: NewCheckpoint) -> str:
        """Store a checkpoint. Return its id.

        Raises `AlreadyExists`, `InvalidValue`, `MissingReference` without its parent.
        """
        return str(await self.storage.checkpoints.store(checkpoint))

    async def retrieve_checkpoint(self, id: str) -> Checkpoint | None:
        """Return the checkpoint with its state, or None, also when `id` is no UUID."""
        return await self.storage.checkpoints.get(row_id(id))

    async def list_checkpoints(
        self,
        agent_id: str | None = None,
        session_id: str | None = None,
        limit: int = 100,
        before: datetime | None = None,
        after: datetime | None = None,
    ) -> list[CheckpointSummary]:
        """List checkpoints without their states, the one that was captured last first; one round trip."""
        for name, moment in (("before", before), ("after", after)):
            if moment is not None and moment.tzinfo is None:  # a filter would take it for the session's time zone
                raise InvalidValue(f"checkpoints: {name} must have a time zone, such as datetime.now(UTC)", column=name)
        page = await self.storage.checkpoints.summaries(
            agent_id, limit, session_id=session_id, before=before, after=after
        )
        return page.items


class CheckpointProviders(CheckpointProvider):
    """Several providers, each on a separate database. It is itself a provider, the default one.

    `{"main": {"url": …}, "backup": {"url": …}, "default": "main"}`: a provider is a URL or a mapping of the settings of
    `Storage()`. A single provider is the default by itself. Connects when entered (`async with`).
    """

    def __init__(self, configuration: Mapping[str, Any]) -> None:
        """Raise `InvalidSettings` that names the provider, before anything is connected."""
        configured = {name: settings for name, settings in configuration.items() if name != DEFAULT}
        if not configured:
            raise InvalidSettings("no checkpoint provider is configured; give one, such as {'main': {'url': …}}")
        self._storages = {name: _storage(name, settings) for name, settings in configured.items()}
        self._providers = {name: PostgresCheckpoints(storage) for name, storage in self._storages.items()}
        self.default_name = self._default_name(configuration.get(DEFAULT))
        self._open = AsyncExitStack()

    def _default_name(self, given: Any) -> str:
        if given is None and len(self._providers) == 1:
            return next(iter(self._providers))
        known = ", ".join(self._providers)
        if given is None:
            raise InvalidSettings(f"say which checkpoint provider is the default: {DEFAULT} must be one of {known}")
        if not isinstance(given, str) or given not in self._providers:
            raise InvalidSettings(f"the default checkpoint provider {given!r} is not configured; known are: {known}")
        return given

    async def open(self) -> Self:
        """Connect all providers. When one cannot be reached, the others are closed again. Raises `Unavailable`."""
        async with AsyncExitStack() as stack:
            for storage in self._storages.values():
                await stack.enter_async_context(storage)
            self._open = stack.pop_all()
        return self

    async def close(self) -> None:
        """Close all providers, also when closing one fails. May be called twice."""
        await self._open.aclose()

    async def __aenter__(self) -> Self:
        return await self.open()

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
    ) -> list[CheckpointSummary]:
        """List the checkpoints of the default provider without their states."""
        return await self.default.list_checkpoints(agent_id, session_id, limit, before, after)


def _storage(name: str, settings: Any) -> Storage:
    """The storage of a provider, not yet connected."""
    if isinstance(settings, str):
        settings = {"url": settings}
    if not isinstance(settings, Mapping):
        raise InvalidSettings(f"the checkpoint provider {name!r} must be a URL or a mapping of settings")
    keywords = {str(key): value for key, value in cast(Mapping[Any, Any], settings).items()}
    try:
        return Storage(keywords.pop("url", None), **keywords)
    except InvalidSettings as error:
        raise InvalidSettings(f"the checkpoint provider {name!r}: {error}") from None
