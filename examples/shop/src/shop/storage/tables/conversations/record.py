"""The shipped record with a column more."""

from __future__ import annotations

from uuid import UUID

from agent_storage.types import Conversation, NewConversation


class NewShopConversation(NewConversation):
    """Fields to create a conversation of the shop."""

    customer_id: UUID | None = None


class ShopConversation(Conversation, NewShopConversation):
    """A conversation of the shop."""
