"""A call of a language model, and what a run's calls used."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from typing import Annotated, Literal
from uuid import UUID

from pydantic import BaseModel, Field

from agent_storage.statements.records import Count, Input, Json, Jsonb, JsonObject, Key, Record


class NewLlmExecution(Input):
    """Fields to create a call. `metadata` contains the model, its temperature and other parameters."""

    session_id: UUID
    node_id: Key
    success: bool = True
    text: str | None = None
    tool_calls: Jsonb[list[Json]] = []
    input_tokens: Count | None = None
    output_tokens: Count | None = None
    total_tokens: Count | None = None
    cost: Annotated[Decimal, Field(ge=0)] | None = None
    error: str | None = None
    metadata: Jsonb[JsonObject] = {}


class LlmExecution(Record, NewLlmExecution):
    """A call of a language model."""


#: A key to group usage by.
LlmUsageKey = Literal["day", "model", "owner", "workflow"]


class LlmUsage(BaseModel, frozen=True):
    """The usage of calls: their number, the number of failures, tokens and cost.

    A key that is not grouped by is None, as is the one of calls without such: no model, no owner, no workflow.
    """

    day: date | None
    model: str | None
    owner: str | None
    workflow_id: UUID | None
    calls: int
    failures: int
    input_tokens: int
    output_tokens: int
    cost: Decimal


class ModelUsage(BaseModel, frozen=True):
    """The usage of the calls of a run: their number, the number of failures, tokens and cost."""

    calls: int
    failures: int
    input_tokens: int
    output_tokens: int
    cost: Decimal
