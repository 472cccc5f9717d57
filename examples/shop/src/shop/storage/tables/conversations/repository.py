"""The shipped repository for a wider record."""

from __future__ import annotations

from typing import TYPE_CHECKING, Unpack
from uuid import UUID

from agent_storage import Found, sql
from agent_storage.tables.chat.conversations.repository import Conversations

from shop.storage.tables.conversations.record import NewShopConversation, ShopConversation

if TYPE_CHECKING:
    from shop.storage.tables.changes import ShopConversationChanges


class ShopConversations(Conversations[ShopConversation, NewShopConversation]):
    """The shipped conversations, with their customers."""

    references = {**Conversations.references, "customer_id": "customers"}

    @sql(
        """
        SELECT {columns}
          FROM {table}
         WHERE customer_id = %(customer_id)s AND archived_at IS NULL
         ORDER BY id DESC
         LIMIT %(limit)s
        """,
        repeatable=True,
    )
    async def by_customer(self, customer_id: UUID, limit: int = 100) -> Found[ShopConversation]:
        """Return the conversations of a customer, newest first. Archived ones are left out."""
        raise NotImplementedError

    if TYPE_CHECKING:
        # More keywords than the shipped method takes: the one place that both checkers have to be told.
        async def update(  # type: ignore[override]
            self,
            id: UUID,
            /,
            **changes: Unpack[ShopConversationChanges],  # pyright: ignore[reportIncompatibleMethodOverride]
        ) -> ShopConversation:
            """Change a conversation."""
            raise NotImplementedError
