"""The three databases give the same lists: generated filters, orders and pages over the same rows."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent_storage import all_of, any_of, asc, desc, field, not_
from agent_storage.adapters.checkpoints import CheckpointProvider, checkpoint_provider

from .conftest import ENGINES
from .test_contract import NOW, checkpoint

NAMES = [None, "", "a", "b", "ab", "a b", "a%", "b_"]
OWNERS = [None, "x", "y"]


@pytest.fixture
async def three(url_of: Any) -> AsyncIterator[list[CheckpointProvider]]:
    """A provider of each database, with the same 40 rows."""
    rows = [
        checkpoint(
            "abc"[n % 3],
            n // 4,
            id=UUID(int=(7 << 76) | (0b10 << 62) | n),
            name=NAMES[n % len(NAMES)],
            owner=OWNERS[n % 5 % 3],
            session_id=None if n % 4 == 0 else f"s{n % 2}",
            parent_id=UUID(int=(7 << 76) | (0b10 << 62) | (n - 3)) if n % 6 == 5 else None,
            created_at=NOW,
            updated_at=NOW,
            state="x" * (n % 7),
        )
        for n in range(40)
    ]
    async with AsyncExitStack() as stack:
        opened = [await stack.enter_async_context(checkpoint_provider(url_of(engine))) for engine in ENGINES]
        for one in opened:
            await one.store_checkpoints(rows)
        yield opened


VALUES: dict[str, st.SearchStrategy[Any]] = {
    "agent_id": st.sampled_from("abcd"),
    "session_id": st.sampled_from(["s0", "s1", ""]),
    "name": st.sampled_from([name for name in NAMES if name is not None]),
    "owner": st.sampled_from(["x", "y", "z"]),
    "captured_at": st.integers(-1, 11).map(lambda n: NOW + timedelta(minutes=n)),
    "size_bytes": st.integers(0, 9),
    "id": st.integers(0, 41).map(lambda n: UUID(int=(7 << 76) | (0b10 << 62) | n)),
}
PATTERNS = st.text(st.sampled_from("ab%_ "), max_size=3)


def condition(name: str) -> st.SearchStrategy[Any]:
    value = VALUES[name]
    found = [
        st.sampled_from(["eq", "ne", "lt", "lte", "gt", "gte"]).flatmap(
            lambda operator: value.map(lambda given_: field(name, **{operator: given_}))
        ),
        st.lists(value, max_size=3).map(lambda values: field(name, in_=values)),
        st.lists(value, max_size=3).map(lambda values: field(name, not_in=values)),
        st.booleans().map(lambda null: field(name, is_null=null)),
    ]
    if name in ("agent_id", "name", "owner"):
        found += [PATTERNS.map(lambda text: field(name, like=text)), PATTERNS.map(lambda text: field(name, ilike=text))]
    return st.one_of(found)


WHERE = st.recursive(
    st.sampled_from(list(VALUES)).flatmap(condition),
    lambda inner: (
        st.lists(inner, min_size=1, max_size=3).map(lambda members: any_of(*members))
        | st.lists(inner, min_size=1, max_size=3).map(lambda members: all_of(*members))
        | st.sampled_from(list(VALUES)).flatmap(condition).map(not_)
    ),
    max_leaves=4,
)
ORDERS = st.lists(
    st.tuples(
        st.sampled_from(["captured_at", "owner", "session_id", "agent_id", "size_bytes", "parent_id", "name"]),
        st.sampled_from([asc, desc]),
        st.sampled_from(["first", "last"]),
    ),
    min_size=1,
    max_size=3,
    unique_by=lambda one: one[0],
).map(lambda found: [make(name, nulls=nulls) for name, make, nulls in found])


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.filter_too_much],
)
@given(where=WHERE, order_by=ORDERS, limit=st.integers(1, 15), offset=st.integers(0, 12))
async def test_the_same_filters_orders_and_pages_give_the_same_rows(
    three: list[CheckpointProvider], where: Any, order_by: Any, limit: int, offset: int
) -> None:
    # Texts are compared by code point besides PostgreSQL; these are compared alike in its collations C and C.UTF-8.
    answers: list[Any] = []
    for provider in three:
        asked: dict[str, Any] = {"where": where, "order_by": order_by, "limit": limit}
        page = await provider.list_checkpoints(**asked, offset=offset, total=True)
        found = [[one.id.int for one in page]]
        total = page.total
        page = await provider.list_checkpoints(**asked)
        found.append([one.id.int for one in page])
        while page.next_cursor:
            page = await provider.list_checkpoints(**asked, cursor=page.next_cursor)
            found.append([one.id.int for one in page])
        assert sum(map(len, found[1:])) == total
        answers.append((found, total))
    assert answers[0] == answers[1] == answers[2]


async def test_summaries_records_and_statistics_are_equal(three: list[CheckpointProvider]) -> None:
    lists = [list(await one.list_checkpoints(limit=100)) for one in three]
    assert [row.model_dump() for row in lists[0]] == [row.model_dump() for row in lists[1]]
    assert lists[0] == lists[1] == lists[2]
    for row in lists[0]:
        first, second, third = [await one.retrieve_checkpoint(str(row.id)) for one in three]
        assert first and first == second == third
    first, second, third = [list(await one.checkpoint_statistics()) for one in three]
    assert first == second == third
    for session in ("s0", "s1"):
        at = NOW + timedelta(minutes=5)
        first, second, third = [list(await one.retrieve_checkpoints(session, at)) for one in three]
        assert first and first == second == third


async def test_a_cursor_of_one_database_goes_on_in_another(three: list[CheckpointProvider]) -> None:
    for order in ("-captured_at", ["owner", "-session_id"]):
        page = await three[0].list_checkpoints(limit=7, order_by=order)
        following = [await one.list_checkpoints(limit=7, order_by=order, cursor=page.next_cursor) for one in three]
        assert following[0] == following[1] == following[2] and len(following[0]) == 7
