"""Filters with or and not, JSON of several types, literal keys, orders with nulls, and what they count and change."""

from __future__ import annotations

import asyncio
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent_storage import InvalidValue, Storage, all_of, any_of, asc, desc, field, not_, sync
from agent_storage.statements import dynamic
from agent_storage.types import NewConversation, NewModel, NewProvider, NewSession

# ---- JSON: like with like ----

VALUES: list[Any] = [
    None, True, False, 0, 1, 3, 3.5, -2, 10**15, "", "3", "a", "\x00", [], [9], [3, "a"], {}, {"n": 3}, {"a__b": 1}
]  # fmt: skip


def json_kind(value: Any) -> type:
    return float if isinstance(value, (int, float)) and not isinstance(value, bool) else type(value)


def json_equal(one: Any, other: Any) -> bool:
    return json_kind(one) is json_kind(other) and one == other


@pytest.fixture
def documents(sync_storage: sync.Storage) -> sync.Storage:
    """A conversation for each value, at a place, and one without the place."""
    news = [NewConversation(title=str(number), metadata={"n": value}) for number, value in enumerate(VALUES)]
    sync_storage.conversations.create_many([*news, NewConversation(title="none", metadata={})])
    return sync_storage


def found(storage: sync.Storage, where: Any) -> list[Any]:
    return [row.metadata.get("n") for row in storage.conversations.find(where, limit=1000)]


@pytest.mark.parametrize("operator", ["lt", "lte", "gt", "gte"])
@pytest.mark.parametrize("value", [3, 0, 3.5, "3", "", "b", True, False])
def test_json_is_compared_with_values_of_its_own_type(documents: sync.Storage, operator: str, value: Any) -> None:
    compare = {"lt": "__lt__", "lte": "__le__", "gt": "__gt__", "gte": "__ge__"}[operator]
    alike = [one for one in VALUES if json_kind(one) is json_kind(value) and one != "\x00"]
    kind = float if json_kind(value) is float else type(value)
    expected = [one for one in alike if getattr(kind(one), compare)(kind(value))]
    got = found(documents, {f"metadata__n__{operator}": value})
    assert [one for one in got if one != "\x00"] == expected


@pytest.mark.parametrize("value", [one for one in VALUES if one is not None], ids=str)
def test_json_equality_tells_types_apart_and_null_is_no_value(documents: sync.Storage, value: Any) -> None:
    equal = [one for one in VALUES if one is not None and json_equal(one, value)]
    others = [one for one in VALUES if one is not None and not json_equal(one, value)]
    assert found(documents, {"metadata__n": value}) == equal
    assert found(documents, {"metadata__n__ne": value}) == others
    assert found(documents, {"metadata__n__in": [value]}) == equal
    assert found(documents, {"metadata__n__not_in": [value]}) == others
    assert found(documents, not_({"metadata__n": value})) == [one for one in VALUES if not json_equal(one, value)] + [
        None
    ]


def test_patterns_match_json_texts_alone_and_null_is_missing_or_null(documents: sync.Storage) -> None:
    assert found(documents, {"metadata__n__like": "%"}) == ["", "3", "a", "\x00"]
    assert found(documents, {"metadata__n__ilike": "A"}) == ["a"]
    assert found(documents, {"metadata__n__is_null": True}) == [None, None]
    assert found(documents, {"metadata__n": None}) == [None, None]
    assert len(found(documents, {"metadata__n__ne": None})) == len(VALUES) - 1


def test_a_whole_document_that_is_jsons_null_is_null(sync_storage: sync.Storage) -> None:
    sync_storage.stream_events.publish("s", data=None)
    sync_storage.stream_events.publish("s", data=3)
    sync_storage.stream_events.publish("s", data=[9])

    def data(**where: Any) -> list[Any]:
        return [row.data for row in sync_storage.stream_events.find(where)]

    assert data(data__gt=2) == [3]
    assert data(data__ne=3) in ([[9]], [{}, [9]])
    assert len(data(data__is_null=True)) + len(data(data__is_null=False)) == 3


