"""Products side by side in one database: two in schemas of their own, one in `public`."""

from __future__ import annotations

import asyncio
import threading
import uuid
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

import agent_storage
from agent_storage import sync
from agent_storage.errors import MigrationError
from agent_storage.migrations import Migrator
from agent_storage.migrations.errors import Pending
from agent_storage.sources import at
from agent_storage.types import NewConversation, NewStreamEvent

from .contract.test_streams import follow

SCHEMAS = ["public", "one", "Two"]
EVENTS = 60


def test_each_sees_its_own_history_tables_and_drift_alone(database: str, tmp_path: Path) -> None:
    migrators = {schema: Migrator(database, schema=schema) for schema in SCHEMAS}
    migrators["one"].up()
    assert migrators["one"].status().at_head
    assert len(migrators["public"].status().pending) == len(migrators["Two"].status().pending) > 10
    migrators["public"].up()
    migrators["Two"].up(3)
    assert [len(one.status().applied) for one in migrators.values()] == [
        len(migrators["one"].files()),
        len(migrators["one"].files()),
        3,
    ]
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("ALTER TABLE one.boards ADD COLUMN more int; CREATE TABLE another (id int)")
        connection.execute('CREATE INDEX lost ON "Two".conversations (title)')
        connection.execute("UPDATE pg_index SET indisvalid = false WHERE indexrelid = '\"Two\".lost'::regclass")
    drifts = {schema: [one.object for one in found.drift().drift] for schema, found in migrators.items()}
    assert drifts["one"] == ["one.boards.more"]
    assert all("one." not in name and "Two" not in name for name in drifts["public"])
    assert all("one." not in name and "public." not in name for name in drifts["Two"])
    migrators["one"].down(all=True)
    assert migrators["public"].status().at_head
    assert len(migrators["Two"].status().applied) == 3


async def test_each_follows_and_waits_for_its_own_rows(database: str) -> None:
    """The same streams and, by chance, the same ids in all three. A wake-up from another schema reads nothing."""
    storages = [agent_storage.Storage(database, schema=schema, migrate=True) for schema in SCHEMAS]
    await asyncio.gather(*(storage.connect() for storage in storages))
    try:
        followers = [asyncio.create_task(follow(storage, "run", EVENTS)) for storage in storages]
        with psycopg.connect(database, autocommit=True) as listening:
            listening.execute('LISTEN "event_streams.one"')
            await asyncio.gather(
                *(_publish(storage, schema) for storage, schema in zip(storages, SCHEMAS, strict=True))
            )
            seen = await asyncio.wait_for(asyncio.gather(*followers), 60)
            heard = list(listening.notifies(timeout=0))
        assert seen == [list(range(1, EVENTS + 1))] * 3
        assert {one.payload for one in heard} == {"run", "of one"}, "nothing of the others"
        for storage, schema in zip(storages, SCHEMAS, strict=True):
            events = await storage.stream_events.read("run", limit=EVENTS)
            assert {event.node_id for event in events} == {schema}
    finally:
        await asyncio.gather(*(storage.close() for storage in storages))


