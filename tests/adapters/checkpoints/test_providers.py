"""Several providers of checkpoints by name: their configuration, their life, and the active one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from agent_storage import InvalidSettings, SchemaMismatch, Storage, StorageError, Unavailable
from agent_storage.adapters.checkpoints import CheckpointProviders
from agent_storage.migrations.migrator import Migrator

from .test_contract import checkpoint


@pytest.fixture
async def two(migrated: str, database: str) -> AsyncIterator[CheckpointProviders]:
    await asyncio.to_thread(Migrator(database).up)
    configuration = {"main": {"url": migrated}, "backup": {"url": database, "pool_max": 2}, "default": "main"}
    async with CheckpointProviders(configuration) as providers:
        yield providers


# ---- several providers -----------------------------------------------------------------------------------------------


async def test_each_provider_has_a_database_of_its_own(two: CheckpointProviders) -> None:
    first = await two.store_checkpoint(checkpoint(name="main"))
    second = await two["backup"].store_checkpoint(checkpoint(name="backup"))
    assert (list(two), len(two), two.default_name) == (["main", "backup"], 2, "main")
    assert two.active is two["main"]
    assert await two["main"].retrieve_checkpoint(first) == await two.retrieve_checkpoint(first) != None  # noqa: E711
    assert await two["backup"].retrieve_checkpoint(first) is await two.retrieve_checkpoint(second) is None
    assert [summary.name for summary in await two.list_checkpoints()] == ["main"]
    assert [summary.name for summary in await two["backup"].list_checkpoints()] == ["backup"]


async def test_an_unknown_name_is_answered_with_the_known_ones(two: CheckpointProviders) -> None:
    with pytest.raises(InvalidSettings, match=r"'bogus'.*known are: main, backup"):
        two["bogus"]


async def test_leaving_closes_them_all_and_they_may_be_opened_again(migrated: str) -> None:
    providers = CheckpointProviders({"main": {"url": migrated}, "same": migrated, "default": "same"})
    for _ in range(2):
        async with providers:
            await providers.store_checkpoint(checkpoint())
        for name in providers:
            with pytest.raises(StorageError, match="not open"):
                await providers[name].list_checkpoints()
    await providers.close()


async def test_initialize_migrates_an_empty_database_also_from_many_at_once(database: str, migrated: str) -> None:
    many = [CheckpointProviders({"main": migrated, "empty": database, "default": "empty"}) for _ in range(8)]
    await asyncio.gather(*(providers.initialize() for providers in many))
    try:
        await many[0].initialize()
        ids = [await providers.store_checkpoint(checkpoint()) for providers in many]
        assert {str(one.id) for one in await many[0].list_checkpoints()} == set(ids)
        assert await asyncio.to_thread(Migrator(database).status) and await many[0].active.storage.health()
    finally:
        for providers in many:
            await providers.close()


async def test_a_database_that_a_newer_version_has_migrated_is_left_as_it_is(migrated: str) -> None:
    with psycopg.connect(migrated, autocommit=True) as connection:
        columns = "migration_hash, migration_id, applied_at_utc"
        newer = "'ffff', '29991231235959_of_a_newer_version', now()"
        connection.execute(f"INSERT INTO _yoyo_migration ({columns}) VALUES ({newer})".encode())
    async with CheckpointProviders({"main": migrated}) as providers:
        assert await providers.store_checkpoint(checkpoint())


async def test_open_connects_without_a_migration(database: str) -> None:
    providers = await CheckpointProviders({"main": database}).open()
    with pytest.raises(SchemaMismatch):
        await providers.list_checkpoints()
    await providers["main"].initialize()
    assert len(await providers.list_checkpoints()) == 0
    await providers.close()


async def test_a_role_that_may_only_read_and_write_initializes_a_migrated_database(
    migrated: str, server_conninfo: str
) -> None:
    role = f"app_{uuid4().hex[:8]}"
    with psycopg.connect(migrated, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'x'".encode())
        connection.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {role}".encode())
        try:
            mine = make_conninfo(migrated, user=role, password="x")
            async with CheckpointProviders({"main": mine}) as providers:
                assert await providers.store_checkpoint(checkpoint())
        finally:
            connection.execute(f"DROP OWNED BY {role}".encode())
            connection.execute(f"DROP ROLE {role}".encode())


async def test_a_storage_of_the_callers_is_used_and_stays_open(storage: Storage, migrated: str) -> None:
    async with CheckpointProviders({"mine": storage, "other": migrated, "default": "mine"}) as providers:
        id_ = await providers.store_checkpoint(checkpoint())
        assert providers["mine"].storage is storage
    assert await storage.checkpoints.exists(UUID(id_))
    with pytest.raises(StorageError, match="not open"):
        await providers["other"].list_checkpoints()


async def test_when_one_cannot_be_reached_none_stays_open(migrated: str) -> None:
    nowhere = "postgresql://127.0.0.1:1/none"
    providers = CheckpointProviders({"main": migrated, "backup": nowhere, "default": "main"})
    with pytest.raises(Unavailable):
        await providers.initialize()
    with pytest.raises(StorageError, match="not open"):
        await providers.list_checkpoints()


@pytest.mark.parametrize(
    ("configuration", "reason"),
    [
        ({}, "no checkpoint provider is configured"),
        ({"default": "main"}, "no checkpoint provider is configured"),
        ({"main": {"url": "mysql://x"}}, "'main'"),
        ({"main": {"url": "postgresql:///x", "bogus": 1}}, "'main': unknown setting bogus"),
        ({"main": {"url": "postgresql:///x", "pool_max": "many"}}, "'main'.*pool_max"),
        ({"main": 5}, "'main' must be a URL, a mapping of settings or a Storage"),
        ({"main": "postgresql:///x", "backup": "postgresql:///y"}, "default must be one of main, backup"),
        ({"main": "postgresql:///x", "default": "bogus"}, "'bogus' is not configured; known are: main"),
        ({"main": "postgresql:///x", "default": ["main"]}, "is not configured"),
        ({"main": {"type": "oracle"}}, "'main': unknown type 'oracle'; known are: postgres, sqlite, mysql"),
        ({"main": {"type": "sqlite", "url": "mysql://h/d"}}, "'main': its type is sqlite, but its URL is of mysql"),
        ({"main": {"type": "sqlite"}}, "'main' needs the path of its file"),
        ({"main": "sqlite://host/file.db"}, "'main': write sqlite:///FILE"),
        ({"main": "sqlite:///:memory:"}, "'main': path must name a file"),
        ({"main": {"type": "sqlite", "path": "x.db", "bogus": 1}}, "'main': unknown setting bogus; known are: path"),
        ({"main": {"type": "sqlite", "path": "x.db", "busy_timeout": "long"}}, "'main': busy_timeout cannot be used"),
        ({"main": {"type": "sqlite", "path": "x.db", "pool_max": 0}}, "'main': pool_max cannot be used"),
        ({"main": {"type": "mysql", "host": "h"}}, "'main': .*name of its database"),
        ({"main": "mysql://h/d?bogus=1"}, "'main': unknown parameter bogus"),
        ({"main": {"url": "mysql://h/d", "tls": "maybe"}}, "'main': tls cannot be used"),
        ({"main": "mysql://h:port/d"}, "'main'.*not valid"),
    ],
)
def test_a_configuration_that_cannot_be_used_is_refused_at_once(configuration: Any, reason: str) -> None:
    with pytest.raises(InvalidSettings, match=reason):
        CheckpointProviders(configuration)


def test_a_password_is_never_shown() -> None:
    with pytest.raises(InvalidSettings) as caught:
        CheckpointProviders({"main": "mysql://me:hush@localhost/db?bogus=hush"})
    assert "hush" not in str(caught.value)


async def test_a_password_is_not_shown_by_a_server_that_is_not_there() -> None:
    providers = CheckpointProviders({"main": "mysql://me:hush@127.0.0.1:1/db"})
    with pytest.raises(Unavailable) as caught:
        await providers.initialize()
    shown = f"{caught.value} {caught.value!r} {vars(caught.value)}"
    assert "hush" not in shown and "db at 127.0.0.1" in shown


async def test_the_active_provider_is_switched_at_run_time(url_of: Any) -> None:
    configuration = {
        "main": {"type": "postgres", "url": url_of("postgres")},
        "laptop": {"type": "sqlite", "path": url_of("sqlite").removeprefix("sqlite:///")},
        "legacy": {"type": "mysql", "connectionString": url_of("mysql")},
        "default": "main",
    }
    async with CheckpointProviders(configuration) as providers:
        for name in configuration.keys() - {"default"}:
            assert providers.use(name) is providers.active is providers[name]
            id_ = await providers.store_checkpoint(checkpoint(name=name))
            assert [one.name for one in await providers.list_checkpoints()] == [name]
            found = await providers[name].retrieve_checkpoint(id_)
            assert found and found.name == name
        with pytest.raises(InvalidSettings, match="'bogus'"):
            providers.use("bogus")
        assert providers.active_name in configuration and providers.default_name == "main"


async def test_while_it_is_switched_every_call_reaches_one_provider_or_the_other(tmp_path: Path) -> None:
    configuration = {name: f"sqlite:///{tmp_path / name}.db" for name in "ab"} | {"default": "a"}
    async with CheckpointProviders(configuration) as providers:

        async def switch() -> None:
            for n in range(100):
                providers.use("ab"[n % 2])
                await asyncio.sleep(0)

        stored = asyncio.gather(*(providers.store_checkpoint(checkpoint(minutes=n)) for n in range(100)))
        ids, _ = await asyncio.gather(stored, switch())
        kept = [str(one.id) for name in "ab" for one in await providers[name].list_checkpoints(limit=200)]
        assert sorted(kept) == sorted(ids)


async def test_a_call_before_opening_and_after_closing_says_so(other_url: str) -> None:
    providers = CheckpointProviders({"main": other_url})
    for _ in range(2):
        with pytest.raises(StorageError, match="not open"):
            await providers.store_checkpoint(checkpoint())
        async with providers:
            await providers.store_checkpoint(checkpoint())
    await providers.close()


async def test_open_connects_to_the_other_databases_without_a_migration(other_url: str) -> None:
    providers = await CheckpointProviders({"main": other_url}).open()
    with pytest.raises(SchemaMismatch, match=r"initialize\(\)"):
        await providers.list_checkpoints()
    await providers["main"].initialize()
    assert len(await providers.list_checkpoints()) == 0
    await providers.close()