@pytest.mark.parametrize(
    ("where", "reason"),
    [
        ({"metadata__n__gt": [1]}, "compares numbers, texts and booleans"),
        ({"metadata__n__gt": {}}, "compares numbers"),
        ({"metadata__n__gt": None}, "use is_null"),
        ({"metadata__n__in": [1, None]}, "use is_null"),
        ({"metadata__n__overlaps": [1]}, "overlaps compares arrays"),
        ({"metadata__n": float("nan")}, "NaN"),
        (field("metadata", "n"), "takes an operator"),
        (field("title", "n", eq=1), "takes no path"),
        (field("bogus", eq=1), "no field 'bogus'"),
        (field("metadata", 3, eq=1), "path"),  # type: ignore[arg-type]
        (field("title", bogus=1), "unknown operator"),  # type: ignore[call-arg]
        (field("api", eq=1), "no field"),
        (["title"], "a filter is a mapping"),
        ("title", "a filter is a mapping"),
        (any_of("title"), "a filter is a mapping"),  # type: ignore[arg-type]
        (any_of({}), "no empty filter"),
        (any_of({"title": "a"}, all_of()), "no empty filter"),
        (not_({}), "no empty filter"),
        (not_(any_of()), "no empty filter"),
        (any_of(*({"title": str(n)} for n in range(101))), "at most 100"),
    ],
)
async def test_a_wrong_composition_is_refused_before_any_sql_exists(face: Any, where: Any, reason: str) -> None:
    for method in (face.conversations.find, face.conversations.count, face.conversations.delete_where):
        with pytest.raises(InvalidValue, match=reason):
            await method(where)
    with pytest.raises(InvalidValue, match=reason):
        await face.conversations.update_where(where, {"title": "x"})


def test_a_deep_filter_is_refused(sync_storage: sync.Storage) -> None:
    where: Any = {"title": "a"}
    for _ in range(5000):
        where = not_(where)
    with pytest.raises(InvalidValue, match="nested"):
        sync_storage.conversations.find(where)


# ---- keys that are taken literally ----

KEYS = ["a__b", "a__gt", "in", "__", "", "a.b", "0", "{a,b}", '"', "\x00", "Ø", "'; DROP TABLE messages; --", "$1"]


@pytest.mark.parametrize("key", KEYS)
async def test_any_key_can_be_named_literally(face: Any, key: str) -> None:
    made = await face.conversations.create(NewConversation(metadata={key: 3, "deep": {key: {key: "x"}}}))
    await face.conversations.create(NewConversation(metadata={"a": {"b": 3}, "deep": {"a": {"b": "x"}}}))
    for where in (
        field("metadata", key, eq=3),
        field("metadata", key, gt=2, lt=4),
        field("metadata", key, in_=[1, 3]),
        field("metadata", "deep", key, key, like="x%"),
        field("metadata", "deep", key, contains={key: "x"}),
        field("metadata", key, is_null=False),
    ):
        assert [row.id for row in await face.conversations.find(where)] == [made.id]
    assert await face.conversations.count(field("metadata", key, gt=3)) == 0
    assert await face.conversations.count(not_(field("metadata", key, eq=3))) == 1


# ---- or, not ----

TITLES = [None, "", "a", "b", "Ø"]
LEAVES = st.one_of(
    st.tuples(st.just("title"), st.sampled_from(["eq", "ne", "is_null", "in", "not_in"]), st.sampled_from(TITLES[1:])),
    st.tuples(st.just("message_count"), st.sampled_from(["eq", "gt"]), st.integers(-1, 1)),
    st.tuples(st.just("metadata__n"), st.sampled_from(["eq", "ne", "gt", "is_null"]), st.sampled_from([0, 1, "x"])),
)
TREES = st.recursive(
    st.lists(LEAVES, min_size=1, max_size=3, unique_by=lambda leaf: leaf[:2]).map(lambda leaves: ("leaf", leaves)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda members: ("or", members)),
        st.lists(inner, min_size=1, max_size=3).map(lambda members: ("and", members)),
        inner.map(lambda member: ("not", [member])),
    ),
    max_leaves=6,
)


