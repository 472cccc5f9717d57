"""Models and their prices."""

from __future__ import annotations

from typing import TYPE_CHECKING, Unpack
from uuid import UUID

from typing_extensions import TypeVar

from agent_storage.repository import Repository, sql
from agent_storage.statements.lists import Found
from agent_storage.tables.chat.models.record import Model, ModelWithProvider, NewModel

if TYPE_CHECKING:
    from agent_storage.tables.changes import ModelChanges

_WITH_PROVIDER = """
    SELECT {m.columns}, p.name AS provider_name, p.kind AS provider_kind, p.base_url
      FROM models m
      JOIN providers p ON p.id = m.provider_id
"""

R = TypeVar("R", bound=Model, default=Model, covariant=True)
N = TypeVar("N", bound=NewModel, default=NewModel, covariant=True)


class Models(Repository[R, N]):
    """Language models of a provider, with context windows and prices."""

    table = "models"
    natural_key = ("provider_id", "name")
    references = {"provider_id": "providers"}

    @sql("SELECT {columns} FROM {table} WHERE provider_id = %(provider_id)s AND name = %(name)s", repeatable=True)
    async def get_by(self, *, provider_id: UUID, name: str) -> R | None:
        """Return the model of this provider and name, or None."""
        ...

    @sql(_WITH_PROVIDER + "WHERE m.id = %(id)s", repeatable=True)
    async def with_provider(self, id: UUID) -> ModelWithProvider:
        """Return a model with its provider, in one round trip. Raises `NotFound`."""
        ...

    @sql(_WITH_PROVIDER + "WHERE m.enabled AND p.enabled ORDER BY p.name, m.name LIMIT %(limit)s", repeatable=True)
    async def enabled(self, limit: int = 100) -> Found[ModelWithProvider]:
        """Return the models that are enabled, as their providers are, by provider and name."""
        ...

    if TYPE_CHECKING:

        async def update(self, id: UUID, /, **changes: Unpack[ModelChanges]) -> R: ...  # noqa: D102
