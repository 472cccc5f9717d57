"""Model providers."""

from __future__ import annotations

from agent_storage.repository import Repository, sql
from agent_storage.tables.chat.providers.record import NewProvider, Provider


class Providers(Repository[Provider, NewProvider]):
    """Providers of models: an API and its key."""

    table = "providers"
    natural_key = ("name",)

    @sql("SELECT {columns} FROM {table} WHERE name = %(name)s", repeatable=True)
    async def named(self, name: str) -> Provider | None:
        """The provider of this name, or None."""
        ...
