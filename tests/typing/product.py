"""A product that uses everything public: checked by pyright and mypy, both strict, and never run.

A declared statement's body is `...`; mypy wants a result of a function, and accepts `raise NotImplementedError`.
"""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Unpack, assert_type
from uuid import UUID

from agent_storage import (
    REMOVE,
    Document,
    Found,
    Health,
    Input,
    Jsonb,
    Page,
    Record,
    Repository,
    Storage,
    Stream,
    Where,
    all_of,
    any_of,
    desc,
    field,
    not_,
    sql,
    sync,
)
from agent_storage.tables.changes import ConversationChanges
from agent_storage.tables.chat.conversations.repository import Conversations
from agent_storage.types import BudgetPool, Conversation, Message, MessageUsage, NewBudgetPool, NewConversation


class Address(Document):
    """A document with a shape."""

    city: str
    street: str | None = None


class NewCustomer(Input):
    """Fields to create a customer."""

    email: str
    address: Jsonb[Address | None] = None


class Customer(Record, NewCustomer):
    """A customer."""


class Customers(Repository[Customer, NewCustomer]):
    """Customers."""

    table = "customers"
    natural_key = ("email",)

    @sql("SELECT {columns} FROM {table} WHERE email LIKE %(domain)s", repeatable=True)
    async def by_domain(self, domain: str) -> list[Customer]:
        """Return the customers of a domain."""
        raise NotImplementedError

    @sql("SELECT {columns} FROM {table}", repeatable=True)
    def everybody(self) -> Stream[Customer]:
        """Stream all."""
        raise NotImplementedError


class NewShopConversation(NewConversation):
    """Fields to create a conversation of the shop."""

    customer_id: UUID | None = None


class ShopConversation(Conversation, NewShopConversation):
    """A conversation with a column more."""


class ShopConversationChanges(ConversationChanges, total=False):
    """Keywords of `conversations.update`."""

    customer_id: UUID | None


class ShopConversations(Conversations[ShopConversation, NewShopConversation]):
    """The shipped repository for a wider record."""

    if TYPE_CHECKING:
        # More keywords than the shipped method takes: the one place that both checkers have to be told.
        async def update(  # type: ignore[override]
            self,
            id: UUID,
            /,
            **changes: Unpack[ShopConversationChanges],  # pyright: ignore[reportIncompatibleMethodOverride]
        ) -> ShopConversation:
            """Change a conversation."""
            ...


class Shop(Storage):
    """A storage with a table more, and a wider one."""

    customers: Customers

    @property
    def conversations(self) -> ShopConversations:
        """The wider conversations."""
        raise NotImplementedError


async def use(url: str) -> None:
    """Call what a product calls."""
    async with Shop(url, pool_max=5, statement_timeout=None) as shop:
        async with shop.transaction("serializable", name="order") as tx:
            assert_type(tx, Shop)
            customer = await tx.customers.upsert(NewCustomer(email="ada@example.org", address=Address(city="Oslo")))
            assert_type(customer, Customer)
            chat = await tx.conversations.create(NewShopConversation(title="Trip", customer_id=customer.id))
            assert_type(chat, ShopConversation)
            assert_type(
                await tx.conversations.update(chat.id, title="Trip to Oslo", customer_id=None), ShopConversation
            )
            await tx.messages.update(chat.id, titel="x")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
            message = await tx.messages.append(chat.id, "user", "Which train?")
            assert_type(message, Message)
            async with tx.transaction() as inner:
                assert_type(inner, Shop)
        async with shop.batch() as batch:
            assert_type(batch, Shop)
            later = batch.add(batch.conversations.create, NewShopConversation(title="b"))
            count = batch.add(batch.customers.count)
        assert_type(later.result, ShopConversation)
        assert_type(count.result, int)
        page = await shop.conversations.page(order_by="-id", limit=10)
        assert_type(page, Page[ShopConversation])
        usage = await shop.messages.usage_by("day", "model", owner="ann")
        assert_type(usage, Found[MessageUsage])
        assert_type(usage[0].cost, Decimal)
        await shop.messages.usage_by("week")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        assert_type(await shop.customers.by_domain("%@example.org"), list[Customer])
        assert_type(await shop.customers.get(customer.id), Customer | None)
        some: Where = any_of({"email__like": "ada%"}, not_(field("address", "city", eq="Oslo")))
        assert_type(await shop.customers.find(some, desc("email", nulls="last")), Found[Customer])
        assert_type(await shop.customers.update_where(all_of(some, {"email__ne": "x"}), {"email": "y"}), int)
        assert_type((await shop.customers.count_by("email", some)).more, bool)
        await shop.customers.find(field("email", equals="x"))  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
        await shop.customers.patch(customer.id, address={"street": REMOVE})
        async with shop.customers.everybody() as rows:
            async for row in rows:
                assert_type(row, Customer)

        async def work(tx: Shop) -> BudgetPool:
            return await tx.budget_pools.create(NewBudgetPool(total_budget=Decimal(10)))

        assert_type(await shop.run(work), BudgetPool)
        assert_type(await shop.health(), Health)


def use_sync(url: str) -> None:
    """The same without `await`."""
    with sync.Storage(url) as storage, storage.transaction() as tx:
        assert_type(tx, sync.Storage)
        assert_type(tx.conversations.create(NewConversation(title="a")), Conversation)
        with tx.batch() as batch:
            later = batch.add(batch.messages.count)
        assert_type(later.result, int)
