"""What agents may rely on to keep their states, whoever implements it: another `provider` must pass all of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from agent_storage import Conflict, InvalidSettings, InvalidValue, Storage, StorageError, Unavailable
from agent_storage.adapters.checkpoints import CheckpointProvider, CheckpointProviders, PostgresCheckpoints
from agent_storage.migrations.migrator import Migrator
from agent_storage.statements.records import MAINTAINED
from agent_storage.types import NewCheckpoint

NOW = datetime(2026, 11, 21, 8, 30, tzinfo=UTC)


def checkpoint(agent_id: str = "agent", minutes: int = 0, **fields: Any) -> NewCheckpoint:
    return NewCheckpoint(agent_id=agent_id, captured_at=NOW + timedelta(minutes=minutes), **{"state": {}, **fields})


@pytest.fixture(params=["one", "several"])
async def provider(
    request: pytest.FixtureRequest, storage: Storage, migrated: str
) -> AsyncIterator[CheckpointProvider]:
    if request.param == "one":
        yield PostgresCheckpoints(storage)
    else:
        async with CheckpointProviders({"main": migrated}) as providers:
            yield providers


@pytest.fixture
async def two(migrated: str, database: str) -> AsyncIterator[CheckpointProviders]:
    await asyncio.to_thread(Migrator(database).up)
    configuration = {"main": {"url": migrated}, "backup": {"url": database, "pool_max": 2}, "default": "main"}
    async with CheckpointProviders(configuration) as providers:
        yield providers


# ---- the protocol ----------------------------------------------------------------------------------------------------


async def test_what_is_stored_is_retrieved_whole(provider: CheckpointProvider) -> None:
    assert isinstance(provider, CheckpointProvider)
    state = {"messages": [{"text": "nul \x00 lone \ud800"}], "zero": 0, "empty": "", "no": False, "none": None}
    parent = await provider.store_checkpoint(checkpoint())
    new = checkpoint(
        session_id="s\x00", agent_type="coder", name="before", state=state, parent_id=UUID(parent), minutes=1
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


@pytest.mark.parametrize("id", ["0190b1c6-0b6e-7c4e-8e58-3d4f5a6b7c8d", "no-uuid", "nul\x00"])
async def test_what_is_not_there_is_none(provider: CheckpointProvider, id: str) -> None:
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


async def test_when_one_cannot_be_reached_none_stays_open(migrated: str) -> None:
    nowhere = "postgresql://127.0.0.1:1/none"
    providers = CheckpointProviders({"main": migrated, "backup": nowhere, "default": "main"})
    with pytest.raises(Unavailable):
        await providers.open()
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
        ({"main": 5}, "'main' must be a URL or a mapping"),
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
