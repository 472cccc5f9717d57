"""The setting `schema`: tables, functions and the history live in one PostgreSQL schema, on every connection."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo
from psycopg_pool import AsyncConnectionPool

import agent_storage
from agent_storage import sync
from agent_storage.database.listener import channel_of
from agent_storage.errors import InvalidSettings, SchemaNotCarried
from agent_storage.migrations import Migrator
from agent_storage.search_path import in_schema, named
from agent_storage.tables.chat.conversations.repository import Conversations
from agent_storage.types import NewConversation

from .contract.test_streams import follow

#: Names that are hard to quote: spaces and quotes, reserved words, options of libpq, 63 bytes.
NAMES = ["agent", 'My "Schema"', "select", "a\\b -c jit=off", "a,b", "é" * 31 + "x", "x" * 63]


def _path(conninfo: str) -> str:
    with psycopg.connect(conninfo) as connection:
        return str(connection.execute("SELECT current_setting('search_path')").fetchone()[0])  # type: ignore[index]


@pytest.fixture
def role(database: str) -> Iterator[str]:
    """A role that owns the database and may log in."""
    name = f"role_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(database, autocommit=True) as admin:
        admin.execute(f"CREATE ROLE {name} LOGIN")
        admin.execute(
            sql.SQL("ALTER DATABASE {} OWNER TO {}").format(sql.Identifier(admin.info.dbname), sql.Identifier(name))
        )
        yield name
        admin.execute(f"REASSIGN OWNED BY {name} TO CURRENT_USER; DROP OWNED BY {name}; DROP ROLE {name}")


@pytest.mark.parametrize("name", NAMES)
def test_any_name_of_a_schema_is_quoted_on_the_whole_way(database: str, name: str) -> None:
    migrator = Migrator(database, schema=name)
    assert named(migrator.conninfo) == name
    with psycopg.connect(migrator.conninfo, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(name)))
        assert connection.execute("SELECT current_schema()").fetchone() == (name,)
        connection.execute("SET search_path = pg_catalog; RESET ALL")
        assert connection.execute("SELECT current_schema()").fetchone() == (name,)
        connection.execute("SET search_path = pg_catalog")
        connection.execute("DISCARD ALL")
        assert connection.execute("SELECT current_schema()").fetchone() == (name,)


@pytest.mark.parametrize("name", ["agent", 'My "Schema"', "é" * 31 + "x"])
def test_a_migrated_schema_agrees_with_its_migrations(database: str, name: str) -> None:
    migrator = Migrator(database, schema=name)
    assert migrator.drift().drift == [], "pending is not drift"
    migrator.up()
    assert migrator.status().at_head
    assert migrator.drift().drift == []
    with sync.Storage(database, schema=name) as storage:
        storage.conversations.create(NewConversation(title="here"))
        assert storage.health()
    with psycopg.connect(database) as connection:
        rows = connection.execute(sql.SQL("SELECT title FROM {}.conversations").format(sql.Identifier(name)))
        assert rows.fetchall() == [("here",)]
        made = connection.execute("SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace")
        assert made.fetchone() == (0,)
    migrator.down(all=True)
    assert migrator.status().pending


@pytest.mark.parametrize("name", ["", "x" * 64, "é" * 32, "pg_agent", "information_schema", "$user", "a\0b"])
def test_a_schema_that_cannot_be_is_refused_by_name(name: str) -> None:
    with pytest.raises(InvalidSettings, match="the argument schema cannot be used"):
        sync.Storage("postgresql://localhost/none", schema=name)


def test_the_roles_own_search_path_follows_the_schema(database: str, role: str) -> None:
    with psycopg.connect(database, autocommit=True) as admin:
        name = sql.Identifier(admin.info.dbname)
        admin.execute(sql.SQL("ALTER DATABASE {} SET search_path = of_database, public").format(name))
        assert _path(in_schema(database, "agent")) == '"agent", of_database, public'
        admin.execute(f"ALTER ROLE {role} SET search_path = of_role")
        own = make_conninfo(database, user=role)
        assert _path(in_schema(own, "agent")) == '"agent", of_role'
        admin.execute(
            sql.SQL("ALTER ROLE {} IN DATABASE {} SET search_path = of_both, public").format(sql.Identifier(role), name)
        )
        assert _path(in_schema(own, "agent")) == '"agent", of_both, public'
        admin.execute(f"ALTER ROLE {role} RESET ALL")
        admin.execute(sql.SQL("ALTER ROLE {} IN DATABASE {} RESET ALL").format(sql.Identifier(role), name))
        given = make_conninfo(database, options="-c search_path=of_url -c jit=off")
        assert _path(in_schema(given, "agent")) == '"agent", of_url'
    assert in_schema(in_schema(database, "agent"), "agent") == in_schema(database, "agent")


async def test_every_connection_of_a_storage_has_the_schema(database: str) -> None:
    Migrator(database, schema="agent").up()
    async with agent_storage.Storage(database, schema="agent", pool_min=3, multiplex=3) as storage:
        await asyncio.gather(*(storage.conversations.create(NewConversation(title=f"{n}")) for n in range(50)))
        async with storage.transaction() as tx:
            await tx.conversations.create(NewConversation(title="in a transaction"))
        async with storage.conversations.stream() as rows:
            assert len([row async for row in rows]) == 51
        followed = asyncio.create_task(follow(storage, "s", 1))
        await storage.stream_events.publish("s")
        assert await asyncio.wait_for(followed, 20) == [1]
        with psycopg.connect(database, autocommit=True) as admin:
            backends = admin.execute(
                "SELECT pid FROM pg_stat_activity"
                " WHERE application_name = 'agent-storage' AND datname = current_database()"
            ).fetchall()
            assert len(backends) >= 5
            places = admin.execute("SELECT count(*) FROM agent.conversations").fetchone()
            assert places == (51,)


def test_the_environment_and_the_keyword_name_the_schema(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORAGE_SCHEMA", "of_environment")
    with sync.Storage(database, migrate=True) as storage:
        assert named(storage.database.conninfo) == "of_environment"
    with sync.Storage(database, migrate=True, schema="of_keyword") as storage:
        assert named(storage.database.conninfo) == "of_keyword"
    with psycopg.connect(database) as connection:
        rows = connection.execute("SELECT nspname FROM pg_namespace WHERE nspname LIKE 'of%' ORDER BY 1").fetchall()
    assert rows == [("of_environment",), ("of_keyword",)]


def test_tables_of_another_schema_never_take_the_place_of_missing_ones(migrated: str) -> None:
    with sync.Storage(migrated) as public:
        public.conversations.create(NewConversation(title="theirs"))
    with pytest.raises(
        InvalidSettings, match=r"schema agent is not migrated, and \w+ would be the table of schema public"
    ):
        sync.Storage(migrated, schema="agent").connect()
    with sync.Storage(migrated, schema="agent", migrate=True) as agent:
        assert list(agent.conversations.find()) == []


async def test_a_pool_of_the_callers_own_carries_the_schema_in_its_options(database: str) -> None:
    conninfo = Migrator(database, schema="agent").conninfo
    Migrator(conninfo).up()
    async with AsyncConnectionPool(conninfo, open=False, kwargs={"autocommit": True}) as pool:
        await Conversations(pool).create(NewConversation(title="own"))
    with psycopg.connect(database) as connection:
        assert connection.execute("SELECT title FROM agent.conversations").fetchall() == [("own",)]


@pytest.mark.parametrize("name", NAMES)
def test_the_channel_is_the_one_of_the_database_and_has_at_most_63_bytes(migrated: str, name: str) -> None:
    with psycopg.connect(migrated, autocommit=True) as connection:
        for table in ("event_streams", "approval_requests"):
            row = connection.execute("SELECT notification_channel(%s, %s)", (table, name)).fetchone()
            assert row == (channel_of(table, name),)
            assert len(channel_of(table, name).encode()) <= 63
            connection.execute("SELECT pg_notify(%s, '')", row)


def test_behind_a_pooler_the_roles_search_path_has_to_begin_with_the_schema(database: str, role: str) -> None:
    own = make_conninfo(database, user=role)
    with pytest.raises(SchemaNotCarried) as caught:
        sync.Storage(own, schema="My Schema", pooler=True).connect()
    statements = [line.strip() for line in str(caught.value).splitlines() if line.startswith("  ")]
    assert statements[1].startswith(f"ALTER ROLE {sql.Identifier(role).as_string(None)} IN DATABASE")
    with psycopg.connect(own, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())
    with sync.Storage(own, schema="My Schema", pooler=True, migrate=True) as storage:
        storage.conversations.create(NewConversation(title="here"))
    with psycopg.connect(database) as connection:
        assert connection.execute('SELECT title FROM "My Schema".conversations').fetchall() == [("here",)]
