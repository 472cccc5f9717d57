"""Model providers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Unpack
from uuid import UUID

from typing_extensions import TypeVar

from agent_storage.repository import Repository, sql
from agent_storage.tables.chat.providers.record import NewProvider, Provider

if TYPE_CHECKING:
    from agent_storage.tables.changes import ProviderChanges

R = TypeVar("R", bound=Provider, default=Provider, covariant=True)
N = TypeVar("N", bound=NewProvider, default=NewProvider, covariant=True)


class Providers(Repository[R, N]):
    """Model providers: APIs and their keys."""

    table = "providers"
    natural_key = ("name",)

    @sql("SELECT {columns} FROM {table} WHERE name = %(name)s", repeatable=True)
    async def get_by(self, *, name: str) -> R | None:
        """Return the provider of this name, or None."""
        ...

    if TYPE_CHECKING:

        async def update(self, id: UUID, /, **changes: Unpack[ProviderChanges]) -> R: ...  # noqa: D102
