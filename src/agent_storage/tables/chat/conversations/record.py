"""A conversation's record and what it used."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from uuid import UUID

from pydantic import BaseModel

from agent_storage.statements.records import Input, Jsonb, JsonObject, Key, Record


class NewConversation(Input):
    """Fields to create a conversation."""

    title: str | None = None
    project_id: UUID | None = None
    model_id: UUID | None = None
    owner: Key | None = None
    metadata: Jsonb[JsonObject] = {}


class Conversation(Record, NewConversation):
    """A conversation. `message_count` is also the position of its last message.

    A fork names its origin, None after that was deleted, and the position up to which it was copied.
    """

    message_count: int
    last_message_at: datetime
    archived_at: datetime | None
    forked_from_id: UUID | None
    forked_at_position: int | None


class Usage(BaseModel, frozen=True):
    """The usage of a conversation: messages, tokens, and their cost in the currency of the models' prices."""

    messages: int
    input_tokens: int
    output_tokens: int
    cost: Decimal
