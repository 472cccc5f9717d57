"""Filters, order and pages: the same as in Python on all rows, and no string changes what is asked."""

from __future__ import annotations

import operator
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent_storage import InvalidValue, NotFound, sync
from agent_storage.types import NewConversation, NewMessage

TITLES = [None, "", "a", "b", "b", "Ø", "\x00", "z%_"]
OPERATORS = {
    "eq": operator.eq, "ne": operator.ne, "lt": operator.lt, "lte": operator.le, "gt": operator.gt, "gte": operator.ge,
}  # fmt: skip


def seed(storage: Any) -> list[Any]:
    storage.conversations.create_many(
        [
            NewConversation(title=title, metadata={"n": number % 3, "deep": {"tag": f"t{number % 2}"}})
            for number, title in enumerate(TITLES * 3)
        ]
    )
    with storage.conversations.stream() as rows:
        return list(rows)


ORDERS = st.lists(
    st.sampled_from(["title", "-title", "created_at", "-id", "message_count", "-last_message_at"]),
    min_size=1, max_size=3, unique_by=lambda name: name.lstrip("-"),
)  # fmt: skip
FIELDS = st.one_of(
    st.tuples(st.just("message_count"), st.sampled_from(list(OPERATORS)), st.integers(-1, 2)),
    st.tuples(st.just("metadata__n"), st.sampled_from(list(OPERATORS)), st.integers(0, 3)),
    st.tuples(st.just("title"), st.sampled_from(["eq", "ne"]), st.sampled_from([t for t in TITLES if t is not None])),
    st.tuples(st.just("metadata__deep__tag"), st.sampled_from(["eq", "ne"]), st.sampled_from(["t0", "t1", "'"])),
)


def value_of(row: Any, field: str) -> Any:
    name, *path = field.split("__")
    value = getattr(row, name)
    for part in path:
        value = value[part]
    return value


def matches(row: Any, filters: list[tuple[str, str, Any]]) -> bool:
    return all(
        value_of(row, field) is not None and OPERATORS[name](value_of(row, field), value)
        for field, name, value in filters
    )


def test_filters_equal_python_and_keyset_pages_concatenate_to_the_whole(sync_storage: sync.Storage) -> None:
    rows = seed(sync_storage)

    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(FIELDS, max_size=3, unique_by=lambda item: item[:2]), ORDERS, st.integers(1, 9))
    def compare(filters: list[tuple[str, str, Any]], order: list[str], limit: int) -> None:
        where = {f"{field}__{name}": value for field, name, value in filters}
        expected = {row.id for row in rows if matches(row, filters)}
        found = sync_storage.conversations.find(where, order, limit=1000, total=True)
        assert {row.id for row in found} == expected
        assert found.total == len(expected) == sync_storage.conversations.count(where)
        paged: list[Any] = []
        cursor = None
        while True:
            page = sync_storage.conversations.page(where, order, limit, cursor, total=True)
            paged += page.items
            assert page.total == len(expected)
            cursor = page.next_cursor
            if cursor is None:
                break
        assert paged == list(found)

    compare()


async def test_every_operator_does_what_its_name_says(face: Any) -> None:
    a = await face.conversations.create(NewConversation(title="Alpha", metadata={"tags": ["x", "y"], "n": None}))
    b = await face.conversations.create(NewConversation(title="beta%", metadata={"tags": ["y"], "n": 1}))
    c = await face.conversations.create(NewConversation(metadata={"n": 2}))

    async def found(**where: Any) -> list[Any]:
        return [row.id for row in await face.conversations.find(where)]

    assert await found(title__in=["Alpha", "nope"]) == [a.id]
    assert await found(title__not_in=["Alpha"]) == [b.id]
    assert await found(id__in=[a.id, str(c.id)]) == [a.id, c.id]
    assert await found(title__in=[]) == []
    assert await found(title__like="beta\\%") == [b.id]
    assert await found(title__ilike="ALP%") == [a.id]
    assert await found(title=None) == [c.id]
    assert await found(title__ne=None) == await found(title__is_null=False) == [a.id, b.id]
    assert await found(metadata__contains={"tags": ["y"]}) == [a.id, b.id]
    assert await found(metadata__tags__contains=["x"]) == [a.id]
    assert await found(metadata__n__in=[1, 2]) == [b.id, c.id]
    assert await found(metadata__n__is_null=True) == [a.id]
    assert await found(metadata={"n": 2}) == [c.id]
    assert await found(metadata__tags__like='%"x"%') == []
    assert [row.id for row in await face.conversations.find(order_by="-id", limit=1, offset=1)] == [b.id]
    beyond = await face.conversations.find(offset=99, total=True)
    assert (list(beyond), beyond.total) == ([], 3)


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        ({"where": {"bogus": 1}}, "no field 'bogus'; fields are: id, title"),
        ({"where": {"title__bogus": 1}}, "unknown operator 'bogus'; operators are: eq"),
        ({"where": {"id": "nope"}}, "id"),
        ({"where": {"message_count__gt": "many"}}, "message_count"),
        ({"where": {"title__gt": None}}, "is_null"),
        ({"where": {"title__in": "abc"}}, "takes a list"),
        ({"where": {"title__is_null": "yes"}}, "True or False"),
        ({"where": {"title__contains": "x"}}, "arrays"),
        ({"where": {"message_count__like": "1%"}}, "applies to text"),
        ({"order_by": "bogus"}, "no field"),
        ({"order_by": "metadata"}, "ordered by"),
        ({"limit": 1001}, "limit"),
        ({"limit": -1}, "limit"),
        ({"limit": True}, "limit"),
        ({"offset": -1}, "offset"),
    ],
)
async def test_a_wrong_question_is_refused_before_any_sql_exists(face: Any, call: Any, reason: str) -> None:
    with pytest.raises(InvalidValue, match=reason):
        await face.conversations.find(**call)


