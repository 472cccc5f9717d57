"""The promises to agents that keep their states, in every database: another `provider` must pass all of it."""

from __future__ import annotations

import asyncio
import math
from datetime import UTC, datetime, timedelta, timezone
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


TEXT = st.text(st.characters(codec=None), max_size=40)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=20,
)
ONE_DATABASE = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


def exactly(one: Any, other: Any) -> bool:
    """Equal, and of the same types: Python's True is 1, and 1 is 1.0."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(exactly(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(exactly, one, other))
    return one == other


@ONE_DATABASE
@given(state=JSON)
async def test_every_json_document_comes_back_as_it_was(provider: CheckpointProvider, state: Any) -> None:
    found = await provider.retrieve_checkpoint(await provider.store_checkpoint(checkpoint(state=state)))
    assert found and exactly(found.state, state)
    assert found.size_bytes > 0


@pytest.mark.parametrize(
    "state",
    [
        [2**63 - 1, -(2**63), 2**64 - 1, 2**53 + 1],
        [1e16, 1e22, 1.7976931348623157e308, 5e-324, 0.1 + 0.2, 1.0, 123456789.123456789],
        {"\x00": "\x00", "\ud800": "\udfff\ud83d", "\x1a": "\x1a0000", "😀": "\u2028\\u0000"},
    ],
)
async def test_numbers_and_texts_are_exact(provider: CheckpointProvider, state: Any) -> None:
    found = await provider.retrieve_checkpoint(await provider.store_checkpoint(checkpoint(state=state)))
    assert found and exactly(found.state, state)


@pytest.mark.parametrize("state", [math.nan, [math.inf], {1: 2}, 2**64, {"set": {1}}, b"bytes"])
async def test_a_state_that_is_no_json_is_refused_before_it_is_sent(provider: CheckpointProvider, state: Any) -> None:
    with pytest.raises(InvalidValue):
        await provider.store_checkpoint(checkpoint(state=state))
    assert len(await provider.list_checkpoints()) == 0


async def test_a_state_has_up_to_4_mb_and_200_levels(provider: CheckpointProvider) -> None:
    large = {"text": "é" * (2 * 1024 * 1024 - 20)}
    found = await provider.retrieve_checkpoint(await provider.store_checkpoint(checkpoint(state=large)))
    assert found and found.state == large and 4_000_000 < found.size_bytes <= 4 * 1024 * 1024
    deep: Any = "bottom"
    for _ in range(200):
        deep = [deep]
    found = await provider.retrieve_checkpoint(await provider.store_checkpoint(checkpoint(state=deep)))
    assert found and found.state == deep
    for refused in ({"text": "é" * (2 * 1024 * 1024)}, [deep]):
        with pytest.raises(InvalidValue):
            await provider.store_checkpoint(checkpoint(state=refused))


LABEL = st.text(st.characters(codec=None), max_size=60)
KEY = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00\x1a"), min_size=1, max_size=60)


@ONE_DATABASE
@given(agent_id=KEY, session_id=LABEL, agent_type=LABEL, name=LABEL, owner=KEY)
async def test_every_text_is_kept_and_found_as_it_is(provider: CheckpointProvider, **texts: str) -> None:
    new = NewCheckpoint(state=1, **texts)
    id_ = await provider.store_checkpoint(new)
    found = await provider.retrieve_checkpoint(id_)
    assert found and {name: getattr(found, name) for name in texts} == texts
    latest = await provider.latest_checkpoint(texts["agent_id"], texts["name"], owner=texts["owner"])
    assert latest and {name: getattr(latest, name) for name in ("agent_id", "name", "owner")}.items() <= texts.items()
    listed = await provider.list_checkpoints(texts["agent_id"], texts["session_id"], agent_type=texts["agent_type"])
    assert id_ in {str(one.id) for one in listed}


async def test_texts_differ_by_case_accents_and_trailing_spaces(provider: CheckpointProvider) -> None:
    texts = ["a", "A", "á", "a ", " a", "ａ", "a\u0301", "ß", "ss", "%", "_", "\\", "'", '"', "?", "%s", "{}", "$1"]
    for text in texts:
        await provider.store_checkpoint(checkpoint(text, session_id=text, name=text, owner=text))
    for text in texts:
        assert [one.agent_id for one in await provider.list_checkpoints(text)] == [text]
        assert [one.session_id for one in await provider.list_checkpoints(session_id=text, name=text)] == [text]
        assert [one.owner for one in await provider.list_checkpoints(owner=text)] == [text]
    assert len(await provider.checkpoint_statistics()) == len(texts)


async def test_texts_that_are_too_long_are_refused(provider: CheckpointProvider) -> None:
    longest = checkpoint(
        "😀" * 500, session_id="😀" * 500, agent_type="\x00" * 100, owner="é" * 500, name="x" * 100_000
    )
    found = await provider.retrieve_checkpoint(await provider.store_checkpoint(longest))
    assert found and (found.agent_id, found.agent_type, found.name) == ("😀" * 500, "\x00" * 100, "x" * 100_000)
    for wrong in ({"agent_id": ""}, {"agent_id": "x" * 501}, {"session_id": "x" * 501}, {"agent_type": "\x00" * 101}):
        with pytest.raises(InvalidValue):
            await provider.store_checkpoint(NewCheckpoint(**{"agent_id": "a", "state": 1, **wrong}))


# ---- times -----------------------------------------------------------------------------------------------------------


@ONE_DATABASE
@given(at=st.datetimes(timezones=st.just(UTC)), hours=st.integers(-15, 15))
async def test_times_are_exact_to_the_microsecond(provider: CheckpointProvider, at: datetime, hours: int) -> None:
    try:
        given_ = at.astimezone(timezone(timedelta(hours=hours)))
    except OverflowError:
        given_ = at
    new = NewCheckpoint(agent_id="a", state=1, captured_at=given_, created_at=at, updated_at=at)
    found = await provider.retrieve_checkpoint(await provider.store_checkpoint(new))
    assert found and found.captured_at == found.created_at == found.updated_at == at
    assert found.captured_at.utcoffset() == timedelta(0)


async def test_a_checkpoint_without_a_time_was_captured_now_or_when_it_was_created(
    provider: CheckpointProvider,
) -> None:
    before = datetime.now(UTC) - timedelta(seconds=1)
    found = await provider.retrieve_checkpoint(await provider.store_checkpoint(NewCheckpoint(agent_id="a", state=1)))
    assert found and before < found.captured_at < datetime.now(UTC) + timedelta(seconds=1)
    assert before < found.created_at == found.updated_at < datetime.now(UTC) + timedelta(seconds=1)
    imported = NewCheckpoint(agent_id="a", state=1, created_at=NOW)
    found = await provider.retrieve_checkpoint(await provider.store_checkpoint(imported))
    assert found and found.captured_at == found.created_at == NOW < found.updated_at
    assert found.id.version == 7 and found.id.int >> 80 == int(NOW.timestamp() * 1000)
    later = datetime.now(UTC) + timedelta(days=1)
    for times in ({"created_at": later}, {"updated_at": NOW}):  # now would contradict it
        found = await provider.retrieve_checkpoint(
            await provider.store_checkpoint(NewCheckpoint(agent_id="a", state=1, **times))
        )
        assert found and found.created_at == found.updated_at == next(iter(times.values()))
    with pytest.raises(InvalidValue):
        await provider.store_checkpoint(NewCheckpoint(agent_id="a", state=1, created_at=later, updated_at=NOW))


# ---- repeated calls, references, deletion ----------------------------------------------------------------------------


async def test_a_call_with_an_id_can_be_repeated_also_at_once(provider: CheckpointProvider) -> None:
    new = NewCheckpoint(id=uuid4(), agent_id="a", state={"b": 1, "a": [1.0, True]}, name="n", session_id="s\x00")
    same = NewCheckpoint(id=new.id, agent_id="a", state={"a": [1, True], "b": 1}, name="n", session_id="s\x00")
    ids = await asyncio.gather(*(provider.store_checkpoint(one) for one in [new, same] * 10))
    assert set(ids) == {str(new.id)}
    assert len(await provider.list_checkpoints()) == 1
    for changed, names in (
        ({"state": {"b": 1, "a": [1, 1]}}, "state"),
        ({"name": "m", "agent_id": "b"}, "agent_id, name"),
        ({"captured_at": NOW}, "captured_at"),
        ({"parent_id": uuid4()}, "parent_id"),
    ):
        with pytest.raises(AlreadyExists, match=f"differs in {names}"):
            await provider.store_checkpoint(new.model_copy(update=changed))
    found = await provider.retrieve_checkpoint(str(new.id))
    assert found and found.state == new.state and found.name == "n"


async def test_of_different_calls_with_one_id_one_is_kept(provider: CheckpointProvider) -> None:
    mine = uuid4()
    calls = [provider.store_checkpoint(checkpoint(id=mine, state=n)) for n in range(16)]
    ended = await asyncio.gather(*calls, return_exceptions=True)
    assert sum(isinstance(one, AlreadyExists) for one in ended) == 15 and ended.count(str(mine)) == 1
    found = await provider.retrieve_checkpoint(str(mine))
    assert found and ended[found.state] == str(mine)


async def test_a_parent_exists_and_may_be_deleted(provider: CheckpointProvider) -> None:
    with pytest.raises(MissingReference):
        await provider.store_checkpoint(checkpoint(parent_id=uuid4()))
    parent = await provider.store_checkpoint(checkpoint())
    child = await provider.store_checkpoint(checkpoint(parent_id=UUID(parent)))
    assert await provider.delete_checkpoint(parent) is True
    assert await provider.delete_checkpoint(parent) is False
    found = await provider.retrieve_checkpoint(child)
    assert found and found.parent_id is None
    for wrong in ("no-uuid", "", None, 5):
        assert await provider.delete_checkpoint(wrong) is False  # pyright: ignore[reportArgumentType]


async def test_of_concurrent_deletions_one_finds_the_checkpoint(provider: CheckpointProvider) -> None:
    for _ in range(5):
        id_ = await provider.store_checkpoint(checkpoint())
        found = await asyncio.gather(*(provider.delete_checkpoint(id_) for _ in range(6)))
        assert sorted(found) == [False] * 5 + [True]


async def test_a_cancelled_call_is_not_executed_afterwards(provider: CheckpointProvider) -> None:
    for delay in range(10):
        tasks = [asyncio.create_task(provider.store_checkpoint(checkpoint(minutes=n))) for n in range(30)]
        for _ in range(delay):
            await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        first = (await provider.list_checkpoints(limit=1, total=True)).total
        await provider.store_checkpoint(checkpoint("other"))
        assert (await provider.list_checkpoints(limit=1, total=True)).total == (first or 0) + 1


# ---- whole applications ----------------------------------------------------------------------------------------------


async def test_the_agents_of_an_application_are_captured_at_one_moment(provider: CheckpointProvider) -> None:
    agents = ["planner", "coder", "tester"]
    new = [NewCheckpoint(agent_id=agent, session_id="app", state=agent) for agent in agents]
    ids = await provider.store_checkpoints(new)
    found = [await provider.retrieve_checkpoint(id_) for id_ in ids]
    assert [one and one.state for one in found] == agents
    assert len({one.captured_at for one in found if one}) == 1
    (moment,) = {one.captured_at for one in found if one}
    await provider.store_checkpoints([one.model_copy(update={"state": "later"}) for one in new[:2]])
    at = await provider.retrieve_checkpoints("app", moment)
    assert [(one.agent_id, one.state) for one in at] == [(agent, agent) for agent in sorted(agents)]
    now = await provider.retrieve_checkpoints("app")
    assert [(one.agent_id, one.state) for one in now] == [
        ("coder", "later"),
        ("planner", "later"),
        ("tester", "tester"),
    ]
    assert list(await provider.retrieve_checkpoints("app", moment - timedelta(microseconds=1))) == []
    some = await provider.retrieve_checkpoints("app", limit=2)
    assert [one.agent_id for one in some] == ["coder", "planner"] and some.more and not now.more
    assert list(await provider.retrieve_checkpoints("nobody")) == []
    with pytest.raises(InvalidValue):
        await provider.retrieve_checkpoints("app", datetime(2026, 1, 1))  # noqa: DTZ001
    with pytest.raises(InvalidValue):
        await provider.retrieve_checkpoints("app", limit=-1)


async def test_agents_of_different_owners_are_different_agents(provider: CheckpointProvider) -> None:
    for minute, owner in enumerate(["b", "a", None, "b"]):
        await provider.store_checkpoint(checkpoint(minutes=minute, session_id="s", owner=owner, state=minute))
    found = await provider.retrieve_checkpoints("s")
    assert [(one.owner, one.state) for one in found] == [("a", 1), ("b", 3), (None, 2)]
    assert [one.state for one in await provider.retrieve_checkpoints("s", owner="b")] == [3]
    assert [(one.owner, one.checkpoints) for one in await provider.checkpoint_statistics("agent")] == [
        ("b", 2),
        ("a", 1),
        (None, 1),
    ]


async def test_several_checkpoints_are_stored_all_or_none_and_may_follow_each_other(
    provider: CheckpointProvider,
) -> None:
    first, second, third = (uuid4() for _ in range(3))
    line = [
        checkpoint("c", id=third, parent_id=second),
        checkpoint("a", id=first),
        checkpoint("b", id=second, parent_id=first),
    ]
    assert await provider.store_checkpoints(line) == [str(third), str(first), str(second)]
    assert await provider.store_checkpoints(line) == [str(third), str(first), str(second)]
    assert await provider.store_checkpoints([]) == []
    for wrong, error in (
        ([checkpoint(), checkpoint(parent_id=uuid4())], MissingReference),
        ([checkpoint(), checkpoint(id=first, state="other")], AlreadyExists),
        ([checkpoint(id=(twice := uuid4())), checkpoint(id=twice)], InvalidValue),
    ):
        with pytest.raises(error):
            await provider.store_checkpoints(wrong)
    assert (await provider.list_checkpoints(total=True)).total == 3


async def test_a_repeated_store_of_an_application_keeps_its_moment(provider: CheckpointProvider) -> None:
    new = [NewCheckpoint(id=uuid4(), agent_id=agent, session_id="s", state=1) for agent in "abc"]
    await asyncio.gather(*(provider.store_checkpoints(new) for _ in range(8)), return_exceptions=True)
    await provider.store_checkpoints(new)
    found = await provider.retrieve_checkpoints("s")
    assert len(found) == 3 and len({one.captured_at for one in found}) == 1


# ---- metrics, pruning ------------------------------------------------------------------------------------------------


async def test_statistics_count_each_agents_checkpoints(provider: CheckpointProvider) -> None:
    assert list(await provider.checkpoint_statistics()) == []
    for agent, count, size in (("a", 3, 10), ("b", 1, 500), ("c", 2, 1)):
        for minute in range(count):
            await provider.store_checkpoint(checkpoint(agent, minute, state="x" * (size - 2)))
    found = await provider.checkpoint_statistics()
    assert [(one.agent_id, one.checkpoints, one.bytes) for one in found] == [("b", 1, 500), ("a", 3, 30), ("c", 2, 4)]
    assert [one.newest for one in found] == [NOW, NOW + timedelta(minutes=2), NOW + timedelta(minutes=1)]
    some = await provider.checkpoint_statistics(limit=2)
    assert len(some) == 2 and some.more and not found.more
    assert [one.checkpoints for one in await provider.checkpoint_statistics("c")] == [2]
    assert list(await provider.checkpoint_statistics("nobody")) == []
    with pytest.raises(InvalidValue):
        await provider.checkpoint_statistics(limit=-1)


async def test_prune_frees_the_old_and_the_superfluous_but_no_agents_newest(provider: CheckpointProvider) -> None:
    now = datetime.now(UTC)

    async def fill() -> None:
        for agent, count in (("a", 5), ("b", 1), ("c", 3)):
            times = [now - timedelta(days=n + 1) for n in range(count)]
            await provider.store_checkpoints(
                [NewCheckpoint(agent_id=agent, state="x" * 98, captured_at=one) for one in times]
            )

    await fill()
    assert (await provider.prune_checkpoints(max_per_agent=2)).model_dump() == {"checkpoints": 4, "bytes": 400}
    assert (await provider.prune_checkpoints(timedelta(hours=1))).checkpoints == 2
    assert sorted(one.agent_id for one in await provider.list_checkpoints()) == ["a", "b", "c"]
    assert (await provider.prune_checkpoints(timedelta(hours=1), 1)).checkpoints == 0
    assert (await provider.prune_checkpoints(timedelta(hours=1), keep_latest=False)).checkpoints == 3
    await fill()
    assert (await provider.prune_checkpoints(max_per_agent=0)).checkpoints == 6
    assert (await provider.prune_checkpoints(max_per_agent=0, keep_latest=False)).checkpoints == 3
    for wrong in ({}, {"max_per_agent": -1}):
        with pytest.raises(InvalidValue):
            await provider.prune_checkpoints(**wrong)


async def test_prune_of_an_owner_leaves_the_others(provider: CheckpointProvider) -> None:
    for minute in range(6):
        await provider.store_checkpoint(checkpoint(minutes=minute, owner=("ann", "bob", None)[minute % 3]))
    assert (await provider.prune_checkpoints(max_per_agent=1, owner="ann")).checkpoints == 1
    assert [one.owner for one in await provider.list_checkpoints()] == [None, "bob", "ann", None, "bob"]
    assert (await provider.prune_checkpoints(max_per_agent=1)).checkpoints == 2


async def test_while_others_store_prune_and_delete_every_agent_keeps_its_newest(provider: CheckpointProvider) -> None:
    agents = [f"agent {n}" for n in range(4)]
    for minute in range(6):
        await provider.store_checkpoints([checkpoint(agent, minute) for agent in agents])

    async def delete_newest(agent: str) -> None:
        newest = await provider.latest_checkpoint(agent)
        if newest and newest.captured_at < NOW + timedelta(minutes=50):
            await provider.delete_checkpoint(str(newest.id))

    work = [provider.prune_checkpoints(max_per_agent=1) for _ in range(4)]
    work += [delete_newest(agent) for agent in agents for _ in range(2)]
    work += [provider.store_checkpoint(checkpoint(agent, 60 + n)) for agent in agents for n in range(4)]
    await asyncio.gather(*work)
    await provider.prune_checkpoints(max_per_agent=1)
    assert [(one.agent_id, one.captured_at) for one in await provider.list_checkpoints(order_by="agent_id")] == [
        (agent, NOW + timedelta(minutes=63)) for agent in agents
    ]


# ---- lists -----------------------------------------------------------------------------------------------------------


async def test_lists_take_an_offset_and_every_operator(provider: CheckpointProvider) -> None:
    for minute, name in enumerate(["Alpha", "beta", "al_ha", None, "", "50%", "a\nb"]):
        await provider.store_checkpoint(checkpoint(minutes=minute, name=name, state="x" * minute))

    async def names(where: Any = None, **asked: Any) -> list[str | None]:
        return [
            one.name for one in await provider.list_checkpoints(where=where, **{"order_by": "captured_at", **asked})
        ]

    assert await names(offset=5) == ["50%", "a\nb"]
    assert await names(offset=1, limit=2) == ["beta", "al_ha"] and await names(offset=7) == []
    assert await names({"name__like": "al%"}) == ["al_ha"]
    assert await names({"name__ilike": "AL_HA"}) == ["Alpha", "al_ha"]
    assert await names({"name__like": "al\\_ha"}) == ["al_ha"] and await names({"name__like": "%\\%"}) == ["50%"]
    assert await names({"name__like": "a_b"}) == ["a\nb"]
    assert await names({"name": None}) == [None] and await names({"name__is_null": False, "name__lt": "A"}) == [
        "",
        "50%",
    ]
    assert await names({"name__in": ["beta", "", "none"]}) == ["beta", ""] and await names({"name__in": []}) == []
    assert await names({"name__not_in": ["beta"]}) == ["Alpha", "al_ha", "", "50%", "a\nb"]
    assert len(await names({"name__not_in": []})) == 7
    assert await names(not_({"name__in": ["beta", ""]})) == ["Alpha", "al_ha", None, "50%", "a\nb"]
    assert await names(any_of({"name": "beta"}, field("size_bytes", gt=7))) == ["beta", "a\nb"]
    assert await names({"captured_at__gte": NOW + timedelta(minutes=5)}, limit=1) == ["50%"]
    assert await names({"size_bytes__lte": 3}) == ["Alpha", "beta"]
    assert await names(order_by=asc("name"), where={"name__in": ["Alpha", "beta"]}) == ["Alpha", "beta"]
    assert (await names(order_by="name"))[-1] is None and (await names(order_by="-name"))[0] is None
    assert (await names(order_by=asc("name", nulls="first")))[0] is None
    assert (await names(order_by=desc("name", nulls="last")))[-1] is None
    wrongs: list[Any] = [
        {"offset": -1},
        {"offset": "1"},
        {"offset": True},
        {"offset": 1, "cursor": "x"},
        {"where": {"name__bogus": 1}},
        {"where": {"name__like": 1}},
        {"where": {"captured_at__gt": datetime(2026, 1, 1)}},  # noqa: DTZ001
        {"where": {"size_bytes": 2**70}},
        {"where": [1]},
        {"order_by": desc("name", nulls="middle")},  # pyright: ignore[reportArgumentType]
    ]
    for wrong in wrongs:
        with pytest.raises(InvalidValue):
            await provider.list_checkpoints(**wrong)


async def test_latest_is_the_newest_by_the_callers_clock_of_this_name_and_owner(provider: CheckpointProvider) -> None:
    for minute, name, owner in ((3, None, "ann"), (1, "n", "bob"), (2, "n", None)):
        await provider.store_checkpoint(checkpoint(minutes=minute, name=name, owner=owner, state=minute))

    async def state(*asked: Any, **owner: Any) -> Any:
        found = await provider.latest_checkpoint(*asked, **owner)
        return found and found.state

    assert await state("agent") == 3 and await state("agent", "n") == 2 and await state("agent", owner="bob") == 1
    assert await state("agent", "n", owner="ann") is None and await state("nobody") is None
