"""What the chat tables promise beyond CRUD, on both faces."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from agent_storage import (
    Conflict,
    InvalidTransition,
    InvalidValue,
    MissingReference,
    NotFound,
    StillReferenced,
)
from agent_storage.types import NewConversation, NewMessage, NewModel, NewProvider, NewToolResult


async def conversation(face: Any, **fields: Any) -> Any:
    return await face.conversations.create(NewConversation(**fields))


async def test_append_takes_the_next_position_and_moves_the_conversation(face: Any) -> None:
    chat = await conversation(face)
    first = await face.messages.append(chat.id, "user", "one", input_tokens=3)
    second = await face.messages.append(chat.id, role="assistant", content="two", parent_id=first.id)
    assert (first.position, second.position, second.parent_id) == (1, 2, first.id)
    moved = await face.conversations.require(chat.id)
    assert moved.message_count == 2
    assert moved.last_message_at > chat.last_message_at


async def test_append_many_keeps_the_order_in_one_step(face: Any) -> None:
    chat, other = await conversation(face), await conversation(face)
    await face.messages.append(chat.id, "user", "0")
    news = [NewMessage(conversation_id=chat.id, role="user", content=str(n)) for n in range(1, 30)]
    made = await face.messages.append_many(chat.id, news)
    assert [message.position for message in made] == list(range(2, 31))
    assert [message.content for message in made] == [str(n) for n in range(1, 30)]
    with pytest.raises(InvalidValue, match="not the conversation"):
        await face.messages.append_many(other.id, news)


async def test_appending_to_a_missing_conversation_is_not_found_and_writes_nothing(face: Any) -> None:
    chat = await conversation(face)
    with pytest.raises(NotFound, match="conversations has no row"):
        await face.messages.append(uuid4(), "user", "x")
    batch = [NewMessage(conversation_id=item, role="user", content="x") for item in (chat.id, uuid4())]
    with pytest.raises(
        MissingReference, match=r"messages\.conversation_id refers to a row that does not exist"
    ) as caught:
        await face.messages.create_many(batch)
    assert isinstance(caught.value, NotFound)
    assert await face.messages.count() == 0
    assert (await face.conversations.require(chat.id)).message_count == 0


async def test_fifty_tasks_append_twenty_messages_each_without_a_gap(storage: Any) -> None:
    chat = await conversation(storage)

    async def talk(task: int) -> None:
        for turn in range(20):
            await storage.messages.append(chat.id, "user", f"{task}/{turn}")

    await asyncio.gather(*(talk(task) for task in range(50)))
    messages = (await storage.messages.page(chat.id, limit=1000)).items
    assert [message.position for message in messages] == list(range(1, 1001))
    assert {message.content for message in messages} == {f"{a}/{b}" for a in range(50) for b in range(20)}


def test_fifty_threads_append_twenty_messages_each_without_a_gap(sync_storage: Any) -> None:
    chat = sync_storage.conversations.create(NewConversation())

    def talk(task: int) -> None:
        for turn in range(20):
            sync_storage.messages.append(chat.id, "user", f"{task}/{turn}")

    with concurrent.futures.ThreadPoolExecutor(50) as pool:
        list(pool.map(talk, range(50)))
    messages = sync_storage.messages.page(chat.id, limit=1000).items
    assert [message.position for message in messages] == list(range(1, 1001))


async def test_pages_go_both_ways_by_position(face: Any) -> None:
    chat = await conversation(face)
    await face.messages.append_many(
        chat.id, [NewMessage(conversation_id=chat.id, role="user", content=str(n)) for n in range(1, 11)]
    )

    async def positions(**bounds: Any) -> list[int]:
        return [message.position for message in (await face.messages.page(chat.id, **bounds)).items]

    assert await positions(limit=3) == [1, 2, 3]
    assert await positions(after=3, limit=3) == [4, 5, 6]
    assert await positions(before=4, limit=2) == [2, 3]
    assert await positions(after=10) == []
    assert [message.position for message in await face.messages.latest(chat.id, 3)] == [10, 9, 8]


async def test_a_thread_is_the_message_and_its_ancestors_newest_first(face: Any) -> None:
    chat = await conversation(face)
    root = await face.messages.append(chat.id, "user", "root")
    await face.messages.append(chat.id, "assistant", "aside", parent_id=root.id)
    middle = await face.messages.append(chat.id, "assistant", "middle", parent_id=root.id)
    leaf = await face.messages.append(chat.id, "user", "leaf", parent_id=middle.id)
    assert [message.content for message in await face.messages.thread(leaf.id)] == ["leaf", "middle", "root"]
    await face.messages.update(root.id, parent_id=leaf.id)  # a circle ends instead of going round for ever
    assert {message.content for message in await face.messages.thread(leaf.id)} == {"root", "middle", "leaf"}


def refused(conninfo: str, text: Any, values: Any = ()) -> psycopg.Error:
    """The error of raw SQL that a rule of the tables refuses."""
    with psycopg.connect(conninfo, autocommit=True) as connection, pytest.raises(psycopg.Error) as caught:
        connection.execute(text, values)
    assert caught.value.sqlstate == "AS001"
    return caught.value


async def test_a_message_keeps_its_place_and_its_content_can_be_redacted(face: Any, migrated: str) -> None:
    chat, other = await conversation(face), await conversation(face)
    message = await face.messages.append(chat.id, "user", "secret")
    for change in ({"conversation_id": other.id}, {"position": 7}):
        with pytest.raises(InvalidValue, match="cannot be changed; fields are: role, content"):
            await face.messages.update(message.id, **change)
        with pytest.raises(InvalidValue, match="cannot be changed"):
            await face.messages.update_many([message.id], change)
    error = refused(migrated, "UPDATE messages SET conversation_id = %s", [other.id])
    assert error.diag.constraint_name == "messages_conversation_id_immutable"
    refused(migrated, "UPDATE messages SET position = position + 1")
    redacted = await face.messages.update(message.id, content="[redacted]")
    assert (redacted.conversation_id, redacted.position, redacted.content) == (chat.id, 1, "[redacted]")
    assert [(await face.messages.append(one.id, "user", "next")).position for one in (chat, other)] == [2, 1]


@pytest.mark.parametrize(
    "change",
    [
        "message_count = 0",
        "message_count = message_count - 1",
        "message_count = message_count + 1",
        "message_count = 2147483647, last_message_at = clock_timestamp()",
    ],
)
async def test_the_counter_of_a_conversation_moves_with_its_messages_alone(
    face: Any, migrated: str, change: str
) -> None:
    chat = await conversation(face)
    await face.messages.append_many(chat.id, [NewMessage(conversation_id=chat.id, role="user", content="x")] * 3)
    refused(migrated, f"UPDATE conversations SET {change}")
    await face.messages.delete_where({"position": 3})
    refused(migrated, "UPDATE conversations SET message_count = 2")  # a position is not given out twice
    assert (await face.messages.append(chat.id, "user", "x")).position == 4


async def test_a_history_that_is_copied_with_its_positions_goes_on_where_it_ends(face: Any, migrated: str) -> None:
    plain, counted = await conversation(face), uuid4()
    positions = {plain.id: range(1, 10_001), counted: (7, 2, 5)}
    with psycopg.connect(migrated, autocommit=True) as connection:
        connection.execute("INSERT INTO conversations (id, message_count) VALUES (%s, 9)", [counted])
        with (
            connection.cursor() as cursor,
            cursor.copy("COPY messages (conversation_id, position, role, content) FROM STDIN") as copy,
        ):
            for chat, numbers in positions.items():
                for number in numbers:
                    copy.write_row((chat, number, "user", '"x"'))
    moved = await face.conversations.require(plain.id)
    assert moved.message_count == 10_000
    assert moved.last_message_at > plain.last_message_at
    assert (await face.messages.append(plain.id, "user", "x")).position == 10_001
    assert (await face.messages.append(counted, "user", "x")).position == 10


async def test_explicit_positions_among_many_appends_queue_with_them(storage: Any, migrated: str) -> None:
    chat = await conversation(storage)

    async def append() -> int:
        return (await storage.messages.append(chat.id, "user", "x")).position

    async def insert(position: int) -> None:
        text = "INSERT INTO messages (conversation_id, position, role, content) VALUES (%s, %s, 'user', '1')"
        async with await psycopg.AsyncConnection.connect(migrated, autocommit=True) as connection:
            with contextlib.suppress(psycopg.errors.UniqueViolation):  # an append had it first
                await connection.execute(text, [chat.id, position])

    made = await asyncio.gather(*(append() for _ in range(100)), *(insert(9 * n) for n in range(1, 16)))
    assert len({*made[:100]}) == 100
    last = (await storage.messages.latest(chat.id, 1))[0].position
    assert (await storage.conversations.require(chat.id)).message_count == last
    assert await append() == last + 1


async def test_a_parent_is_a_message_of_the_same_conversation(face: Any, migrated: str) -> None:
    chat, other = await conversation(face), await conversation(face)
    here = await face.messages.append(chat.id, "user", "here")
    there = await face.messages.append(other.id, "user", "there")
    with pytest.raises(Conflict, match=r"belongs to another conversation .*choose a message of the same"):
        await face.messages.append(chat.id, "user", "x", parent_id=there.id)
    with pytest.raises(Conflict, match="belongs to another conversation"):
        await face.messages.update(here.id, parent_id=there.id)
    with pytest.raises(Conflict, match="belongs to another conversation"):
        await face.messages.update_many([here.id, there.id], {"parent_id": here.id})
    with pytest.raises(MissingReference):
        await face.messages.append(chat.id, "user", "x", parent_id=uuid4())
    refused(migrated, "UPDATE messages SET parent_id = %s WHERE id = %s", [there.id, here.id])
    parent = uuid4()  # a child may stand before its parent
    family = [
        NewMessage(conversation_id=chat.id, role="user", content="child", parent_id=parent),
        NewMessage(id=parent, conversation_id=chat.id, role="user", content="parent", parent_id=here.id),
    ]
    child, _ = await face.messages.append_many(chat.id, family)
    assert [message.content for message in await face.messages.thread(child.id)] == ["child", "parent", "here"]
    family[0] = family[0].model_copy(update={"conversation_id": other.id})
    with pytest.raises(Conflict):
        await face.messages.create_many([one.model_copy(update={"id": None}) for one in family])
    await face.messages.delete(parent)
    assert (await face.messages.require(child.id)).parent_id is None


async def test_recent_lists_by_last_message_and_hides_what_is_archived(face: Any) -> None:
    first, second, third = [await conversation(face, title=name) for name in ("a", "b", "c")]
    await face.messages.append(first.id, "user", "back to the top")
    await face.conversations.archive(second.id)
    page = await face.conversations.recent(1)
    assert [item.title for item in page.items] == ["a"]
    assert [item.title for item in (await face.conversations.recent(5, page.next_cursor)).items] == ["c"]
    assert [item.title for item in (await face.conversations.recent(archived=True)).items] == ["b"]
    again = await face.conversations.archive(second.id)
    assert again.archived_at == (await face.conversations.require(second.id)).archived_at
    await face.conversations.restore(second.id)
    assert len((await face.conversations.recent()).items) == 3
    assert third.archived_at is None
    with pytest.raises(NotFound):
        await face.conversations.archive(uuid4())


async def test_a_fork_copies_up_to_a_position_and_leaves_the_origin(face: Any) -> None:
    chat = await conversation(face, title="origin", metadata={"k": 1})
    parent = None
    for number in range(1, 6):
        parent = (await face.messages.append(chat.id, "user", str(number), parent_id=parent and parent)).id
    fork = await face.conversations.fork(chat.id, 3, "forked")
    copies = (await face.messages.page(fork.id)).items
    assert (fork.title, fork.message_count, fork.metadata) == ("forked", 3, {"k": 1})
    assert [copy.content for copy in copies] == ["1", "2", "3"]
    assert [copy.parent_id for copy in copies] == [None, copies[0].id, copies[1].id]
    assert (await face.messages.append(fork.id, "user", "new")).position == 4
    assert (await face.conversations.require(chat.id)).message_count == 5
    assert (await face.conversations.fork(chat.id)).message_count == 5
    with pytest.raises(NotFound):
        await face.conversations.fork(uuid4(), 1, "x")


async def test_a_fork_knows_its_origin_and_keeps_the_times_of_its_messages(face: Any, migrated: str) -> None:
    chat = await conversation(face, title="origin")
    for number in range(1, 5):
        await face.messages.append(chat.id, "user", str(number))
    await face.messages.update((await face.messages.latest(chat.id, 2))[1].id, content="3, redacted")
    originals = (await face.messages.page(chat.id, limit=3)).items
    fork, whole = await face.conversations.fork(chat.id, 3), await face.conversations.fork(chat.id)
    assert (fork.forked_from_id, fork.forked_at_position) == (chat.id, 3)
    assert (whole.forked_from_id, whole.forked_at_position) == (chat.id, 4)
    assert (chat.forked_from_id, chat.forked_at_position) == (None, None)
    copies = (await face.messages.page(fork.id)).items
    times = [[(one.created_at, one.updated_at) for one in some] for some in (originals, copies)]
    assert times[0] == times[1]
    assert fork.last_message_at == originals[-1].created_at
    deeper = await face.conversations.fork(fork.id, 1)
    assert (deeper.forked_from_id, deeper.forked_at_position) == (fork.id, 1)
    assert [item.id for item in await face.conversations.forks(chat.id)] == [whole.id, fork.id]
    assert (await face.conversations.forks(chat.id, limit=1)).more
    await face.conversations.archive(whole.id)
    assert [item.id for item in await face.conversations.forks(chat.id)] == [fork.id]
    refused(migrated, "UPDATE conversations SET forked_from_id = %s WHERE id = %s", [chat.id, deeper.id])
    refused(migrated, "UPDATE conversations SET forked_at_position = 2 WHERE id = %s", [deeper.id])
    refused(migrated, "UPDATE conversations SET forked_from_id = id, forked_at_position = 1 WHERE id = %s", [chat.id])
    with pytest.raises(InvalidValue, match="cannot be changed"):
        await face.conversations.update(deeper.id, forked_from_id=None)
    await face.conversations.delete(chat.id)
    orphan = await face.conversations.require(fork.id)
    assert (orphan.forked_from_id, orphan.forked_at_position, orphan.message_count) == (None, 3, 3)


async def test_a_fork_takes_place_at_a_position_that_the_conversation_has_reached(face: Any) -> None:
    chat = await conversation(face)
    assert (await face.conversations.fork(chat.id)).forked_at_position == 0
    with pytest.raises(InvalidValue, match=r"cannot be forked at position 1; it has no messages"):
        await face.conversations.fork(chat.id, 1)
    await face.messages.append_many(chat.id, [NewMessage(conversation_id=chat.id, role="user", content="x")] * 5)
    made = await face.conversations.count()
    for position in (-(2**31), -1, 0, 6, 2**31 - 1):
        with pytest.raises(InvalidValue, match=rf"cannot be forked at position {position}; its positions are 1 to 5"):
            await face.conversations.fork(chat.id, position)
    assert await face.conversations.count() == made
    await face.messages.delete_where({"conversation_id": chat.id, "position__gt": 2})
    fork = await face.conversations.fork(chat.id, 4)
    assert [copy.position for copy in (await face.messages.page(fork.id)).items] == [1, 2]
    assert (await face.messages.append(fork.id, "user", "x")).position == 5


async def test_forks_during_appends_are_whole(storage: Any) -> None:
    chat = await conversation(storage)
    await storage.messages.append(chat.id, "user", "0")

    async def append() -> None:
        for _ in range(20):
            await storage.messages.append(chat.id, "user", "x")

    async def fork() -> Any:
        return await storage.conversations.fork(chat.id)

    done = await asyncio.gather(*(append() for _ in range(10)), *(fork() for _ in range(30)))
    for made in done[10:]:
        copies = (await storage.messages.page(made.id, limit=1000)).items
        assert [copy.position for copy in copies] == list(range(1, made.forked_at_position + 1))
        assert made.message_count == made.forked_at_position


async def test_usage_adds_tokens_and_their_cost_by_model(face: Any) -> None:
    provider = await face.providers.create(NewProvider(name="p", kind="k"))
    cheap, dear = [
        await face.models.create(
            NewModel(provider_id=provider.id, name=name, input_price=price, output_price=price * 2)
        )
        for name, price in (("cheap", Decimal(1)), ("dear", Decimal(10)))
    ]
    chat = await conversation(face, model_id=cheap.id)
    await face.messages.append(chat.id, "user", "x", input_tokens=1000)
    await face.messages.append(chat.id, "assistant", "y", output_tokens=500, model_id=dear.id)
    usage = await face.conversations.usage(chat.id)
    assert (usage.messages, usage.input_tokens, usage.output_tokens) == (2, 1000, 500)
    assert usage.cost == Decimal("0.011")
    assert (await face.conversations.usage((await conversation(face)).id)).cost == 0
    with pytest.raises(NotFound):
        await face.conversations.usage(uuid4())


CONTENTS: list[Any] = [
    "", "plain", "\x00 nul, \ud800 lone, \x1a substitute, \x1a0000 looks escaped", "😀 日本 שלום", "a" * 100_000, [],
    [{"type": "text", "text": "t\x00"}],
    [{"type": "image", "url": "data:x", "detail": "high"}],
    [{"type": "tool_call", "id": "c", "name": "n", "arguments": {"a": [1, 2.5, None, True, {"\x00k": "\udfff"}]}}],
    [{"type": "tool_result", "tool_call_id": "c", "result": {"big": 2**63, "text": "\x1a"}}],
    [{"type": "from_the_future", "nested": {"deep": [{"x": 1}]}}, {"type": "text", "text": "y", "cache": {"ttl": 5}}],
]  # fmt: skip


@pytest.mark.parametrize("content", CONTENTS)
async def test_content_comes_back_exactly_as_it_went_in(face: Any, content: Any) -> None:
    chat = await conversation(face)
    message = await face.messages.append(chat.id, "tool", content)
    for read in (message, await face.messages.require(message.id)):
        assert read.model_dump()["content"] == content
    batch = await face.messages.append_many(
        chat.id, [NewMessage(conversation_id=chat.id, role="user", content=content)] * 2
    )
    assert [item.model_dump()["content"] for item in batch] == [content, content]


@pytest.mark.parametrize(
    ("fields", "reason", "path"),
    [
        ({"role": "bogus"}, "role", None),
        ({"content": 5}, "content", None),
        ({"content": [{"type": "text"}]}, "content", None),
        ({"content": [{"type": "tool_call", "id": "c", "name": "n", "arguments": {"x": float("nan")}}]}, "NaN",
         "$[0].arguments.x"),
        ({"metadata": {"a": {"b": [float("inf")]}}}, "metadata.a.b", "$.a.b[0]"),
        ({"metadata": {"when": datetime.now(UTC)}}, "datetime", "$.when"),
        ({"metadata": {"n": 2**70}}, "64 bits", "$.n"),
        ({"metadata": {"big": "x" * (4 * 1024 * 1024)}}, "limit", None),
        ({"input_tokens": -1}, "input_tokens", None),
        ({"input_tokens": 2**31}, "input_tokens", None),
        ({"parent_id": "nope"}, "parent_id", None),
        ({"bogus": 1}, "bogus", None),
    ],
)  # fmt: skip
async def test_a_bad_message_is_refused_by_name_and_place_and_nothing_is_written(
    face: Any, fields: Any, reason: str, path: str | None
) -> None:
    chat = await conversation(face)
    with pytest.raises(InvalidValue, match=reason.replace("$", r"\$")) as caught:
        await face.messages.append(chat.id, **{"role": "user", "content": "x", **fields})
    if path:
        assert caught.value.path == path
        assert (caught.value.table, caught.value.column) == ("messages", next(iter(fields)))
    assert (await face.conversations.require(chat.id)).message_count == 0


async def test_nesting_beyond_two_hundred_levels_is_refused_and_two_hundred_is_not(face: Any) -> None:
    def nested(levels: int) -> dict[str, Any]:
        return {"k": nested(levels - 1)} if levels else {}

    deep = await conversation(face, metadata=nested(200))
    assert (await face.conversations.require(deep.id)).metadata == nested(200)
    with pytest.raises(InvalidValue, match="nested deeper than 200"):
        await conversation(face, metadata=nested(201))


async def test_keys_refuse_what_postgresql_cannot_hold(face: Any) -> None:
    for name in ("", "a\x00b", "\ud800", "x" * 501):
        with pytest.raises(InvalidValue, match="name"):
            await face.providers.create(NewProvider(name=name, kind="k"))
    for price in (Decimal(-1), Decimal("NaN"), Decimal("1e30")):
        with pytest.raises(InvalidValue, match="input_price"):
            NewModel(provider_id=uuid4(), name="m", input_price=price)


async def test_a_model_with_its_provider_comes_in_one_row_without_the_key(face: Any) -> None:
    provider = await face.providers.create(NewProvider(name="p", kind="openai", api_key="sk", base_url="https://x"))
    off = await face.providers.create(NewProvider(name="off", kind="openai", enabled=False))
    model = await face.models.create(NewModel(provider_id=provider.id, name="m"))
    await face.models.create(NewModel(provider_id=provider.id, name="disabled", enabled=False))
    await face.models.create(NewModel(provider_id=off.id, name="of a disabled provider"))
    joined = await face.models.with_provider(model.id)
    assert (joined.name, joined.provider_name, joined.base_url) == ("m", "p", "https://x")
    assert not hasattr(joined, "api_key")
    assert [item.id for item in await face.models.enabled()] == [model.id]
    with pytest.raises(NotFound):
        await face.models.with_provider(uuid4())


async def running_call(face: Any, conversation_id: UUID, **fields: Any) -> Any:
    given = {"tool_call_id": "c", "tool_name": "t", "status": "running", **fields}
    return await face.tool_results.create(NewToolResult(conversation_id=conversation_id, **given))


async def test_a_tool_call_starts_once_and_ends_once(face: Any) -> None:
    chat = await conversation(face)
    call = await running_call(face, chat.id, tool_call_id="c1", tool_name="grep", arguments={"q": "\x00"})
    assert (call.status, call.arguments) == ("running", {"q": "\x00"})
    done = await face.tool_results.complete(call.id, {"hits": [1]})
    assert (done.status, done.result) == ("success", {"hits": [1]})
    assert done.duration_ms is not None
    for change in (face.tool_results.complete(call.id, 2), face.tool_results.fail(call.id, "late")):
        with pytest.raises(InvalidTransition, match="status is success"):
            await change
    with pytest.raises(InvalidTransition, match="cannot start"):
        await face.tool_results.start(call.id)
    assert (await face.tool_results.require(call.id)).result == {"hits": [1]}
    with pytest.raises(NotFound):
        await face.tool_results.complete(uuid4(), 1)
    with pytest.raises(MissingReference):
        await running_call(face, uuid4())


async def test_a_pending_call_begins_and_a_failed_one_keeps_its_error(face: Any) -> None:
    chat = await conversation(face)
    pending = await face.tool_results.create(NewToolResult(conversation_id=chat.id, tool_call_id="c", tool_name="t"))
    assert (await face.tool_results.start(pending.id)).started_at is not None
    failed = await face.tool_results.fail(pending.id, "boom", "timeout")
    assert (failed.status, failed.error) == ("timeout", "boom")
    assert [item.id for item in await face.tool_results.by_conversation(chat.id)] == [pending.id]


async def test_only_one_of_many_finishers_wins(storage: Any) -> None:
    chat = await conversation(storage)
    call = await running_call(storage, chat.id)
    outcomes = await asyncio.gather(
        *(storage.tool_results.complete(call.id, n) for n in range(50)), return_exceptions=True
    )
    winners = [outcome for outcome in outcomes if not isinstance(outcome, Exception)]
    assert len(winners) == 1
    assert sum(isinstance(outcome, InvalidTransition) for outcome in outcomes) == 49
    assert (await storage.tool_results.require(call.id)).result == winners[0].result


async def test_stats_count_calls_errors_and_percentiles_per_tool(face: Any) -> None:
    chat = await conversation(face)
    await face.tool_results.create_many(
        [
            NewToolResult(conversation_id=chat.id, tool_call_id=str(n), tool_name="t", status="success", duration_ms=n)
            for n in range(1, 101)
        ]
        + [NewToolResult(conversation_id=chat.id, tool_call_id="e", tool_name="u", status="timeout")]
    )
    first, second = await face.tool_results.stats(datetime.now(UTC) - timedelta(hours=1))
    assert (first.tool_name, first.calls, first.errors) == ("t", 100, 0)
    assert (first.p50_ms, first.p95_ms) == (pytest.approx(50.5), pytest.approx(95.05))
    assert (second.calls, second.errors, second.p50_ms) == (1, 1, None)
    assert await face.tool_results.stats(datetime.now(UTC) + timedelta(hours=1)) == []
    with pytest.raises(InvalidValue, match="time zone"):
        await face.tool_results.stats(datetime.now())  # noqa: DTZ005


@pytest.mark.parametrize(
    "moment",
    [
        datetime(2026, 11, 20, 12),  # noqa: DTZ001  # naive on purpose
        datetime.max.replace(tzinfo=timezone(timedelta(hours=-5))),
        datetime.min.replace(tzinfo=timezone(timedelta(hours=5))),
    ],
)
async def test_a_moment_without_a_zone_or_beyond_the_calendar_is_refused(face: Any, moment: datetime) -> None:
    chat = await conversation(face)
    with pytest.raises(InvalidValue, match="started_at"):
        await running_call(face, chat.id, started_at=moment)
    assert await face.tool_results.count() == 0


async def test_a_row_that_is_still_referred_to_stays(face: Any, migrated: str) -> None:
    provider = await face.providers.create(NewProvider(name="p", kind="k"))
    with psycopg.connect(migrated, autocommit=True) as connection:
        connection.execute("CREATE TABLE invoices (provider_id uuid REFERENCES providers (id))")
        connection.execute("INSERT INTO invoices VALUES (%s)", (provider.id,))
    with pytest.raises(StillReferenced, match="invoices"):
        await face.providers.delete(provider.id)
    assert await face.providers.exists(provider.id)


async def test_deleting_a_conversation_takes_its_messages_and_a_model_leaves_them(face: Any) -> None:
    provider = await face.providers.create(NewProvider(name="p", kind="k"))
    model = await face.models.create(NewModel(provider_id=provider.id, name="m"))
    chat = await conversation(face, model_id=model.id)
    message = await face.messages.append(chat.id, "user", "x", model_id=model.id)
    await face.providers.delete(provider.id)
    assert (await face.messages.require(message.id)).model_id is None
    await face.conversations.delete(chat.id)
    assert await face.messages.count() == 0