def built(tree: Any) -> Any:
    """The filter of a tree, or None if it is refused."""
    kind, members = tree
    if kind == "leaf":
        return {
            f"{name}__{how}": [value] if how in ("in", "not_in") else value == "a" if how == "is_null" else value
            for name, how, value in members
        }
    made = [built(member) for member in members]
    return {"or": any_of, "and": all_of, "not": not_}[kind](*made)


def holds(tree: Any, row: Any) -> bool | None:
    """Whether a row matches; None is SQL's unknown."""
    kind, members = tree
    if kind == "leaf":
        return all_hold([leaf_holds(row, *leaf) for leaf in members])
    if kind == "not":
        return not holds(members[0], row)
    told = [holds(member, row) for member in members]
    if kind == "and":
        return all_hold(told)
    return True if True in told else None if None in told else False


def all_hold(told: list[bool | None]) -> bool | None:
    return False if False in told else None if None in told else True


def leaf_holds(row: Any, name: str, how: str, value: Any) -> bool | None:
    stored = row.metadata.get("n") if name == "metadata__n" else getattr(row, name)
    if how == "is_null":
        return (stored is None) is (value == "a")
    if stored is None:
        return None
    match how:
        case "gt":
            return json_kind(stored) is json_kind(value) and stored > value
        case "ne" | "not_in":
            return not json_equal(stored, value)
        case _:
            return json_equal(stored, value)


def test_composed_filters_are_what_python_says_in_every_method(sync_storage: sync.Storage) -> None:
    conversations = sync_storage.conversations
    conversations.create_many(
        NewConversation(title=title, metadata={} if n is ... else {"n": n})
        for title in TITLES
        for n in (..., None, 0, 1, "x", True)
    )
    rows = list(conversations.find(limit=1000))

    @settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
    @given(TREES)
    def compare(tree: Any) -> None:
        where = built(tree)
        expected = {row.id for row in rows if holds(tree, row)}
        try:
            got = conversations.find(where, limit=1000, total=True)
        except InvalidValue as error:
            assert "no empty filter" in str(error)
            return
        assert {row.id for row in got} == expected
        assert got.total == conversations.count(where) == len(expected)
        assert sum(conversations.count_by("title", where).values()) == len(expected)
        with conversations.stream(where) as streamed:
            assert {row.id for row in streamed} == expected
        page = conversations.page(where, "-title", limit=4)
        seen = [row.id for row in page]
        while page.next_cursor:
            page = conversations.page(where, "-title", limit=4, cursor=page.next_cursor)
            seen += [row.id for row in page]
        assert sorted(seen) == sorted(expected)
        with conversations.transaction() as inner:
            assert inner.update_where(where, {"title": "changed"}) == len(expected)
            assert {row.id for row in inner.find({"title": "changed"}, limit=1000)} == expected
            raise psycopg.Rollback
        with conversations.transaction() as inner:
            assert inner.delete_where(where) == len(expected)
            assert inner.count() == len(rows) - len(expected)
            raise psycopg.Rollback

    compare()


async def test_not_is_the_rest_of_the_rows(face: Any) -> None:
    await face.conversations.create_many([NewConversation(title=title) for title in TITLES])
    for where in (
        {"title": "a"},
        {"title__ne": "a"},
        {"title__in": ["a", "b"]},
        any_of({"title": None}, {"title": "a"}),
    ):
        both = await face.conversations.count(where), await face.conversations.count(not_(where))
        assert sum(both) == len(TITLES)
    assert await face.conversations.count(not_({"title": "a"})) == 4
    assert await face.conversations.count({"title__ne": "a"}) == 3
    assert await face.conversations.count(any_of()) == 0
    assert await face.conversations.count(all_of()) == await face.conversations.count(all_of({}, {})) == len(TITLES)


