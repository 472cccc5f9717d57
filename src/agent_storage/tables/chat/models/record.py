"""A model's record, alone and with its provider."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from pydantic import Field

from agent_storage.statements.records import Count, Input, Jsonb, JsonObject, Key, Money, Record


class NewModel(Input):
    """Fields to create a model. Prices are per million tokens."""

    provider_id: UUID
    name: Key
    display_name: str | None = None
    context_window: Annotated[Count, Field(gt=0)] | None = None
    input_price: Money | None = None
    output_price: Money | None = None
    capabilities: Jsonb[JsonObject] = {}
    enabled: bool = True


class Model(Record, NewModel):
    """A model."""


class ModelWithProvider(Model):
    """A model and who serves it; the provider's key is not part of it."""

    provider_name: str
    provider_kind: str
    base_url: str | None
