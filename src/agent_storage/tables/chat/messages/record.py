"""A message's record and the typed parts of its content."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from typing import Annotated, Any, Literal, cast
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Tag, computed_field

from agent_storage.statements.records import Count, Input, Json, Jsonb, JsonObject, Record
from agent_storage.tables.chat.messages.snippet import snippet

Role = Literal["system", "user", "assistant", "tool"]


class _Part(BaseModel):
    """A part of a message. Fields that a platform adds are kept as they are."""

    model_config = ConfigDict(frozen=True, extra="allow", hide_input_in_errors=True)


class TextPart(_Part):
    """Plain text."""

    type: Literal["text"] = "text"
    text: str


class ImagePart(_Part):
    """An image, by its address (an https or data URL)."""

    type: Literal["image"] = "image"
    url: str


class ToolCallPart(_Part):
    """The model asks for a tool."""

    type: Literal["tool_call"] = "tool_call"
    id: str
    name: str
    arguments: JsonObject


class ToolResultPart(_Part):
    """The result of a tool."""

    type: Literal["tool_result"] = "tool_result"
    tool_call_id: str
    result: Json


class UnknownPart(_Part):
    """A part of a type that this package does not know; it survives a round trip as it is."""

    type: str


_KNOWN = ("text", "image", "tool_call", "tool_result")


def _kind(part: Any) -> str:
    kind = cast(Any, part).get("type") if isinstance(part, dict) else getattr(part, "type", None)
    return kind if kind in _KNOWN else "unknown"


Part = Annotated[
    Annotated[TextPart, Tag("text")]
    | Annotated[ImagePart, Tag("image")]
    | Annotated[ToolCallPart, Tag("tool_call")]
    | Annotated[ToolResultPart, Tag("tool_result")]
    | Annotated[UnknownPart, Tag("unknown")],
    Discriminator(_kind),
]


def _check_search(value: str) -> str:
    if len(value) > 1000:
        raise ValueError("must have at most 1,000 characters")
    return value


#: A message's content: text, or parts.
Content = str | list[Part]
#: A search as it is typed.
SearchText = Annotated[str, AfterValidator(_check_search)]


class NewMessage(Input):
    """Fields to create a message. The database assigns its position."""

    conversation_id: UUID
    role: Role
    content: Jsonb[Content]
    model_id: UUID | None = None
    parent_id: UUID | None = None
    tool_call_id: str | None = None
    input_tokens: Count | None = None
    output_tokens: Count | None = None
    metadata: Jsonb[JsonObject] = {}


class Message(Record, NewMessage):
    """A message. `position` counts from 1 within its conversation; neither of the two ever changes."""

    position: int


#: A key to group usage by.
MessageUsageKey = Literal["day", "model", "owner", "project"]


class MessageUsage(BaseModel, frozen=True):
    """The usage of messages: their number, tokens, and cost in the currency of the models' prices.

    A key that is not grouped by is None, as is the one of messages without such: no model, no owner, no project.
    """

    day: date | None
    model_id: UUID | None
    model: str | None
    owner: str | None
    project_id: UUID | None
    messages: int
    input_tokens: int
    output_tokens: int
    cost: Decimal


class MessageMatch(Message):
    """A message that a search found: how well it fits, and a snippet with the hits between `**`."""

    rank: float
    query: str
    """The search as PostgreSQL ran it, a tsquery."""

    @computed_field  # type: ignore[prop-decorator]
    @property
    def snippet(self) -> str:
        """The words around the first hits, as they were written, each hit between `**`."""
        return snippet(self.content, self.query)