async def test_archived_rows_are_left_out_unless_any_part_of_a_filter_names_the_column(face: Any) -> None:
    kept, archived = await face.conversations.create_many([NewConversation(title="a"), NewConversation(title="b")])
    await face.conversations.archive(archived.id)
    conversations = face.conversations
    assert await conversations.count(any_of({"title": "a"}, {"title": "b"})) == 1
    assert await conversations.count(not_({"title": "x"})) == 1
    assert await conversations.count(any_of({"title": "a"}, {"title": "b", "archived_at__is_null": False})) == 2
    assert [row.id for row in await conversations.find(not_(field("archived_at", is_null=False)))] == [kept.id]


async def test_the_order_of_conditions_does_not_make_another_statement(face: Any) -> None:
    some = [{"title": "a"}, {"message_count__gt": 0}, not_({"title": "b"}), field("metadata", "n", eq=1)]
    await face.conversations.find(any_of(*some))
    before = dynamic.select.cache_info().currsize
    for where in (any_of(*some[::-1]), any_of(some[2], some[0], some[3], some[1])):
        await face.conversations.find(where)
    for number in range(50):  # paths are values, not forms
        await face.conversations.find(any_of({"title": "c"}, {"message_count__gt": 0}, not_({"title": "d"}),
                                             field("metadata", f"key {number}", eq=number)))  # fmt: skip
    assert dynamic.select.cache_info().currsize == before


@pytest.mark.parametrize("where", [None, {}, all_of(), all_of({}, all_of())])
async def test_an_empty_filter_changes_and_deletes_nothing(face: Any, where: Any) -> None:
    await face.conversations.create(NewConversation(title="x"))
    with pytest.raises(InvalidValue, match="delete_where needs a filter"):
        await face.conversations.delete_where(where)
    with pytest.raises(InvalidValue, match="update_where needs a filter"):
        await face.conversations.update_where(where, {"title": "y"})
    assert await face.conversations.delete_where(any_of()) == 0
    assert await face.conversations.update_where(any_of(), {"title": "y"}) == 0
    assert await face.conversations.count({"title": "x"}) == 1


# ---- update_where, count_by ----


async def test_update_where_changes_what_matches(face: Any) -> None:
    rows = await face.sessions.create_many([NewSession(agent=f"a{n % 2}") for n in range(10)])
    where = any_of({"agent": "a1"}, {"id": rows[0].id})
    assert await face.sessions.update_where(where, {"agent": "changed", "data": {"title": "t"}}) == 6
    changed = await face.sessions.find({"agent": "changed"})
    assert {row.data.title for row in changed} == {"t"}
    assert all(row.updated_at > row.created_at for row in changed)
    for wrong in ({}, {"bogus": 1}, {"agent": ""}, {"id": rows[0].id}):
        with pytest.raises(InvalidValue):
            await face.sessions.update_where({"agent": "a0"}, wrong)
    await face.providers.create(NewProvider(name="p", kind="k"))
    with pytest.raises(InvalidValue, match="row by row"):
        await face.providers.update_where({"name": "p"}, {"api_key": "sk"})


async def test_concurrent_update_where_in_opposite_orders_does_not_deadlock(storage: Storage) -> None:
    rows = await storage.conversations.create_many([NewConversation(metadata={"n": n}) for n in range(40)])
    ids = [row.id for row in rows]

    async def change(number: int) -> int:
        where = any_of({"id__in": ids[::-1]}, {"metadata__n__gte": number % 40})
        return await storage.conversations.update_where(where, {"title": str(number)})

    assert await asyncio.gather(*map(change, range(100))) == [40] * 100


