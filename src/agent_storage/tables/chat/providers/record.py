"""A provider's record."""

from __future__ import annotations

from pydantic import SecretStr

from agent_storage.statements.records import Encrypted, Input, Jsonb, JsonObject, Key, Record


class NewProvider(Input):
    """Fields to create a provider. `kind` is its API (openai, anthropic, …)."""

    name: Key
    kind: Key
    base_url: str | None = None
    api_key: Encrypted[SecretStr] | None = None
    enabled: bool = True
    settings: Jsonb[JsonObject] = {}


class Provider(Record, NewProvider):
    """A provider."""