async def _publish(storage: agent_storage.Storage, schema: str) -> None:
    await storage.stream_events.publish(f"of {schema}")
    for _ in range(EVENTS // 10):
        await storage.stream_events.publish_many("run", [NewStreamEvent(stream_id="run", node_id=schema)] * 10)


async def test_one_writes_while_another_migrates_up_and_down_and_a_schema_is_dropped(database: str) -> None:
    for schema in SCHEMAS:
        Migrator(database, schema=schema).up()
    done = threading.Event()

    def up_and_down() -> int:
        migrator, rounds = Migrator(database, schema="one", wait=30), 0
        while not done.is_set():
            migrator.down(all=True)
            migrator.up()
            rounds += 1
        return rounds

    async with (
        agent_storage.Storage(database, schema="public") as public,
        agent_storage.Storage(database, schema="Two") as two,
    ):
        rounds = asyncio.create_task(asyncio.to_thread(up_and_down))
        try:
            for number in range(100):
                made = await asyncio.gather(
                    *(
                        storage.conversations.create(NewConversation(title=f"{name} {number}"))
                        for storage, name in ((public, "public"), (two, "two")) * 4
                    )
                )
                await asyncio.gather(
                    *(
                        storage.messages.append(chat.id, "user", "Hello")
                        for storage, chat in zip((public, two) * 4, made, strict=True)
                    )
                )
        finally:
            done.set()
        assert await rounds >= 1
        with psycopg.connect(database, autocommit=True) as admin:
            admin.execute("DROP SCHEMA one CASCADE")
        for storage, name in ((public, "public"), (two, "two")):
            assert await storage.conversations.count() == 400
            assert {str(chat.title).split()[0] for chat in await storage.conversations.find(limit=1000)} == {name}
            assert await storage.messages.count() == 400
    assert Migrator(database, schema="public").status().at_head
    assert Migrator(database, schema="Two").drift().drift == []
    assert len(Migrator(database, schema="one").status().applied) == 0


def test_migrators_of_two_schemas_do_not_wait_for_each_other(database: str, tmp_path: Path) -> None:
    """Each holds its lock while the other applies migrations, an index built without blocking among them."""
    (tmp_path / "20260101000000_a.sql").write_text("CREATE TABLE a (id int, name text);")
    (tmp_path / "20260101000000_a.rollback.sql").write_text("DROP TABLE a;")
    (tmp_path / "20260102000000_b.sql").write_text(
        "-- transactional: false\nCREATE INDEX CONCURRENTLY a_name_idx ON a (lower(name)) WHERE id > 0;"
    )
    (tmp_path / "20260102000000_b.rollback.sql").write_text(
        "-- transactional: false\nDROP INDEX CONCURRENTLY a_name_idx;"
    )
    failed: list[BaseException] = []

    def work(schema: str) -> None:
        try:
            migrator = Migrator(database, tmp_path, schema=schema, wait=20)
            for _ in range(5):
                migrator.up()
                migrator.down(2)
        except BaseException as error:
            failed.append(error)

    first = Migrator(database, tmp_path, schema="one")
    with first.session() as session, first.holding_lock(session):
        Migrator(database, tmp_path, schema="Two", wait=0).up()
    threads = [threading.Thread(target=work, args=(schema,)) for schema in ["one", "Two", "three"]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert failed == []
    assert not any(thread.is_alive() for thread in threads)


@pytest.mark.parametrize("schema", [None, "agent"])
def test_many_replicas_that_migrate_when_they_open_apply_each_migration_once(database: str, schema: str | None) -> None:
    failed: list[BaseException] = []

    def start() -> None:
        try:
            with sync.Storage(database, schema=schema, migrate=True, pool_max=1) as storage:
                storage.conversations.create(NewConversation(title="replica"))
        except BaseException as error:
            failed.append(error)

    replicas = [threading.Thread(target=start) for _ in range(12)]
    for replica in replicas:
        replica.start()
    for replica in replicas:
        replica.join(120)
    assert failed == []
    with sync.Storage(database, schema=schema, migrate="fail") as storage:
        assert storage.conversations.count() == 12
    with psycopg.connect(Migrator(database, schema=schema).conninfo) as connection:
        log = connection.execute("SELECT count(*), count(DISTINCT migration_id) FROM _yoyo_log").fetchone()
        assert log is not None
        assert log[0] == log[1]


async def test_a_storage_waits_for_migrations_or_refuses_to_start(database: str, tmp_path: Path) -> None:
    with pytest.raises(Pending, match="migrations are pending"):
        await agent_storage.Storage(database, migrate="fail").connect()
    with pytest.raises(Pending, match="migrations are pending"):
        sync.Storage(database, migrate="fail").connect()
    waiting = asyncio.create_task(agent_storage.Storage(database, migrate="wait").connect())
    async with agent_storage.Storage(database, migrate=True) as storage:
        opened = await asyncio.wait_for(waiting, 60)
        await opened.close()
        assert await storage.health()


@pytest.mark.parametrize("schema", [None, "agent"])
async def test_a_storage_applies_the_migrations_of_further_sources(
    database: str, tmp_path: Path, schema: str | None
) -> None:
    shop = tmp_path / "shop"
    (shop / "migrations").mkdir(parents=True)
    (shop / "migrations" / "20260101000000_customers.sql").write_text(
        "CREATE TABLE customers (id int, conversation_id uuid REFERENCES conversations (id));"
    )
    (shop / "migrations" / "20260101000000_customers.rollback.sql").write_text("DROP TABLE customers;")
    for source in (shop, str(shop), at(shop)):
        async with agent_storage.Storage(database, schema=schema, migrate=True, sources=[source]) as storage:
            async with storage.connection() as connection:
                found = await connection.execute("SELECT conversation_id FROM customers")
                assert await found.fetchall() == []
            await storage.conversations.find()
    with sync.Storage(database, schema=schema, migrate="fail", sources=[shop]) as storage:
        assert storage.conversations.count() == 0


async def test_migrations_use_the_owners_address(migrated: str, database: str) -> None:
    """The service's own role may not create tables; `migrate_url` names the role that may."""
    name = f"role_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(database, autocommit=True) as admin:
        admin.execute(f"CREATE ROLE {name} LOGIN; REVOKE CREATE ON SCHEMA public FROM PUBLIC")
        admin.execute(f"ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO {name}")
    service = make_conninfo(database, user=name)
    try:
        with pytest.raises(MigrationError, match="permission denied"):
            await agent_storage.Storage(service, migrate=True).connect()
        async with agent_storage.Storage(service, migrate=True, migrate_url=database) as storage:
            assert await storage.conversations.count() == 0
    finally:
        with psycopg.connect(database, autocommit=True) as admin:
            admin.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")
