"""`Storage`: how it is made, what a subclass of it adds, and what it says of its database."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest

import agent_storage
from agent_storage import AlreadyExists, Health, InvalidSettings, Repository, StorageError, sql, sync
from agent_storage.migrations import Migrator
from agent_storage.statements.records import Input, Record
from agent_storage.sync.tables.chat.conversations.repository import Conversations as SyncConversations
from agent_storage.tables.chat.conversations.repository import Conversations
from agent_storage.types import Conversation, NewConversation

TABLES = """
CREATE TABLE customers (
    id          uuid PRIMARY KEY DEFAULT uuid_v7(),
    email       text NOT NULL UNIQUE,
    created_at  timestamptz NOT NULL DEFAULT now(),
    updated_at  timestamptz NOT NULL DEFAULT now()
);
ALTER TABLE conversations ADD COLUMN customer_id uuid REFERENCES customers (id);
"""


class NewCustomer(Input):
    email: str


class Customer(Record, NewCustomer):
    pass


class NewShopConversation(NewConversation):
    customer_id: UUID | None = None


class ShopConversation(Conversation, NewShopConversation):
    pass


class Customers(Repository[Customer, NewCustomer]):
    """Customers."""

    table = "customers"
    natural_key = ("email",)


class ShopConversations(Conversations[ShopConversation, NewShopConversation]):
    """Conversations with the customer that they belong to."""

    @sql("SELECT {columns} FROM {table} WHERE customer_id = %(customer_id)s ORDER BY id DESC", repeatable=True)
    async def by_customer(self, customer_id: UUID) -> list[ShopConversation]:
        """Return the conversations of a customer, newest first."""
        ...


class Shop(agent_storage.Storage):
    """A storage with a table and a column more."""

    customers: Customers

    @property
    def conversations(self) -> ShopConversations:
        """Conversations with the customer that they belong to."""
        ...


class SyncCustomers(sync.Repository[Customer, NewCustomer]):
    """Customers."""

    table = "customers"
    natural_key = ("email",)


class SyncShopConversations(SyncConversations[ShopConversation, NewShopConversation]):
    """Conversations with the customer that they belong to."""

    @sync.sql("SELECT {columns} FROM {table} WHERE customer_id = %(customer_id)s ORDER BY id DESC", repeatable=True)
    def by_customer(self, customer_id: UUID) -> list[ShopConversation]:
        """Return the conversations of a customer, newest first."""
        ...


class SyncShop(sync.Storage):
    """The same without `await`."""

    customers: SyncCustomers
    conversations: SyncShopConversations  # an annotation does, too


@pytest.fixture
def shop(migrated: str) -> Iterator[str]:
    """A database with the tables of the shop beside the shipped ones."""
    with psycopg.connect(migrated, autocommit=True) as connection:
        connection.execute(TABLES)
    yield migrated


async def test_a_storage_is_made_at_once_and_connects_when_it_is_entered(migrated: str) -> None:
    storage = agent_storage.Storage(migrated, pool_max=2)
    with pytest.raises(StorageError, match="not open"):
        await storage.conversations.count()
    async with storage:
        assert await storage.conversations.count() == 0
    async with storage as again:  # and connects again
        assert again is storage
        assert await storage.conversations.count() == 0


def test_a_wrong_setting_is_refused_when_the_storage_is_made() -> None:
    with pytest.raises(InvalidSettings, match="pool_max"):
        agent_storage.Storage("postgresql://localhost/x", pool_max=0)
    with pytest.raises(InvalidSettings, match=r"unknown setting pool_maximum; known are: .*pool_max"):
        agent_storage.Storage("postgresql://localhost/x", pool_maximum=3)


async def test_a_subclass_has_its_own_tables_everywhere(shop: str) -> None:
    async with Shop(shop) as storage:
        async with storage.transaction() as tx:
            assert type(tx) is Shop
            customer = await tx.customers.upsert(NewCustomer(email="ada@example.org"))
            async with tx.transaction() as inner:
                assert type(inner) is Shop
                chat = await inner.conversations.create(NewShopConversation(title="a", customer_id=customer.id))
        async with storage.batch() as batch:
            assert type(batch) is Shop
            later = batch.add(batch.conversations.create, NewShopConversation(title="b", customer_id=customer.id))
        found = await storage.conversations.by_customer(customer.id)
        assert found == [later.result, chat]
        assert await storage.autonomous.customers.count() == 1

        async def work(tx: Shop) -> int:
            return await tx.customers.count()

        assert await storage.run(work) == 1
        assert {"customers", "conversations", "messages", "transaction"} <= set(dir(storage))


async def test_a_wider_record_comes_back_from_every_inherited_statement(shop: str) -> None:
    async with Shop(shop) as storage:
        customer = await storage.customers.create(NewCustomer(email="ada@example.org"))
        made = await storage.conversations.create(NewShopConversation(title="a", customer_id=customer.id))
        await storage.messages.append(made.id, "user", "Hello")
        assert type(made) is ShopConversation
        recent: list[ShopConversation] = list(await storage.conversations.recent())
        assert [one.customer_id for one in recent] == [customer.id]
        changed = await storage.conversations.update(made.id, customer_id=None)
        assert changed.customer_id is None
        page = await storage.conversations.page({"customer_id__is_null": True})
        assert [one.id for one in page.items] == [made.id]
        forked = await storage.conversations.fork(made.id)
        assert type(forked) is ShopConversation
        assert (await storage.conversations.usage(made.id)) is not None


def test_the_same_on_the_sync_face(shop: str) -> None:
    with SyncShop(shop) as storage, storage.transaction() as tx:
        assert type(tx) is SyncShop
        customer = tx.customers.create(NewCustomer(email="ada@example.org"))
        chat = tx.conversations.create(NewShopConversation(title="a", customer_id=customer.id))
        assert tx.conversations.by_customer(customer.id) == [chat]
        assert type(tx.conversations.require(chat.id)) is ShopConversation


async def test_the_shipped_repository_keeps_to_its_own_record_beside_a_wider_one(shop: str) -> None:
    async with Shop(shop) as wide, agent_storage.Storage(shop) as plain:
        made = await wide.conversations.create(NewShopConversation(title="a"))
        assert type(await plain.conversations.require(made.id)) is Conversation
        assert Conversations.record is Conversation
        assert ShopConversations.record is ShopConversation


async def test_what_belongs_to_a_transaction_or_a_batch_is_refused_elsewhere(migrated: str) -> None:
    async def nothing() -> None: ...

    async with agent_storage.Storage(migrated) as storage:
        with pytest.raises(StorageError, match="belongs to a batch"):
            storage.add(storage.conversations.count)
        with pytest.raises(StorageError, match="belongs to a transaction"):
            storage.after_commit(nothing)
        async with storage.transaction() as tx:
            for call in (tx.connect, tx.close):
                with pytest.raises(StorageError, match="have no pool"):
                    await call()
        async with storage.batch() as batch:
            with pytest.raises(StorageError, match="has no batches"):
                async with batch.batch():
                    pass


async def test_sql_of_your_own_runs_on_the_connection_of_the_block(migrated: str) -> None:
    async with agent_storage.Storage(migrated) as storage:
        async with storage.transaction() as tx:
            made = await tx.conversations.create(NewConversation(title="a"))
            async with tx.connection() as connection:
                row = await (await connection.execute("SELECT title FROM conversations")).fetchone()
            assert row == ("a",)
        async with storage.connection() as connection:
            row = await (await connection.execute("SELECT id FROM conversations")).fetchone()
        assert row == (made.id,)


async def test_an_unknown_table_is_an_error_that_lists_the_known(migrated: str) -> None:
    storage: Any = agent_storage.Storage(migrated)
    with pytest.raises(AttributeError, match=r"no table 'conversation'; tables are: .*conversations"):
        _ = storage.conversation


def test_a_repository_in_a_function_may_be_named_by_an_annotation(migrated: str) -> None:
    class Here(Repository[Customer, NewCustomer]):
        """Customers."""

        table = "customers"

    class Local(agent_storage.Storage):
        """A storage."""

        here: Here
        since: datetime

    assert isinstance(Local(migrated).here, Here)


async def test_health_says_how_far_behind_a_database_is(database: str) -> None:
    async with agent_storage.Storage(database) as storage:
        health = await storage.health()
        assert (health.reachable, health.migrated, bool(health)) == (True, False, False)
        assert health.pending == tuple(file.id for file in Migrator(database).files())
        await asyncio.to_thread(Migrator(database).up)
        health = await storage.health()
        assert health and health.pending == () and health.problems == ()
        assert health.server_version and health.server_version >= 140000
        assert health.seconds is not None and health.seconds > 0


async def test_health_covers_the_sources_of_the_storage(migrated: str, tmp_path: Path) -> None:
    (tmp_path / "shop" / "migrations").mkdir(parents=True)
    (tmp_path / "shop" / "migrations" / "20260101000000_a.sql").write_text("CREATE TABLE a ();", "utf-8")
    (tmp_path / "shop" / "migrations" / "20260101000000_a.rollback.sql").write_text("DROP TABLE a;", "utf-8")
    async with agent_storage.Storage(migrated, sources=[tmp_path / "shop"]) as storage:
        health = await storage.health()
        assert (health.migrated, health.pending) == (False, ("shop:20260101000000_a",))
        await storage.connect(migrate=True)
        assert await storage.health()


def test_health_of_the_sync_face(migrated: str) -> None:
    with sync.Storage(migrated) as storage:
        assert storage.health()


async def test_health_of_a_database_that_is_gone_is_no_exception(migrated: str) -> None:
    async with agent_storage.Storage(migrated, pool_timeout=0.5) as storage:
        await storage.conversations.count()
        with psycopg.connect(migrated, autocommit=True, dbname="postgres") as admin:
            name = psycopg.conninfo.conninfo_to_dict(migrated)["dbname"]
            admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
            admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,))
            try:
                health: Health = await storage.health()
            finally:
                admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')
        assert not health
        assert not health.reachable
        assert health.error


def test_importing_the_package_needs_no_driver_and_completes_its_names() -> None:
    program = "import agent_storage as it, sys; print('psycopg' in sys.modules, set(it.__all__) <= set(dir(it)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]


async def test_a_subclass_of_a_repository_may_add_statements_alone(migrated: str) -> None:
    class Loud(Conversations):
        """Conversations with a statement more."""

        @sql("SELECT count(*) FROM {table} WHERE title = upper(title)", repeatable=True)
        async def loud(self) -> int:
            """Return how many titles are in capitals."""
            ...

    async with agent_storage.Storage(migrated) as storage:
        loud = Loud(storage)
        await loud.create(NewConversation(title="HELLO"))
        assert await loud.loud() == 1
        assert len(await loud.recent()) == 1
        (row,) = await loud.recent()
        assert await loud.create(row) == row
        with pytest.raises(AlreadyExists, match="differs in title"):
            await loud.create(row.model_copy(update={"title": "BYE"}))
