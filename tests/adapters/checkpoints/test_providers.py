"""Several providers of checkpoints by name: their configuration, their life, and the active one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
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
    ],
)
def test_a_configuration_that_cannot_be_used_is_refused_at_once(configuration: Any, reason: str) -> None:
    with pytest.raises(InvalidSettings, match=reason):
        CheckpointProviders(configuration)


def test_a_password_is_never_shown() -> None:
    with pytest.raises(InvalidSettings) as caught:
        CheckpointProviders({"main": "mysql://me:hush@localhost/db"})
    assert "hush" not in str(caught.value)