async def test_a_cursor_is_refused_with_another_order_table_or_when_damaged(face: Any) -> None:
    await face.conversations.create_many([NewConversation(title=str(n)) for n in range(3)])
    cursor = (await face.conversations.page(order_by="title", limit=1)).next_cursor
    for order in ("-title", "id", ["title", "-id"]):
        with pytest.raises(InvalidValue, match="another table or order"):
            await face.conversations.page(order_by=order, cursor=cursor)
    with pytest.raises(InvalidValue, match="cursor"):
        await face.providers.page(order_by="name", cursor=cursor)
    for damaged in ("", "x", cursor[:-3], "e30", "🙂", "a" * 5000):
        with pytest.raises(InvalidValue, match="cursor"):
            await face.conversations.page(order_by="title", cursor=damaged)


async def test_pages_stay_whole_while_rows_come_in(face: Any) -> None:
    first = await face.conversations.create_many([NewConversation(title=f"{n:03}") for n in range(30)])
    seen: list[Any] = []
    cursor = None
    while True:
        page = await face.conversations.page(order_by="title", limit=4, cursor=cursor)
        seen += page.items
        cursor = page.next_cursor
        if cursor is None:
            break
        await face.conversations.create(NewConversation(title="000"))
    assert [row.id for row in seen if row.title != "000" or row.id == first[0].id] == [row.id for row in first]
    assert len({row.id for row in seen}) == len(seen)


INJECTIONS = [
    "'; DROP TABLE conversations; --", '"; DROP TABLE messages; --', "1) OR (1=1", "\\'; SELECT pg_sleep(9); --",
    "%(x)s", "$1", "{}", "{table}", "id; --", "title) FROM conversations; --", "\x00'", "/* */", "E'\\x27'", "$$;$$",
]  # fmt: skip


@pytest.mark.parametrize("text", INJECTIONS)
async def test_no_string_changes_what_is_asked(face: Any, text: str) -> None:
    made = await face.conversations.create(NewConversation(title=text, metadata={text: {text: text}}))
    await face.messages.append(made.id, "user", text, tool_call_id=text)
    for where in ({"title": text}, {"title__in": [text]}, {"metadata": {text: {text: text}}}):
        assert [row.id for row in await face.conversations.find(where)] == [made.id]
    for bad in ({"where": {text: 1}}, {"where": {f"title__{text}": 1}}, {"order_by": text}, {"order_by": f"-{text}"}):
        with pytest.raises(InvalidValue):
            await face.conversations.find(**bad)
    with pytest.raises(InvalidValue):
        await face.conversations.page(cursor=text)
    with pytest.raises((InvalidValue, NotFound)):
        await face.conversations.resolve(text)
    with pytest.raises(InvalidValue):
        await face.conversations.update(made.id, **{text: 1})
    with pytest.raises(InvalidValue):
        await face.conversations.patch(made.id, **{text: {}})
    await face.messages.search(text)
    assert await face.providers.get_by(name=text) is None
    assert (await face.conversations.count(), await face.messages.count()) == (1, 1)


def plan(connection: psycopg.Connection, statement: Any, values: list[str]) -> str:
    connection.execute(b"PREPARE p AS " + statement.query)
    rows = connection.execute(f"EXPLAIN EXECUTE p({', '.join(values)})".encode()).fetchall()
    connection.execute("DEALLOCATE p")
    return "\n".join(row[0] for row in rows)


def test_what_a_page_of_an_application_asks_is_served_by_an_index(sync_storage: sync.Storage, migrated: str) -> None:
    chats = sync_storage.conversations.create_many([NewConversation(title=str(n)) for n in range(3000)])
    sync_storage.messages.create_many(
        [NewMessage(conversation_id=chats[n % 50].id, role="user", content=f"word{n}") for n in range(5000)]
    )
    messages, conversations = type(sync_storage.messages), type(sync_storage.conversations)
    some = f"'{uuid4()}'"
    with psycopg.connect(migrated, autocommit=True) as connection:
        connection.execute("ANALYZE")
        connection.execute("SET plan_cache_mode = force_generic_plan")
        cases = [
            (messages.statements()["latest"], [some, "20"]),
            (messages.statements()["thread"], [some, "20"]),
            (messages.statements()["get"], [some]),
            (messages.statements()["_between_ids"], [some, some]),
            (messages.statements()["_neighbours"], [some]),
            (messages.statements()["create"], [some, "'user'", "'1'", *["NULL"] * 5, "'{}'"]),
            (conversations.statements()["usage"], [some]),
            (type(sync_storage.tool_results).statements()["by_conversation"], [some, "20"]),
        ]
        for statement, values in cases:
            assert "Seq Scan on messages" not in (text := plan(connection, statement, values)), text
            assert "Seq Scan on conversations" not in text, text


def test_recent_is_an_index_scan(sync_storage: sync.Storage, migrated: str) -> None:
    sync_storage.conversations.create_many([NewConversation(title=str(n)) for n in range(3000)])
    page = sync_storage.conversations.recent(5)
    sync_storage.conversations.recent(5, page.next_cursor)
    with psycopg.connect(migrated, autocommit=True) as connection:
        connection.execute("ANALYZE")
        rows = connection.execute(
            "EXPLAIN SELECT * FROM conversations WHERE archived_at IS NULL"
            " AND (last_message_at, id) < (now(), gen_random_uuid()) ORDER BY last_message_at DESC, id DESC LIMIT 6"
        ).fetchall()
    assert "conversations_recent_idx" in "\n".join(row[0] for row in rows)