async def test_count_by_counts_each_value(face: Any, migrated: str) -> None:
    await face.sessions.create_many([NewSession(agent=f"a{n % 3}") for n in range(7)])
    await face.conversations.create_many([NewConversation(title=title) for title in [*TITLES, None, None, "a", "\x00"]])
    counts = await face.sessions.count_by("agent")
    assert (list(counts.items()), counts.more) == ([("a0", 3), ("a1", 2), ("a2", 2)], False)
    some = await face.sessions.count_by("agent", limit=2)
    assert (dict(some), some.more) == ({"a0": 3, "a1": 2}, True)
    assert await face.sessions.count_by("agent", {"agent__ne": "a0"}) == {"a1": 2, "a2": 2}
    assert await face.sessions.count_by("agent", {"agent": "none"}) == {}
    assert await face.conversations.count_by("title") == {None: 3, "a": 2, "": 1, "b": 1, "Ø": 1, "\x00": 1}
    with psycopg.connect(migrated, autocommit=True) as connection:
        connection.execute("ALTER TABLE sessions DROP CONSTRAINT sessions_status_check")
        connection.execute("INSERT INTO sessions (agent, status) SELECT 'b', 'hibernating' FROM generate_series(1, 3)")
    assert await face.sessions.count_by("status") == {"idle": 7, "hibernating": 3}
    for wrong in ("bogus", "data", "agent; --", ""):
        with pytest.raises(InvalidValue):
            await face.sessions.count_by(wrong)
    with pytest.raises(InvalidValue, match="counted"):
        await face.providers.count_by("api_key")
    with pytest.raises(InvalidValue, match="limit"):
        await face.sessions.count_by("status", limit=0)


# ---- orders with nulls ----


def test_pages_hold_every_row_once_in_every_order_with_nulls(sync_storage: sync.Storage) -> None:
    provider = sync_storage.providers.create(NewProvider(name="p", kind="k"))
    fields = st.sampled_from(["display_name", "context_window", "input_price", "enabled", "name", "id"])
    by = st.one_of(
        fields, fields.map("-{}".format),
        st.builds(asc, fields, nulls=st.sampled_from(["first", "last"])),
        st.builds(desc, fields, nulls=st.sampled_from(["first", "last"])),
    )  # fmt: skip
    row = st.tuples(
        st.sampled_from([None, "", "a", "b", "\x00"]), st.sampled_from([None, 1, 2]), st.sampled_from([None, 0, 1]),
        st.booleans(),
    )  # fmt: skip

    @settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(row, max_size=14), st.lists(by, min_size=1, max_size=3), st.integers(1, 5))
    def compare(rows: list[Any], order: list[Any], limit: int) -> None:
        sync_storage.models.delete_where({"provider_id": provider.id})
        sync_storage.models.create_many(
            NewModel(provider_id=provider.id, name=f"m{n}", display_name=a, context_window=b, input_price=c, enabled=d)
            for n, (a, b, c, d) in enumerate(rows)
        )
        found = list(sync_storage.models.find(order_by=order, limit=1000))
        assert len(found) == len(rows)
        paged, cursor = [], None
        while True:
            page = sync_storage.models.page(order_by=order, limit=limit, cursor=cursor)
            paged += page.items
            if (cursor := page.next_cursor) is None:
                break
        assert paged == found
        first = (
            order[0] if not isinstance(order[0], str) else (desc if order[0][0] == "-" else asc)(order[0].lstrip("-"))
        )
        values = [getattr(one, first.field) for one in found]
        nulls = [value is None for value in values]
        assert nulls == sorted(nulls, reverse=first.nulls == "first")
        if first.field in ("context_window", "input_price", "enabled", "id"):
            there = [value for value in values if value is not None]
            assert there == sorted(there, reverse=first.descending)

    compare()


async def test_a_cursor_belongs_to_the_place_of_nulls_too(face: Any) -> None:
    await face.conversations.create_many([NewConversation(title=title) for title in TITLES])
    cursor = (await face.conversations.page(order_by=desc("title", nulls="last"), limit=1)).next_cursor
    with pytest.raises(InvalidValue, match="another table or order"):
        await face.conversations.page(order_by="-title", cursor=cursor)
    again = (await face.conversations.page(order_by=desc("title"), limit=1)).next_cursor
    assert (await face.conversations.page(order_by="-title", cursor=again, limit=1)).items
    for wrong in (desc("bogus"), desc("metadata"), desc("title; --"), asc("title", nulls="between")):  # type: ignore[arg-type]
        with pytest.raises(InvalidValue):
            await face.conversations.find(order_by=wrong)
