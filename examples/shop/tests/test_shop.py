"""Orders are placed in conversations, on both faces."""

from __future__ import annotations

from collections.abc import AsyncIterator
from decimal import Decimal

import pytest
from agent_storage import AlreadyExists, InvalidTransition
from agent_storage.testing import rolled_back

from shop.storage import Shop
from shop.storage.sync import Shop as SyncShop
from shop.storage.tables.conversations.record import NewShopConversation
from shop.storage.tables.customers.record import NewCustomer


@pytest.fixture
async def shop(emptied_database: str) -> AsyncIterator[Shop]:
    async with Shop(emptied_database) as opened, rolled_back(opened) as fresh:
        yield fresh


async def test_an_order_is_placed_in_the_conversation_of_a_customer(shop: Shop) -> None:
    ada = await shop.customers.create(NewCustomer(email="ada@example.org"))
    chat = await shop.conversations.create(NewShopConversation(title="Lamps", customer_id=ada.id))
    order = await shop.order(chat.id, Decimal("19.90"))
    assert (await shop.messages.latest(chat.id, 1))[0].content == f"Order {order.id} is placed."
    assert await shop.orders.by_customer(ada.id) == [order]
    assert (await shop.orders.pay(order.id)).status == "paid"
    with pytest.raises(InvalidTransition):
        await shop.orders.update(order.id, status="open")


async def test_the_shipped_methods_know_the_customer(shop: Shop) -> None:
    ada = await shop.customers.create(NewCustomer(email="ada@example.org"))
    chat = await shop.conversations.create(NewShopConversation(customer_id=ada.id))
    assert (await shop.conversations.recent()).items[0].customer_id == ada.id
    assert (await shop.conversations.archive(chat.id)).customer_id == ada.id
    assert await shop.conversations.by_customer(ada.id) == []


def test_an_order_is_placed_on_the_sync_face(migrated_database: str) -> None:
    with SyncShop(migrated_database) as shop:
        ada = shop.customers.create(NewCustomer(email="ada@example.org"))
        chat = shop.conversations.create(NewShopConversation(customer_id=ada.id))
        assert shop.order(chat.id, Decimal(5)).total == 5
        with pytest.raises(AlreadyExists):
            shop.customers.create(NewCustomer(email="ada@example.org"))
        with pytest.raises(ValueError, match="has no customer"):
            shop.order(shop.conversations.create(NewShopConversation()).id, Decimal(5))
        assert shop.orders.count() == 1


@pytest.mark.parametrize("again", [1, 2])
def test_an_emptied_database_has_no_customers(emptied_database: str, again: int) -> None:
    with SyncShop(emptied_database) as shop:
        assert shop.customers.count() == 0
        shop.customers.create(NewCustomer(email=f"{again}@example.org"))
