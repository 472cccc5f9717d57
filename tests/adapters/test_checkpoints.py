"""The contract of a checkpoint provider, and several of them in one configuration."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from agent_storage import Conflict, InvalidSettings, MissingReference, NotFound, Storage, Unavailable
from agent_storage.adapters.checkpoints import (
    AgentCheckpoint,
    CheckpointProvider,
    CheckpointProviders,
    PostgresCheckpoints,
)
from agent_storage.migrations.manager import Migrator

START = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def provider(storage: Storage) -> CheckpointProvider:
    """The provider under test, empty."""
    return PostgresCheckpoints(storage)


async def test_what_is_stored_is_retrieved_as_it_was(provider: CheckpointProvider) -> None:
    given = AgentCheckpoint(
        agent_id="a", session_id="s", agent_type="t", name="n", captured_at=START, state={"x": ["\x00", None, 0.5]}
    )
    id_ = await provider.store_checkpoint(given)
    assert await provider.retrieve_checkpoint(id_) == given.model_copy(update={"id": id_})
    assert await provider.retrieve_checkpoint("nobody") is None


async def test_ids_are_any_text_taken_once(provider: CheckpointProvider) -> None:
    assert await provider.store_checkpoint(AgentCheckpoint(id="first", agent_id="a", state=1)) == "first"
    with pytest.raises(Conflict):
        await provider.store_checkpoint(AgentCheckpoint(id="first", agent_id="a", state=2))
    await provider.store_checkpoint(AgentCheckpoint(id="second", parent_id="first", agent_id="a", state=2))
    stored = await provider.retrieve_checkpoint("first")
    assert stored is not None
    assert (stored.id, stored.state) == ("first", 1)
    with pytest.raises(MissingReference):
        await provider.store_checkpoint(AgentCheckpoint(parent_id="nobody", agent_id="a", state=2))


async def test_lists_are_newest_first_without_states_and_filter(provider: CheckpointProvider) -> None:
    ids = [
        await provider.store_checkpoint(
            AgentCheckpoint(
                agent_id=f"a{n % 2}", session_id=f"s{n % 3}", captured_at=START + timedelta(hours=n), state=n
            )
        )
        for n in range(6)
    ]
    assert [item.id for item in await provider.list_checkpoints()] == ids[::-1]
    assert [item.id for item in await provider.list_checkpoints("a1", limit=2)] == [ids[5], ids[3]]
    assert [item.id for item in await provider.list_checkpoints(session_id="s0")] == [ids[3], ids[0]]
    between = await provider.list_checkpoints(after=START, before=START + timedelta(hours=3))
    assert [item.id for item in between] == [ids[2], ids[1]]
    assert not hasattr(between[0], "state")


async def test_named_providers_keep_apart_what_is_theirs(migrated: str, database: str) -> None:
    Migrator(database).up()
    configuration = {"default": "main", "main": {"url": migrated}, "backup": {"url": database, "pool_max": 2}}
    async with CheckpointProviders.configure(configuration) as providers:
        assert list(providers) == ["main", "backup"]
        assert providers.default is providers["main"]
        await providers.default.store_checkpoint(AgentCheckpoint(id="x", agent_id="a", state=1))
        assert await providers["backup"].retrieve_checkpoint("x") is None
        for provider in providers.values():
            await provider.store_checkpoint(AgentCheckpoint(id="both", agent_id="a", state=2))
        with pytest.raises(NotFound, match="configured are: main, backup"):
            providers["other"]


@pytest.mark.parametrize(
    ("configuration", "reason"),
    [
        ({}, "no checkpoint provider"),
        ({"a": {}, "b": {}}, "write one of: a, b"),
        ({"default": "c", "a": {}}, "default checkpoint provider is c"),
        ({"a": "postgresql:///x"}, "needs its settings"),
        ({"a": {"url": "mysql://x"}}, "checkpoint provider a: "),
        ({"a": {"bogus": 1}}, "unknown setting bogus"),
    ],
)
def test_a_wrong_configuration_says_what_to_write(configuration: Any, reason: str) -> None:
    with pytest.raises(InvalidSettings, match=reason):
        CheckpointProviders.configure(configuration)


async def test_when_one_cannot_be_reached_the_others_are_closed_again(migrated: str) -> None:
    dead = "postgresql://nobody@127.0.0.1:1/none"
    providers = CheckpointProviders.configure({"default": "a", "a": {"url": migrated}, "b": {"url": dead}})
    with pytest.raises(Unavailable):
        await providers.__aenter__()
    assert "closed" in repr(providers["a"].storage.database)
