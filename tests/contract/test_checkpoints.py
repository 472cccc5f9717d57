"""Checkpoints: stored whole, listed without their states, pruned with care."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from agent_storage import InvalidValue, MissingReference
from agent_storage.types import NewCheckpoint

START = datetime(2026, 1, 1, tzinfo=UTC)


def checkpoint(agent: str, hour: int, **fields: Any) -> NewCheckpoint:
    return NewCheckpoint(agent_id=agent, captured_at=START + timedelta(hours=hour), state={"hour": hour}, **fields)


async def test_a_checkpoint_is_stored_and_retrieved_whole(face: Any) -> None:
    state = {"messages": ["\x00", {"deep": [1, None, 0.5]}], "é": "ü" * 5000}
    new = NewCheckpoint(agent_id="a", session_id="s", agent_type="coder", name="before lunch", state=state)
    id_ = await face.checkpoints.store(new)
    stored = await face.checkpoints.get(id_)
    assert (stored.state, stored.agent_id, stored.name) == (state, "a", "before lunch")
    assert stored.size_bytes > 10_000
    assert await face.checkpoints.get(uuid4()) is None
    child = await face.checkpoints.store(NewCheckpoint(agent_id="a", state=None, parent_id=id_))
    assert (await face.checkpoints.get(child)).state is None
    with pytest.raises(MissingReference):
        await face.checkpoints.store(NewCheckpoint(agent_id="a", state=1, parent_id=uuid4()))
    await face.checkpoints.delete(id_)
    assert (await face.checkpoints.get(child)).parent_id is None


async def test_latest_goes_by_the_callers_clock_not_by_the_order_of_storing(face: Any) -> None:
    for hour in (3, 1, 2):
        await face.checkpoints.store(checkpoint("a", hour, name="n" if hour < 3 else None))
    assert (await face.checkpoints.latest("a")).state == {"hour": 3}
    assert (await face.checkpoints.latest("a", "n")).state == {"hour": 2}
    assert await face.checkpoints.latest("nobody") is None
    assert [item.captured_at.hour for item in await face.checkpoints.by_agent("a")] == [3, 2, 1]


async def test_summaries_have_no_state_and_filter_page_and_count_from_one_snapshot(face: Any) -> None:
    await face.checkpoints.create_many(
        [checkpoint(f"agent {n % 2}", n, session_id=f"s{n % 3}", agent_type="t" if n < 6 else "u") for n in range(12)]
    )

    async def hours(**asked: Any) -> list[int]:
        page = await face.checkpoints.summaries(**asked, total=True)
        assert page.total == len(page.items)
        assert not any(hasattr(item, "state") for item in page.items)
        return [item.captured_at.hour for item in page.items]

    assert await hours() == list(range(11, -1, -1))
    assert await hours(agent_id="agent 1", order_by="captured_at") == [1, 3, 5, 7, 9, 11]
    assert await hours(session_id="s0", agent_type="u") == [9, 6]
    bounds = {"after": START + timedelta(hours=2), "before": START + timedelta(hours=6)}
    assert await hours(**bounds) == [5, 4, 3]
    first = await face.checkpoints.summaries(limit=5, total=True)
    rest = await face.checkpoints.summaries(limit=50, cursor=first.next_cursor)
    assert (first.total, len(first.items), len(rest.items)) == (12, 5, 7)
    assert not {item.id for item in first.items} & {item.id for item in rest.items}
    with pytest.raises(InvalidValue, match="cursor"):
        await face.checkpoints.summaries(cursor=first.next_cursor, order_by="captured_at")
    with pytest.raises(InvalidValue, match="time zone"):
        await face.checkpoints.summaries(before=datetime(2026, 1, 1))  # noqa: DTZ001


async def test_prune_frees_what_is_old_or_too_many_but_never_an_agents_newest(face: Any) -> None:
    now = datetime.now(UTC)

    async def fill() -> None:
        for agent, count in (("a", 5), ("b", 1), ("c", 3)):
            await face.checkpoints.create_many(
                [
                    NewCheckpoint(agent_id=agent, state="x" * 98, captured_at=now - timedelta(days=n + 1))
                    for n in range(count)
                ]
            )

    await fill()
    freed = await face.checkpoints.prune(max_per_agent=2)
    assert (freed.checkpoints, freed.bytes) == (4, 400)
    freed = await face.checkpoints.prune(max_age=timedelta(hours=1))
    assert freed.checkpoints == 2
    assert sorted([item.agent_id for item in await face.checkpoints.find()]) == ["a", "b", "c"]
    assert (await face.checkpoints.prune(timedelta(hours=1), 1)).checkpoints == 0
    assert (await face.checkpoints.prune(timedelta(hours=1), keep_latest=False)).checkpoints == 3
    await fill()
    assert (await face.checkpoints.prune(max_per_agent=0)).checkpoints == 6
    for wrong in ({}, {"max_per_agent": -1}):
        with pytest.raises(InvalidValue):
            await face.checkpoints.prune(**wrong)


async def test_prune_works_in_batches_through_more_than_it_looks_up_at_once(sync_storage: Any) -> None:
    with sync_storage.database.connection() as connection:
        connection.execute(
            "INSERT INTO checkpoints (agent_id, state, captured_at)"
            " SELECT 'agent ' || n % 50, to_jsonb(n), now() - n * interval '1 minute' FROM generate_series(1, 21000) n"
        )
    assert sync_storage.checkpoints.prune(max_per_agent=10).checkpoints == 20_500
    assert sync_storage.checkpoints.count() == 500
