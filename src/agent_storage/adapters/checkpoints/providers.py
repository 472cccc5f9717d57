"""Several providers of checkpoints, by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from datetime import datetime, timedelta
from typing import Any, Self, Unpack

from agent_storage.adapters.checkpoints.configuration import configured
from agent_storage.adapters.checkpoints.listing import Listing
from agent_storage.adapters.checkpoints.postgres import PostgresCheckpoints
from agent_storage.adapters.checkpoints.provider import CheckpointProvider
from agent_storage.adapters.checkpoints.tabled import MysqlCheckpoints, SqliteCheckpoints, TabledCheckpoints
from agent_storage.errors import InvalidSettings
from agent_storage.statements.lists import Found, Page
from agent_storage.storage import Storage
from agent_storage.tables.checkpoints.checkpoints.record import (
    AgentStatistics,
    Checkpoint,
    CheckpointSummary,
    NewCheckpoint,
    Pruned,
)

#: The key of a configuration that names the default provider.
DEFAULT = "default"
#: A provider that is configured.
ConfiguredProvider = PostgresCheckpoints | TabledCheckpoints


class CheckpointProviders(CheckpointProvider):
    """Several providers, each on a separate database. It is itself a provider, the active one.

    `{"main": {"url": …}, "laptop": {"type": "sqlite", "path": "agents.db"}, "default": "main"}`: a provider is a URL
    (`postgresql://`, `sqlite:///`, `mysql://`), a mapping of its settings, or a `Storage` that the caller opens and
    closes. `type` is postgres, unless the URL says otherwise. The default one is active; a single provider is the
    default by itself. Connects and migrates when entered (`async with`).
    """

    def __init__(self, configuration: Mapping[str, Any]) -> None:
        """Raise `InvalidSettings` that names the provider, before anything is connected."""
        given = {name: settings for name, settings in configuration.items() if name != DEFAULT}
        if not given:
            raise InvalidSettings("no checkpoint provider is configured; give one, such as {'main': {'url': …}}")
        self._providers = {name: checkpoint_provider(settings, name=name) for name, settings in given.items()}
        self.active_name = self.default_name = self._default_name(configuration.get(DEFAULT))

    def _default_name(self, given: Any) -> str:
        if given is None and len(self._providers) == 1:
            return next(iter(self._providers))
        known = ", ".join(self._providers)
        if given is None:
            raise InvalidSettings(f"say which checkpoint provider is the default: {DEFAULT} must be one of {known}")
        if not isinstance(given, str) or given not in self._providers:
            raise InvalidSettings(f"the default checkpoint provider {given!r} is not configured; known are: {known}")
        return given

    async def initialize(self) -> None:
        """Connect all providers and apply their pending migrations. May be called twice.

        When one fails, all are closed again. Raises `Unavailable`, `MigrationError`.
        """
        try:
            for provider in self._providers.values():
                await provider.initialize()
        except BaseException:
            await self.close()
            raise

    async def open(self) -> Self:
        """Connect all providers; their databases are migrated. When one fails, all are closed again."""
        try:
            for provider in self._providers.values():
                await provider.open()
        except BaseException:
            await self.close()
            raise
        return self

    async def close(self) -> None:
        """Close all providers that were opened here, also when closing one fails. May be called twice."""
        async with AsyncExitStack() as stack:
            for provider in self._providers.values():
                stack.push_async_callback(provider.close)

    async def __aenter__(self) -> Self:
        await self.initialize()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __getitem__(self, name: str) -> ConfiguredProvider:
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
    def active(self) -> ConfiguredProvider:
        """The provider that is meant when none is named."""
        return self._providers[self.active_name]

    def use(self, name: str) -> ConfiguredProvider:
        """Make a provider the active one, and return it. Calls under way end with the one with which they began.

        Raises `InvalidSettings` for an unknown name; the active one then stays.
        """
        provider = self[name]
        self.active_name = name
        return provider

    async def store_checkpoint(self, checkpoint: NewCheckpoint) -> str:
        """Store a checkpoint. Return its id."""
        return await self.active.store_checkpoint(checkpoint)

    async def store_checkpoints(self, checkpoints: Sequence[NewCheckpoint]) -> list[str]:
        """Store several checkpoints, all or none. Return their ids."""
        return await self.active.store_checkpoints(checkpoints)

    async def retrieve_checkpoint(self, id: str) -> Checkpoint | None:
        """Return the checkpoint with its state, or None."""
        return await self.active.retrieve_checkpoint(id)

    async def retrieve_checkpoints(
        self, session_id: str, at: datetime | None = None, *, owner: str | None = None, limit: int = 100
    ) -> Found[Checkpoint]:
        """Return the newest checkpoint of each agent of a session, as of the moment `at`."""
        return await self.active.retrieve_checkpoints(session_id, at, owner=owner, limit=limit)

    async def latest_checkpoint(
        self, agent_id: str, name: str | None = None, *, owner: str | None = None
    ) -> Checkpoint | None:
        """Return the newest checkpoint of an agent, or None."""
        return await self.active.latest_checkpoint(agent_id, name, owner=owner)

    async def list_checkpoints(
        self,
        agent_id: str | None = None,
        session_id: str | None = None,
        limit: int = 100,
        before: datetime | None = None,
        after: datetime | None = None,
        **listing: Unpack[Listing],
    ) -> Page[CheckpointSummary]:
        """Return a page of checkpoints without their states."""
        return await self.active.list_checkpoints(agent_id, session_id, limit, before, after, **listing)

    async def delete_checkpoint(self, id: str) -> bool:
        """Delete the checkpoint. Return whether there was one."""
        return await self.active.delete_checkpoint(id)

    async def prune_checkpoints(
        self,
        max_age: timedelta | None = None,
        max_per_agent: int | None = None,
        *,
        owner: str | None = None,
        keep_latest: bool = True,
    ) -> Pruned:
        """Delete old and superfluous checkpoints. Return the freed amount."""
        return await self.active.prune_checkpoints(max_age, max_per_agent, owner=owner, keep_latest=keep_latest)

    async def checkpoint_statistics(
        self, agent_id: str | None = None, *, owner: str | None = None, limit: int = 100
    ) -> Found[AgentStatistics]:
        """Return the number, the bytes and the newest time of each agent's checkpoints."""
        return await self.active.checkpoint_statistics(agent_id, owner=owner, limit=limit)


def checkpoint_provider(settings: Any, *, name: str = "main") -> ConfiguredProvider:
    """Return the provider of a URL, a mapping of settings or a `Storage`, not yet connected.

    Raises `InvalidSettings` that names the provider.
    """
    if isinstance(settings, Storage):
        return PostgresCheckpoints(settings)
    kind, keywords = configured(name, settings)
    try:
        if kind == "sqlite":
            return SqliteCheckpoints(**keywords)
        if kind == "mysql":
            return MysqlCheckpoints(**keywords)
        return PostgresCheckpoints(keywords.pop("url", None), **keywords)
    except InvalidSettings as error:
        raise InvalidSettings(f"the checkpoint provider {name!r}: {error}") from None
