"""The promises to agents that keep their states, in every database: another `provider` must pass all of it."""

from __future__ import annotations

import asyncio
import math
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent_storage import AlreadyExists, Conflict, InvalidValue, MissingReference, any_of, asc, desc, field, not_
from agent_storage.adapters.checkpoints import CheckpointProvider
from agent_storage.statements.records import MAINTAINED
from agent_storage.types import NewCheckpoint

NOW = datetime(2026, 11, 21, 8, 30, tzinfo=UTC)


def checkpoint(agent_id: str = "agent", minutes: int = 0, **fields: Any) -> NewCheckpoint:
    return NewCheckpoint(agent_id=agent_id, captured_at=NOW + timedelta(minutes=minutes), **{"state": {}, **fields})


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
