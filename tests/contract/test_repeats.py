"""Repeats: a write with an id of the caller's can be called again, on every path, and gives the row that is there."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from decimal import Decimal
from typing import Any
from uuid import UUID

import psycopg
import pytest
from pydantic import SecretStr

from agent_storage import AlreadyExists, ConnectionLost, InvalidValue, NotFound, Retryable, Storage, StorageError, uuid7
from agent_storage.statements.records import columns
from agent_storage.sync.tables import REPOSITORIES
from agent_storage.types import (
    NewBoard,
    NewBudgetEntry,
    NewBudgetPool,
    NewBudgetReservation,
    NewCheckpoint,
    NewConversation,
    NewMessage,
    NewProject,
    NewProvider,
    NewSession,
    NewStreamEvent,
    NewTicket,
    NewTicketTask,
    NewToolConfig,
)

from ..database.proxy import Proxy
from ..database.test_once import until
from ..rows import Factory, parents_first


@pytest.fixture(params=["storage", "transaction"])
async def on(request: pytest.FixtureRequest, storage: Storage) -> AsyncIterator[Storage]:
    """The storage, or a transaction of it."""
    if request.param == "storage":
        yield storage
    else:
        async with storage.transaction() as transaction:
            yield transaction


# ---- every table ----


def filled(storage: Any, seed: int) -> Factory:
    """Rows in every table, and runs that have no state yet."""
    factory = Factory(storage, seed)
    factory.fill(3)
    runs = [factory.new("workflow_sessions", number) for number in range(60)]
    factory.ids["workflow_sessions"] = [row.id for row in storage.workflow_sessions.create_many(runs)]
    return factory


def test_a_row_of_every_table_can_be_created_again_by_its_id(sync_storage: Any) -> None:
    factory = filled(sync_storage, 7)
    for table in parents_first():
        repository = getattr(sync_storage, table)
        for number in range(20, 24):
            new = factory.new(table, number).model_copy(update={"id": uuid7()})
            made = repository.create(new)
            assert repository.create(new) == made, table
            assert repository.create_many([new]) == [made], table
            other = factory.new(table, number + 10).model_copy(update={"id": uuid7()})
            both = repository.create_many([other, new])
            assert (both[0].id, both[1]) == (other.id, made), table
            assert repository.create_many([new, other]) == both[::-1], table
            assert repository.get(made.id) == made, table


#: Fields that the row's kind excludes: a constraint refuses any other value, before the row that exists is met.
EXCLUDED = {"budget_entries": ("to_pool_id", "reservation_id")}


def test_a_row_of_every_table_that_differs_is_refused_by_the_name_of_the_field(sync_storage: Any) -> None:
    factory = filled(sync_storage, 8)
    for table in parents_first():
        repository = getattr(sync_storage, table)
        new = factory.new(table, 30).model_copy(update={"id": uuid7()})
        made = repository.create(new)  # the database may have decided a field that is None in `new`
        before = repository.count()
        for name, column in columns(REPOSITORIES[table].new).items():
            if name in ("id", "updated_at", *EXCLUDED.get(table, ())) or column.encrypted:
                continue
            for _ in range(50):
                other = type(new)(**{**vars(new), name: factory.value(table, column, 40)})
                if getattr(other, name) not in (None, getattr(new, name), getattr(made, name)):
                    break
            else:
                continue
            for rows in ([other], [factory.new(table, 50), other]):
                with pytest.raises((AlreadyExists, InvalidValue)) as caught:
                    repository.create_many(rows) if len(rows) > 1 else repository.create(*rows)
                if isinstance(caught.value, InvalidValue):  # a rule over several fields is checked first
                    assert f"breaks the rule {table}_" in str(caught.value)
                    continue
                assert f"row {new.id} exists and differs in {name};" in str(caught.value)
                assert (caught.value.table, caught.value.column) == (table, name)
        assert repository.count() == before, table


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"n": 1}, {"n": True}),
        ({"n": 1}, {"n": "1"}),
        ({"n": None}, {}),
        ({"n": [1, 2]}, {"n": [2, 1]}),
        ({"n": 1}, {"n": 1.0000000000000002}),
        ({"n": "\x00"}, {"n": ""}),
        ({"n": "é"}, {"n": "e\u0301"}),
        ({"?": ["title"]}, {"?": []}),
    ],
)
async def test_documents_are_compared_as_the_database_stores_them(face: Any, one: Any, other: Any) -> None:
    mine = uuid7()
    made = await face.conversations.create(NewConversation(id=mine, metadata=one))
    assert await face.conversations.create(NewConversation(id=mine, metadata=one)) == made
    with pytest.raises(AlreadyExists, match="differs in metadata"):
        await face.conversations.create(NewConversation(id=mine, metadata=other))


async def test_the_order_of_keys_and_the_spelling_of_numbers_do_not_matter(face: Any) -> None:
    mine = uuid7()
    made = await face.conversations.create(NewConversation(id=mine, metadata={"a": 1.0, "b": 100, "\x00": "\ud800"}))
    again = NewConversation(id=mine, metadata={"\x00": "\ud800", "b": 1e2, "a": 1})
    assert await face.conversations.create(again) == made


async def test_only_what_was_given_is_compared(face: Any) -> None:
    mine = uuid7()
    await face.sessions.create(NewSession(id=mine, agent="a"))
    await face.sessions.start(mine)
    assert (await face.sessions.create(NewSession(id=mine, agent="a"))).status == "running"
    with pytest.raises(AlreadyExists, match="differs in status"):
        await face.sessions.create(NewSession(id=mine, agent="a", status="idle"))


async def test_a_secret_that_differs_is_refused(face: Any) -> None:
    provider = NewProvider(id=uuid7(), name="p", kind="k", api_key=SecretStr("s3cr3t-1"))
    tool = NewToolConfig(id=uuid7(), name="t", env={"A": SecretStr("1"), "B": SecretStr("\x00")})
    made = await face.providers.create(provider), await face.tool_configs.create(tool)
    assert (await face.providers.create(provider), await face.tool_configs.create(tool)) == made
    turned = tool.model_copy(update={"env": {"B": SecretStr("\x00"), "A": SecretStr("1")}})
    assert await face.tool_configs.create_many([turned]) == [made[1]]
    for value in (SecretStr("s3cr3t-2"), None):
        other = provider.model_copy(update={"api_key": value})
        with pytest.raises(AlreadyExists, match="differs in api_key"):
            await face.providers.create(other)
        with pytest.raises(AlreadyExists, match="differs in api_key") as caught:
            await face.providers.create_many([NewProvider(name="new", kind="k"), other])
        assert caught.value.outcome == "not kept" and "s3cr3t" not in str(caught.value)
    assert await face.providers.count() == 1


async def test_a_natural_key_of_another_row_is_still_a_conflict(face: Any) -> None:
    made = await face.boards.create(NewBoard(id=uuid7(), name="b", slug="main"))
    assert await face.boards.create(NewBoard(id=made.id, name="b", slug="main")) == made
    with pytest.raises(AlreadyExists, match="same slug"):
        await face.boards.create(NewBoard(id=uuid7(), name="b", slug="main"))
    with pytest.raises(AlreadyExists, match="differs in slug"):
        await face.boards.create(NewBoard(id=made.id, name="b", slug="other"))


async def test_an_id_that_is_given_twice_in_one_call_is_refused(face: Any) -> None:
    chat = await face.conversations.create(NewConversation())
    one = NewMessage(id=uuid7(), conversation_id=chat.id, role="user", content="1")
    with pytest.raises(InvalidValue, match="is given twice"):
        await face.messages.append_many(chat.id, [one, one.model_copy(update={"content": "2"})])
    assert await face.messages.count() == 0


async def test_thousands_of_rows_can_be_created_again(storage: Storage) -> None:
    news = [NewConversation(id=uuid7(), title=f"{n}\x00") for n in range(2500)]
    some = await storage.conversations.create_many(news[100:1700:3])
    made = await storage.conversations.create_many(news)
    assert [row.title for row in made] == [new.title for new in news]
    assert {row.id for row in some} < {row.id for row in made}
    assert await storage.conversations.create_many(news) == made
    with pytest.raises(AlreadyExists):
        await storage.conversations.create_many(
            [*([NewConversation()] * 1200), news[5].model_copy(update={"title": ""})]
        )
    assert await storage.conversations.count() == 2500


async def test_store_can_be_called_again(on: Storage) -> None:
    new = NewCheckpoint(id=uuid7(), agent_id="a", state={"n": 1})
    assert await on.checkpoints.store(new) == await on.checkpoints.store(new) == new.id
    assert await on.checkpoints.count() == 1


# ---- messages and events: the counter moves for what is made ----


async def test_append_can_be_called_again_and_takes_no_position(on: Storage) -> None:
    chat = await on.conversations.create(NewConversation())
    ids = [uuid7() for _ in range(3)]
    made = [await on.messages.append(chat.id, "user", f"{n}", id=mine) for n, mine in enumerate(ids)]
    assert [await on.messages.append(chat.id, "user", f"{n}", id=mine) for n, mine in enumerate(ids)] == made
    assert [row.position for row in made] == [1, 2, 3]
    before = await on.conversations.require(chat.id)
    assert before.message_count == 3
    many = [NewMessage(id=mine, conversation_id=chat.id, role="user", content=f"{n}") for n, mine in enumerate(ids)]
    new = NewMessage(conversation_id=chat.id, role="user", content="new")
    mixed = await on.messages.append_many(chat.id, [new, many[2], new, many[0]])
    assert [row.position for row in mixed] == [4, 3, 5, 1]
    assert await on.messages.append_many(chat.id, many) == made
    assert (await on.messages.append(chat.id, "user", "last")).position == 6


async def test_a_message_that_differs_takes_no_position_either(storage: Storage) -> None:
    chat, other = await storage.conversations.create_many([NewConversation(), NewConversation()])
    mine = (await storage.messages.append(chat.id, "user", "1", id=uuid7())).id
    for call in (
        storage.messages.append(chat.id, "user", "2", id=mine),
        storage.messages.append(other.id, "user", "1", id=mine),
        storage.messages.create_many(
            [
                NewMessage(conversation_id=other.id, role="user", content="x"),
                NewMessage(id=mine, conversation_id=chat.id, role="system", content="1"),
            ]
        ),
    ):
        with pytest.raises(AlreadyExists, match=f"messages: row {mine} exists and differs in"):
            await call
    assert {row.message_count for row in (await storage.conversations.find())} == {0, 1}
    with pytest.raises(NotFound):
        await storage.messages.append(uuid7(), "user", "1", id=uuid7())


async def test_publish_can_be_called_again_and_takes_no_sequence(on: Storage) -> None:
    first = await on.stream_events.publish("s", "n", {"a": 1}, id=uuid7())
    assert await on.stream_events.publish("s", "n", {"a": 1}, id=first.id) == first
    news = [NewStreamEvent(id=uuid7(), stream_id="s", data=n) for n in range(5)]
    assert await on.stream_events.publish_many("s", news[:3]) == [2, 3, 4]
    assert await on.stream_events.publish_many("s", news) == [2, 3, 4, 5, 6]
    assert await on.stream_events.publish_many("s", news[::-1]) == [6, 5, 4, 3, 2]
    others = [NewStreamEvent(id=uuid7(), stream_id="t", data=n) for n in range(2)]
    made = await on.stream_events.create_many([others[0], news[4], others[1]])
    assert [(row.stream_id, row.sequence) for row in made] == [("t", 1), ("s", 6), ("t", 2)]
    assert (await on.stream_events.publish("s")).sequence == 7
    assert [row.sequence for row in await on.stream_events.read("s")] == [*range(1, 8)]


async def test_an_event_that_differs_takes_no_sequence(storage: Storage) -> None:
    first = await storage.stream_events.publish("s", data=1, id=uuid7())
    for stream, data in (("s", 2), ("t", 1)):
        with pytest.raises(AlreadyExists, match="exists and differs in"):
            await storage.stream_events.publish(stream, data=data, id=first.id)
    assert [(row.stream_id, row.last_sequence) for row in await storage.event_streams.find()] == [("s", 1)]


async def test_more_events_than_are_sent_at_a_time_can_be_published_again(storage: Storage) -> None:
    news = [NewStreamEvent(id=uuid7(), stream_id="s", data=n) for n in range(12_000)]
    assert await storage.stream_events.publish_many("s", news[:50]) == [*range(1, 51)]
    for _ in range(2):
        assert await storage.stream_events.publish_many("s", news) == [*range(1, 12_001)]


async def test_a_run_can_be_created_from_its_workflow_again(face: Any) -> None:
    workflow = await face.workflows.create(REPOSITORIES["workflows"].new(name="w", definition={"v": 1}))
    mine = uuid7()
    made = await face.workflow_sessions.create_from(workflow.id, {"a": 1}, id=mine)
    await face.workflows.update(workflow.id, definition={"v": 2})
    assert await face.workflow_sessions.create_from(workflow.id, {"a": 1}, id=mine) == made
    with pytest.raises(AlreadyExists, match="differs in metadata"):
        await face.workflow_sessions.create_from(workflow.id, {"a": 2}, id=mine)
    with pytest.raises(NotFound, match="workflows has no row"):
        await face.workflow_sessions.create_from(uuid7(), id=uuid7())


async def test_concurrent_repeats_of_tasks_make_each_once_and_take_no_position(storage: Storage) -> None:
    project = await storage.projects.create(NewProject(name="n", path="p"))
    tickets = await storage.tickets.create_many([NewTicket(project_id=project.id, title="t")] * 2)
    first = [NewTicketTask(id=uuid7(), ticket_id=one.id, content="first") for one in tickets for _ in range(3)]
    after = [NewTicketTask(id=uuid7(), ticket_id=one.ticket_id, content="after", depends_on=[one.id]) for one in first]
    await storage.ticket_tasks.create_many(first[:1])

    async def create(number: int) -> dict[UUID, int]:
        rows = [*first, *after]
        made = await storage.ticket_tasks.create_many(rows[:: -1 if number % 2 else 1])
        return {row.id: row.position for row in made}

    each = await asyncio.gather(*map(create, range(40)))
    assert all(one == each[0] for one in each)
    for ticket in tickets:
        rows = await storage.ticket_tasks.by_ticket(ticket.id)
        assert [row.position for row in rows] == [*range(1, 7)]
        assert {row.id: row.position for row in rows}.items() <= each[0].items()
    with pytest.raises(AlreadyExists, match="differs in depends_on"):
        await storage.ticket_tasks.create(after[0].model_copy(update={"depends_on": []}))


async def test_concurrent_repeats_of_an_entry_and_a_reservation_move_the_sums_once(storage: Storage) -> None:
    pool = await storage.budget_pools.create(NewBudgetPool(total_budget=Decimal(100)))
    spent = NewBudgetEntry(id=uuid7(), pool_id=pool.id, kind="spend", amount=Decimal(5))
    held = NewBudgetReservation(id=uuid7(), pool_id=pool.id, amount=Decimal(7))
    for repository, new in ((storage.budget_entries, spent), (storage.budget_reservations, held)):
        calls = [repository.create(new) if n % 2 else repository.create_many([new]) for n in range(40)]
        assert {row[0].id if isinstance(row, list) else row.id for row in await asyncio.gather(*calls)} == {new.id}
        with pytest.raises(AlreadyExists, match="differs in amount"):
            await repository.create(new.model_copy(update={"amount": Decimal(6)}))
    after = await storage.budget_pools.require(pool.id)
    assert (after.used_budget, after.reserved_budget) == (5, 7)


# ---- the first attempt is under way ----

WAITING = "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
Write = Callable[[Storage], Coroutine[Any, Any, Any]]
CHAT, SOME = uuid7(), [uuid7() for _ in range(3)]


def _messages(content: str = "x") -> list[NewMessage]:
    return [NewMessage(id=mine, conversation_id=CHAT, role="user", content=content) for mine in SOME]


def _events() -> list[NewStreamEvent]:
    return [NewStreamEvent(id=mine, stream_id="s") for mine in SOME]


WRITES: dict[str, Write] = {
    "create": lambda on: on.boards.create(NewBoard(id=SOME[0], name="b", slug="s")),
    "create_many": lambda on: on.boards.create_many([NewBoard(id=mine, name="b", slug=str(mine)) for mine in SOME]),
    "store": lambda on: on.checkpoints.store(NewCheckpoint(id=SOME[0], agent_id="a", state=1)),
    "append": lambda on: on.messages.append(CHAT, "user", "x", id=SOME[0]),
    "append_many": lambda on: on.messages.append_many(CHAT, _messages()),
    "publish": lambda on: on.stream_events.publish("s", id=SOME[0]),
    "publish_many": lambda on: on.stream_events.publish_many("s", _events()),
    "upsert": lambda on: on.boards.upsert(NewBoard(name="b", slug="s")),
}


async def _in_a_batch(storage: Storage, write: Write) -> Any:
    async with storage.batch() as batch:
        later: Any = batch.add(batch.messages.append_many, CHAT, _messages())
    return later.result


@pytest.mark.parametrize("kept", [True, False], ids=["kept", "undone"])
@pytest.mark.parametrize("path", ["single", "transaction", "batch"])
@pytest.mark.parametrize("name", WRITES)
async def test_a_repeat_waits_for_the_attempt_that_is_under_way(
    storage: Storage, migrated: str, name: str, path: str, *, kept: bool
) -> None:
    if path == "batch" and name != "append_many":
        pytest.skip("one is enough")
    write = WRITES[name]
    await storage.conversations.create(NewConversation(id=CHAT))
    if name.startswith("publish"):
        await storage.stream_events.publish("s", id=uuid7())
    first: Any = None

    async def again() -> Any:
        if path == "batch":
            return await _in_a_batch(storage.autonomous, write)
        if path == "single":
            return await write(storage.autonomous)
        async with storage.autonomous.transaction() as transaction:
            return await write(transaction)

    with psycopg.connect(migrated, autocommit=True) as admin:
        repeat: asyncio.Task[Any] | None = None
        try:
            async with storage.transaction() as transaction:
                first = await write(transaction)
                repeat = asyncio.create_task(again())
                await until(lambda: bool(admin.execute(WAITING).fetchall()))
                if not kept:
                    raise KeyError
        except KeyError:
            pass
        assert repeat is not None
        second = await repeat
    if kept and name != "upsert":
        assert second == first
    assert await write(storage) == second or name == "upsert"
    counts = {"boards": {1, 3}, "checkpoints": {1}, "messages": {1, 3}, "stream_events": {2, 4}}
    for table, allowed in counts.items():
        assert await getattr(storage, table).count() in {0, 1, *allowed}
    assert (await storage.conversations.require(CHAT)).message_count == await storage.messages.count()
    assert [row.last_sequence for row in await storage.event_streams.find()] in (
        [],
        [await storage.stream_events.count()],
    )


async def test_a_repeat_in_a_stricter_transaction_is_exact_or_retryable(storage: Storage) -> None:
    chat = await storage.conversations.create(NewConversation())
    mine = uuid7()
    for isolation in ("repeatable read", "serializable"):
        with pytest.raises(Retryable):
            async with storage.transaction(isolation) as transaction:
                await transaction.conversations.count()
                await storage.autonomous.messages.append(chat.id, "user", isolation, id=mine)
                await transaction.messages.append(chat.id, "user", isolation, id=mine)
        async with storage.transaction(isolation) as transaction:
            assert (await transaction.messages.append(chat.id, "user", isolation, id=mine)).id == mine
        await storage.messages.delete(mine)


async def test_a_hundred_equal_calls_at_once_make_one_row(storage: Storage) -> None:
    chat = await storage.conversations.create(NewConversation())
    await storage.stream_events.publish("s")
    calls: list[Callable[[UUID, str], Coroutine[Any, Any, Any]]] = [
        lambda mine, key: storage.boards.create(NewBoard(id=mine, name="b", slug=key)),
        lambda mine, key: storage.providers.create(NewProvider(id=mine, name=key, kind="k", api_key=SecretStr("x"))),
        lambda mine, _: storage.messages.append(chat.id, "user", "x", id=mine),
        lambda mine, _: storage.stream_events.publish("s", id=mine),
        lambda mine, key: storage.stream_events.publish(key, id=mine),
    ]
    for number in range(5):
        for call in calls:
            mine = uuid7()
            made = await asyncio.gather(*(call(mine, f"k{number}") for _ in range(100)))
            assert all(row == made[0] for row in made)
    messages = await storage.messages.find(order_by="position")
    assert [row.position for row in messages] == [1, 2, 3, 4, 5]
    assert [row.sequence for row in await storage.stream_events.read("s")] == [1, 2, 3, 4, 5, 6]


# ---- connections break ----


@pytest.fixture
def proxy(migrated: str) -> Iterator[Proxy]:
    made = Proxy(migrated)
    yield made
    made.close()


@pytest.mark.parametrize("multiplex", [0, 2])
async def test_a_hundred_writers_that_repeat_until_they_are_told_make_each_row_once(
    storage: Storage, proxy: Proxy, multiplex: int
) -> None:
    """Cut at random packets in both directions, delivered or not. Each call is repeated until it returns."""
    chats = await storage.conversations.create_many([NewConversation() for _ in range(3)])
    dice = random.Random(multiplex)
    repeats = 0

    async def until_told(call: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        nonlocal repeats
        for _ in range(200):
            try:
                return await call()
            except (ConnectionLost, Retryable) as error:
                assert isinstance(error, StorageError)
                repeats += 1
        raise AssertionError("never told")

    async with Storage(proxy.conninfo, multiplex=multiplex, pool_max=8, pool_timeout=30) as shaky:

        async def write(number: int) -> tuple[Any, ...]:
            chat, ids = chats[number % 3].id, [uuid7() for _ in range(6)]
            many = [NewMessage(id=mine, conversation_id=chat, role="user", content="m") for mine in ids[1:3]]
            events = [NewStreamEvent(id=mine, stream_id=f"s{number % 3}") for mine in ids[1:4]]
            stream = f"s{number % 3}"

            async def whole(transaction: Storage) -> Any:
                board = await transaction.boards.create(NewBoard(id=ids[0], name="b", slug=str(ids[0])))
                await transaction.messages.append(chat, "user", "t", id=ids[3])
                return board

            async def batch() -> Any:
                async with shaky.batch() as batch:
                    batch.add(batch.messages.append, chat, "user", "b", id=ids[4])
                    later = batch.add(batch.stream_events.publish, stream, id=ids[4])
                return later.result

            return (
                await until_told(lambda: shaky.messages.append(chat, "user", "a", id=ids[0])),
                await until_told(lambda: shaky.messages.append_many(chat, many)),
                await until_told(lambda: shaky.stream_events.publish(stream, id=ids[0])),
                await until_told(lambda: shaky.stream_events.publish_many(stream, events)),
                await until_told(lambda: shaky.run(whole)),
                await until_told(batch),
                await until_told(lambda: shaky.checkpoints.store(NewCheckpoint(id=ids[0], agent_id="a", state={}))),
            )

        async def cut() -> None:
            while True:
                proxy.arm(dice.choice(["request", "answer"]), dice.randrange(12), deliver=dice.random() < 0.7)
                await asyncio.sleep(0.01)

        cutting = asyncio.create_task(cut())
        try:
            told = await asyncio.gather(*(write(number) for number in range(100)))
        finally:
            cutting.cancel()
            proxy.disarm()
    assert proxy.cuts >= 20 and repeats >= 10
    await until(lambda: proxy.ending == 0)
    for chat in chats:
        positions = [row.position async for row in _all(storage, chat.id)]
        assert positions == [*range(1, len(positions) + 1)]
        assert (await storage.conversations.require(chat.id)).message_count == len(positions)
    assert await storage.messages.count() == 500
    assert await storage.stream_events.count() == 500
    assert await storage.boards.count() == await storage.checkpoints.count() == 100
    assert await storage.event_streams.count() == 3
    for number, (message, many, *_) in enumerate(told):
        assert await storage.messages.require(message.id) == message, number
        assert [row.position for row in many] == [many[0].position, many[0].position + 1]


async def _all(storage: Storage, chat: UUID) -> AsyncIterator[Any]:
    async with storage.messages.stream({"conversation_id": chat}, "position") as rows:
        async for row in rows:
            yield row


async def test_tickets_and_tasks_keep_their_places_when_they_are_created_again(face: Any) -> None:
    project = await face.projects.create(REPOSITORIES["projects"].new(name="p", path="/p"))
    ticket = await face.tickets.create(NewTicket(id=uuid7(), project_id=project.id, title="t"))
    new = REPOSITORIES["ticket_tasks"].new
    tasks = [new(id=uuid7(), ticket_id=ticket.id, content=f"{n}") for n in range(3)]
    made = await face.ticket_tasks.create_many(tasks)
    assert [await face.ticket_tasks.create(task) for task in tasks] == made
    assert [row.position for row in await face.ticket_tasks.by_ticket(ticket.id)] == [row.position for row in made]


async def test_thousands_of_rows_with_ids_keep_the_order_given(storage: Storage) -> None:
    """Also where it is that of their positions, whatever their ids are."""
    dice = random.Random(7)
    ids = [UUID(int=dice.getrandbits(128)) for _ in range(1200)]
    projects = await storage.projects.create_many([NewProject(id=one, name="p", path=str(one)) for one in ids])
    assert [row.id for row in projects] == ids
    ticket = await storage.tickets.create(NewTicket(project_id=ids[0], title="t"))
    tasks = await storage.ticket_tasks.create_many(
        [NewTicketTask(id=one, ticket_id=ticket.id, content="c") for one in ids]
    )
    assert [(row.id, row.position) for row in tasks] == [(one, n) for n, one in enumerate(ids, start=1)]
    chat = await storage.conversations.create(NewConversation())
    messages = await storage.messages.create_many(
        [NewMessage(id=one, conversation_id=chat.id, role="user", content="c") for one in ids]
    )
    assert [(row.id, row.position) for row in messages] == [(one, n) for n, one in enumerate(ids, start=1)]
    tickets = await storage.tickets.create_many([NewTicket(id=one, project_id=ids[0], title="t") for one in ids])
    assert [row.id for row in tickets] == ids
