"""Models and their prices."""

from __future__ import annotations

from uuid import UUID

from agent_storage.repository import Repository, sql
from agent_storage.tables.chat.models.record import Model, ModelWithProvider, NewModel

_WITH_PROVIDER = """
    SELECT {m.columns}, p.name AS provider_name, p.kind AS provider_kind, p.base_url
      FROM models m
      JOIN providers p ON p.id = m.provider_id
"""


class Models(Repository[Model, NewModel]):
    """Models of providers, with context window and prices."""

    table = "models"
    natural_key = ("provider_id", "name")

    @sql(_WITH_PROVIDER + "WHERE m.id = %(id)s")
    async def with_provider(self, id: UUID) -> ModelWithProvider:
        """A model and who serves it, in one round trip. Raises `NotFound`."""
        ...

    @sql(_WITH_PROVIDER + "WHERE m.enabled AND p.enabled ORDER BY p.name, m.name")
    async def enabled(self) -> list[ModelWithProvider]:
        """The models that can be used now, by provider and name."""
        ...
