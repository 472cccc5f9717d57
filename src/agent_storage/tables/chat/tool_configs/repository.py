"""Tools that agents may call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Unpack
from uuid import UUID

from typing_extensions import TypeVar

from agent_storage.repository import Repository, sql
from agent_storage.statements.lists import Found
from agent_storage.tables.chat.tool_configs.record import NewToolConfig, ToolConfig

if TYPE_CHECKING:
    from agent_storage.tables.changes import ToolConfigChanges

R = TypeVar("R", bound=ToolConfig, default=ToolConfig, covariant=True)
N = TypeVar("N", bound=NewToolConfig, default=NewToolConfig, covariant=True)


class ToolConfigs(Repository[R, N]):
    """Tools that models may call, such as MCP servers, and how to connect to them."""

    table = "tool_configs"
    natural_key = ("name",)

    @sql("SELECT {columns} FROM {table} WHERE name = %(name)s", repeatable=True)
    async def get_by(self, *, name: str) -> R | None:
        """Return the tool of this name, or None."""
        ...

    @sql("SELECT {columns} FROM {table} WHERE enabled ORDER BY name LIMIT %(limit)s", repeatable=True)
    async def enabled(self, limit: int = 100) -> Found[R]:
        """Return the tools that are enabled, by name."""
        ...

    if TYPE_CHECKING:

        async def update(self, id: UUID, /, **changes: Unpack[ToolConfigChanges]) -> R: ...  # noqa: D102
