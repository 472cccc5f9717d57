"""What agents may rely on to keep their states, whoever implements it: another `provider` must pass all of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from agent_storage import Conflict, InvalidSettings, InvalidValue, SchemaMismatch, Storage, StorageError, Unavailable
from agent_storage.adapters.checkpoints import CheckpointProvider, CheckpointProviders, PostgresCheckpoints
from agent_storage.migrations.migrator import Migrator
from agent_storage.statements.records import MAINTAINED
from agent_storage.sync.adapters import checkpoints as sync_adapters
from agent_storage.types import NewCheckpoint

from ..conftest import Awaitable

NOW = datetime(2026, 11, 21, 8, 30, tzinfo=UTC)


def checkpoint(agent_id: str = "agent", minutes: int = 0, **fields: Any) -> NewCheckpoint:
    return NewCheckpoint(agent_id=agent_id, captured_at=NOW + timedelta(minutes=minutes), **{"state": {}, **fields})


@pytest.fixture(params=["one", "several", "sync"])
async def provider(request: pytest.FixtureRequest, storage: Storage, migrated: str) -> AsyncIterator[Any]:
    if request.param == "one":
        yield PostgresCheckpoints(storage)
    elif request.param == "several":
        async with CheckpointProviders({"main": migrated}) as providers:
            yield providers
    else:
        with sync_adapters.CheckpointProviders({"main": migrated}) as providers:
            assert isinstance(providers, sync_adapters.CheckpointProvider)
            yield Awaitable(providers)


@pytest.fixture
async def two(migrated: str, database: str) -> AsyncIterator[CheckpointProviders]:
    await asyncio.to_thread(Migrator(database).up)
    configuration = {"main": {"url": migrated}, "backup": {"url": database, "pool_max": 2}, "default": "main"}
    async with CheckpointProviders(configuration) as providers:
        yield providers


# ---- the protocol ----------------------------------------------------------------------------------------------------


async def test_what_is_stored_is_retrieved_whole(provider: CheckpointProvider) -> None:
    state = {"messages": [{"text": "nul \x00 lone \ud800"}], "zero": 0, "empty": "", "no": False, "none": None}
    parent = await provider.store_checkpoint(checkpoint())
    new = checkpoint(
        session_id="s\x00",
        agent_type="coder",
        name="before",
        owner="ann",
        state=state,
        parent_id=UUID(parent),
        minutes=1,
    )
    found = await provider.retrieve_checkpoint(await provider.store_checkpoint(new))
    assert found
    assert {name: getattr(found, name) for name in type(new).model_fields if name not in MAINTAINED} == new.model_dump(
        exclude=set(MAINTAINED)
    )


@pytest.mark.parametrize("state", [0, "", False, [], "text", [1, None]])
async def test_a_state_is_any_json(provider: CheckpointProvider, state: Any) -> None:
    found = await provider.retrieve_checkpoint(await provider.store_checkpoint(checkpoint(state=state)))
    assert found and found.state == state and type(found.state) is type(state)


async def test_an_id_of_the_callers_own_is_kept_and_taken_once(provider: CheckpointProvider) -> None:
    mine = uuid4()
    assert await provider.store_checkpoint(checkpoint(id=mine)) == str(mine)
    with pytest.raises(Conflict):
        await provider.store_checkpoint(checkpoint(id=mine, state={"other": 1}))
    found = await provider.retrieve_checkpoint(str(mine))
    assert found and found.state == {}


@pytest.mark.parametrize("id", ["0190b1c6-0b6e-7c4e-8e58-3d4f5a6b7c8d", "no-uuid", "nul\x00", "", None, 5])
async def test_what_is_not_there_is_none(provider: CheckpointProvider, id: Any) -> None:
    assert await provider.retrieve_checkpoint(id) is None


async def test_lists_are_newest_first_filtered_limited_and_without_states(provider: CheckpointProvider) -> None:
    for minute in (2, 0, 1):
        for agent in ("a", "b"):
            new = checkpoint(agent, minute, name=f"{agent}{minute}", session_id=f"s{minute}", state={"big": "x" * 9})
            await provider.store_checkpoint(new)

    async def names(**filters: Any) -> list[str | None]:
        return [summary.name for summary in await provider.list_checkpoints(**filters)]

    assert await names(agent_id="a") == ["a2", "a1", "a0"]
    assert await names(session_id="s1") == ["b1", "a1"]
    assert await names(agent_id="a", session_id="s1") == ["a1"]
    assert await names(limit=3) == ["b2", "a2", "b1"]
    assert await names(agent_id="a", before=NOW + timedelta(minutes=2)) == ["a1", "a0"]
    assert await names(agent_id="a", after=NOW) == ["a2", "a1"]
    assert await names(agent_id="a", after=NOW, before=NOW + timedelta(minutes=2)) == ["a1"]
    assert await names(agent_id="nobody") == []
    summaries = await provider.list_checkpoints()
    assert len(summaries) == 6 and not any(hasattr(summary, "state") for summary in summaries)
    for wrong in ({"limit": 0}, {"limit": 1001}, {"before": datetime(2026, 1, 1)}):  # noqa: DTZ001
        with pytest.raises(InvalidValue):
            await provider.list_checkpoints(**wrong)  # pyright: ignore


async def test_lists_take_any_filter_and_order_and_come_in_pages(provider: CheckpointProvider) -> None:
    for minute in range(7):
        owner = ("ann", "bob", None)[minute % 3]
        await provider.store_checkpoint(checkpoint("ab"[minute % 2], minute, name=f"{minute}", owner=owner))

    async def pages(**asked: Any) -> list[list[str | None]]:
        page = await provider.list_checkpoints(**asked, total=True)
        found, total = [[one.name for one in page]], page.total
        while page.next_cursor:
            page = await provider.list_checkpoints(**asked, cursor=page.next_cursor)
            found.append([one.name for one in page])
        assert total == sum(map(len, found))
        return found

    assert await pages(limit=3) == [["6", "5", "4"], ["3", "2", "1"], ["0"]]
    assert await pages(limit=4, order_by=["agent_id", "-captured_at"]) == [["6", "4", "2", "0"], ["5", "3", "1"]]
    assert await pages(owner="ann", order_by="captured_at", limit=2) == [["0", "3"], ["6"]]
    assert await pages(agent_id="b", where={"owner__in": ["ann", "bob"]}) == [["3", "1"]]
    assert await pages(where={"owner__is_null": True}, after=NOW + timedelta(minutes=2)) == [["5"]]
    assert await pages(name="4", agent_type=None) == [["4"]]
    assert await pages(agent_id="a", where={"agent_id": "b"}) == [[]]
    wrongs: list[Any] = [
        {"where": {"bogus": 1}},
        {"order_by": "bogus"},
        {"order_by": "state"},
        {"cursor": "damaged"},
    ]
    for wrong in wrongs:
        with pytest.raises(InvalidValue):
            await provider.list_checkpoints(**wrong)


async def test_a_page_stays_where_it_was_while_others_store(provider: CheckpointProvider) -> None:
    for minute in range(30):
        await provider.store_checkpoint(checkpoint(minutes=minute, name=f"{minute}"))
    seen: list[str | None] = []
    cursor = None
    while True:
        page = await provider.list_checkpoints(limit=4, cursor=cursor)
        seen += [one.name for one in page]
        await asyncio.gather(*(provider.store_checkpoint(checkpoint(minutes=100 + n)) for n in range(9)))
        cursor = page.next_cursor
        if cursor is None:
            break
    assert seen == [f"{minute}" for minute in reversed(range(30))]


async def test_many_at_once_are_all_kept(provider: CheckpointProvider) -> None:
    ids = await asyncio.gather(*(provider.store_checkpoint(checkpoint(minutes=n)) for n in range(50)))
    assert [str(summary.id) for summary in await provider.list_checkpoints("agent")] == list(reversed(ids))


# ---- several providers -----------------------------------------------------------------------------------------------


async def test_each_provider_has_a_database_of_its_own(two: CheckpointProviders) -> None:
    first = await two.store_checkpoint(checkpoint(name="main"))
    second = await two["backup"].store_checkpoint(checkpoint(name="backup"))
    assert (list(two), len(two), two.default_name) == (["main", "backup"], 2, "main")
    assert two.default is two["main"]
    assert await two["main"].retrieve_checkpoint(first) == await two.retrieve_checkpoint(first) != None  # noqa: E711
    assert await two["backup"].retrieve_checkpoint(first) is await two.retrieve_checkpoint(second) is None
    assert [summary.name for summary in await two.list_checkpoints()] == ["main"]
    assert [summary.name for summary in await two["backup"].list_checkpoints()] == ["backup"]


async def test_an_unknown_name_is_answered_with_the_known_ones(two: CheckpointProviders) -> None:
    with pytest.raises(InvalidSettings, match=r"'bogus'.*known are: main, backup"):
        two["bogus"]


async def test_leaving_closes_them_all_and_they_may_be_opened_anew(migrated: str) -> None:
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
        assert await many[0].initialize() is many[0]
        ids = [await providers.store_checkpoint(checkpoint()) for providers in many]
        assert {str(one.id) for one in await many[0].list_checkpoints()} == set(ids)
        assert await asyncio.to_thread(Migrator(database).status) and await many[0].default.storage.health()
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
