"""The checkpoint provider protocol of the field, and several named providers in one configuration.

configuration = {"default": "main", "main": {"url": "postgresql:///app"}, "backup": {"url": "postgresql:///backup"}}
async with CheckpointProviders.configure(configuration) as providers:
    id = await providers.default.store_checkpoint(AgentCheckpoint(agent_id="planner", state={"step": 3}))
    await providers["backup"].store_checkpoint(…)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Protocol, Self, cast

from pydantic import ConfigDict, Field

from agent_storage.errors import InvalidSettings, NotFound
from agent_storage.records import Document, Json, Timestamp
from agent_storage.storage import Storage
from agent_storage.types import CheckpointSummary, NewCheckpoint

from .text_ids import to_uuid, to_uuid_or_none


class AgentCheckpoint(Document):
    """An agent's state at a moment. Its id is text; without one, the database makes it."""

    model_config = ConfigDict(extra="forbid")

    id: str | None = None
    agent_id: str
    session_id: str | None = None
    agent_type: str | None = None
    name: str | None = None
    parent_id: str | None = None
    captured_at: Timestamp = Field(default_factory=lambda: datetime.now(UTC))
    state: Json


class CheckpointInfo(Document):
    """A checkpoint without its state. Its id is that of the row, a UUID's text."""

    id: str
    agent_id: str
    session_id: str | None
    agent_type: str | None
    name: str | None
    parent_id: str | None
    captured_at: datetime
    size_bytes: int


class CheckpointProvider(Protocol):
    """What keeps checkpoints. The contract's tests run on any implementation."""

    async def store_checkpoint(self, checkpoint: AgentCheckpoint) -> str:
        """The id that it is retrieved by. Raises `Conflict` for an id that is taken."""
        ...

    async def retrieve_checkpoint(self, id: str) -> AgentCheckpoint | None:
        """The checkpoint with its state, or None."""
        ...

    async def list_checkpoints(
        self,
        agent_id: str | None = None,
        *,
        session_id: str | None = None,
        before: datetime | None = None,
        after: datetime | None = None,
        limit: int = 100,
    ) -> list[CheckpointInfo]:
        """Checkpoints without their states, newest first; `before` and `after` are exclusive."""
        ...


class PostgresCheckpoints:
    """Checkpoints in the `checkpoints` table of a storage. Each operation is one round trip."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage

    async def store_checkpoint(self, checkpoint: AgentCheckpoint) -> str:
        """The id that it is retrieved by: its own text, else a new UUID's. Raises `Conflict`, `MissingReference`."""
        fields = {name: getattr(checkpoint, name) for name in NewCheckpoint.model_fields if name != "id"}
        fields["parent_id"] = to_uuid_or_none(checkpoint.parent_id)
        new = NewCheckpoint(id=to_uuid_or_none(checkpoint.id), **fields)
        stored = await self.storage.checkpoints.store(new)
        return checkpoint.id or str(stored)

    async def retrieve_checkpoint(self, id: str) -> AgentCheckpoint | None:
        """The checkpoint with its state, or None."""
        found = await self.storage.checkpoints.retrieve(to_uuid(id))
        if found is None:
            return None
        shared = AgentCheckpoint.model_fields.keys() & type(found).model_fields.keys()
        fields: dict[str, Any] = {name: getattr(found, name) for name in shared}
        fields |= {"id": id, "parent_id": None if found.parent_id is None else str(found.parent_id)}
        return AgentCheckpoint(**fields)

    async def list_checkpoints(
        self,
        agent_id: str | None = None,
        *,
        session_id: str | None = None,
        before: datetime | None = None,
        after: datetime | None = None,
        limit: int = 100,
    ) -> list[CheckpointInfo]:
        """Checkpoints without their states, newest first; `before` and `after` are exclusive."""
        page = await self.storage.checkpoints.summaries(
            agent_id, limit, session_id=session_id, before=before, after=after
        )
        return [_info(row) for row in page.items]


def _info(row: CheckpointSummary) -> CheckpointInfo:
    fields: dict[str, Any] = {name: getattr(row, name) for name in CheckpointInfo.model_fields}
    fields |= {"id": str(row.id), "parent_id": None if row.parent_id is None else str(row.parent_id)}
    return CheckpointInfo(**fields)


class CheckpointProviders(Mapping[str, PostgresCheckpoints]):
    """Named providers, opened and closed together: `async with CheckpointProviders.configure({…}) as providers:`."""

    def __init__(self, storages: Mapping[str, Storage], default: str) -> None:
        self._storages = dict(storages)
        self._providers = {name: PostgresCheckpoints(storage) for name, storage in storages.items()}
        self._default = default
        self._opened = AsyncExitStack()

    @classmethod
    def configure(cls, configuration: Mapping[str, Any]) -> Self:
        """Providers by name, each with the settings of `Storage.open` (`url` and others).

        `default` names the one that is meant where none is named; a single provider needs none. Raises
        `InvalidSettings` that says which name or setting is wrong.
        """
        named = {name: item for name, item in configuration.items() if name != "default"}
        if not named:
            raise InvalidSettings('no checkpoint provider is configured; write {"main": {"url": "postgresql://…"}}')
        default = configuration.get("default", next(iter(named)) if len(named) == 1 else None)
        if default not in named:
            known = ", ".join(named)
            raise InvalidSettings(f"the default checkpoint provider is {default}; write one of: {known}")
        return cls({name: _storage(name, item) for name, item in named.items()}, str(default))

    @property
    def default(self) -> PostgresCheckpoints:
        """The provider that is meant where none is named."""
        return self._providers[self._default]

    def __getitem__(self, name: str) -> PostgresCheckpoints:
        if name not in self._providers:
            known = ", ".join(self._providers)
            raise NotFound(f"there is no checkpoint provider {name!r}; configured are: {known}")
        return self._providers[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._providers)

    def __len__(self) -> int:
        return len(self._providers)

    async def __aenter__(self) -> Self:
        """Connect all; when one cannot be reached, those that were are closed again."""
        async with AsyncExitStack() as stack:
            for storage in self._storages.values():
                await stack.enter_async_context(storage)
            self._opened = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._opened.aclose()


def _storage(name: str, settings: Any) -> Storage:
    if not isinstance(settings, Mapping):
        raise InvalidSettings(f'the checkpoint provider {name} needs its settings, such as {{"url": "postgresql://…"}}')
    try:
        return Storage.open(**cast(Mapping[str, Any], settings))
    except InvalidSettings as error:
        raise InvalidSettings(f"checkpoint provider {name}: {error}") from None
