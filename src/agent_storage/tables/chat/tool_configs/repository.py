"""Tools that agents may call."""

from __future__ import annotations

from agent_storage.repository import Repository, sql
from agent_storage.tables.chat.tool_configs.record import NewToolConfig, ToolConfig


class ToolConfigs(Repository[ToolConfig, NewToolConfig]):
    """Tools that models may call, such as MCP servers, and how to connect to them."""

    table = "tool_configs"
    natural_key = ("name",)

    @sql("SELECT {columns} FROM {table} WHERE name = %(name)s", repeatable=True)
    async def named(self, name: str) -> ToolConfig | None:
        """The tool of this name, or None."""
        ...

    @sql("SELECT {columns} FROM {table} WHERE enabled ORDER BY name", repeatable=True)
    async def enabled(self) -> list[ToolConfig]:
        """The tools that can be used now, by name."""
        ...
