"""A tool's record."""

from __future__ import annotations

from typing import Literal

from pydantic import SecretStr

from agent_storage.statements.records import Encrypted, Input, Jsonb, JsonObject, Key, Record


class NewToolConfig(Input):
    """Fields to create a tool: its connection, and the JSON Schema of its arguments. `env` is stored encrypted."""

    name: Key
    transport: Literal["stdio", "http", "sse"] = "stdio"
    command: str | None = None
    args: Jsonb[list[str]] = []
    url: str | None = None
    env: Encrypted[dict[str, SecretStr]] | None = None
    input_schema: Jsonb[JsonObject] = {}
    enabled: bool = True
    metadata: Jsonb[JsonObject] = {}


class ToolConfig(Record, NewToolConfig):
    """A tool."""
