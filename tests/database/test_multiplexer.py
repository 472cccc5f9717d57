"""Statements of all tasks on shared connections: each caller sees exactly what it would have seen alone."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from agent_storage import Conflict, ConnectionLost, NotFound, OutcomeUnknown, PoolTimeout, Storage, StorageError
from agent_storage.database import multiplexed
from agent_storage.database.fastpath import multiplexer
from agent_storage.database.fastpath.multiplexer import DEPTH, LIMIT
from agent_storage.database.multiplexed import MultiplexedDatabase
from agent_storage.statements.statement import Shape, Statement
from agent_storage.types import Conversation, NewConversation, NewMessage, NewProvider

from .test_executor import OURS, ask, terminate, until_one_waits

SLEEP_AND_WRITE: Statement[Any] = Statement(
    "test.sleep_and_write",
    "UPDATE conversations SET title = title || 'x' WHERE id = $1 AND pg_sleep($2) IS NOT NULL",
    Shape("one", int),
    table="test",
)
#: It waits until nobody else holds this lock.
LOCKED: Statement[int] = Statement(
    "test.locked",
    "SELECT 7 FROM (SELECT pg_advisory_xact_lock($1)) AS locked",
    Shape("one", int),
    table="test",
    repeatable=True,
)


@pytest.fixture(params=[1, 2, 4])
async def storage(migrated: str, request: pytest.FixtureRequest) -> AsyncIterator[Storage]:
    async with Storage(migrated, multiplex=request.param, pool_max=4) as opened:
        yield opened


@pytest.fixture
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine may keep a quick statement waiting: here none is cut short, so each stays where it was sent."""
    monkeypatch.setattr(multiplexed, "LIMIT", 60.0)


@pytest.fixture
async def alone(migrated: str, unhurried: None) -> AsyncIterator[Storage]:
    """One connection that is shared, and one in the pool."""
    async with Storage(migrated, multiplex=1, pool_max=1, pool_timeout=60) as opened:
        yield opened


def shared(storage: Storage) -> list[Any]:
    """The shared connections that are up."""
    database = storage.database
    assert isinstance(database, MultiplexedDatabase)
    assert database._multiplexer is not None
    return [one for one in database._multiplexer._shared if one is not None and not one.lost]


async def known(storage: Storage, **calls: Callable[[], Awaitable[object]]) -> None:
    """Return when every shared connection is up and knows the statements of these calls, so that none goes to the pool.

    Each is called as what comes behind the table's name in its statement's.
    """
    number = storage.database.settings.multiplex

    def ready() -> bool:
        names = [
            {query.split()[1].decode().split(".")[1] for query in one._statements._known} for one in shared(storage)
        ]
        return len(names) == number and all(calls.keys() <= one for one in names)

    async with asyncio.timeout(60):
        while not ready():
            for call in calls.values():
                await asyncio.gather(*(call() for _ in range(number)))


@asynccontextmanager
async def held(conninfo: str, statement: str, *values: Any) -> AsyncIterator[None]:
    """What the statement locks is somebody else's until the block ends."""
    async with await psycopg.AsyncConnection.connect(conninfo) as somebody:
        await somebody.execute(statement, values)  # type: ignore[arg-type]
        yield


async def until(reached: Callable[[], bool]) -> None:
    """Return when this holds."""
    async with asyncio.timeout(60):
        while not reached():
            await asyncio.sleep(0.002)


# ---- what they carry ----


async def test_200_tasks_travel_on_the_shared_connections_and_need_none_of_the_pool(
    migrated: str, unhurried: None
) -> None:
    async with Storage(migrated, multiplex=2, pool_max=1, pool_timeout=60) as storage:
        create = storage.autonomous.conversations.create
        await known(
            storage,
            create=lambda: create(NewConversation()),
            get=lambda: storage.autonomous.conversations.get(UUID(int=0)),
        )
        async with storage.transaction():  # on the pool's only connection
            made = await asyncio.gather(*(create(NewConversation(title=str(n))) for n in range(200)))
            assert [row.title for row in made] == [str(n) for n in range(200)]
            assert await asyncio.gather(*(storage.autonomous.conversations.get(row.id) for row in made)) == made
        assert ask(migrated, f"SELECT count(*) FROM pg_stat_activity WHERE {OURS}") == [(3,)]


async def _life(storage: Storage, seed: int, log: list[Any]) -> None:
    """One task's doings; what it saw goes to `log`. It touches its own rows alone, so that the answers are certain."""
    dice = random.Random(seed)
    chat = await storage.conversations.create(NewConversation(title=f"task {seed}"))
    for step in range(20):
        match dice.randrange(8):
            case 0 | 1 | 2:
                message = await storage.messages.append(chat.id, role="user", content=f"{seed}.{step}")
                log.append(("appended", message.position, message.content))
            case 3:
                newest = await storage.messages.latest(chat.id)
                log.append(("latest", [(item.position, item.content) for item in newest]))
            case 4:
                log.append(("missing", await storage.conversations.get(uuid4())))
                with pytest.raises(NotFound) as caught:
                    await storage.conversations.require(UUID(int=seed))
                log.append(str(caught.value))
            case 5:
                name = f"provider-{seed}"
                try:
                    await storage.providers.create(NewProvider(name=name, kind="custom"))
                    log.append("made")
                except Conflict as error:
                    log.append((error.constraint, error.sqlstate, error.outcome, str(error)))
            case 6:
                changed = await storage.conversations.update(chat.id, title=f"{seed} at {step}")
                log.append((changed.title, (await storage.conversations.require(chat.id)).title))
            case _:
                log.append(("count", await storage.messages.count({"conversation_id": chat.id})))


async def test_every_answer_is_that_of_a_connection_of_ones_own(storage: Storage, migrated: str) -> None:
    logs: dict[str, list[list[Any]]] = {}
    async with Storage(migrated, prepare=False, multiplex=0) as plain:
        for name, face in (("plain", plain), ("shared", storage)):
            await face.providers.delete_where({"name__like": "provider-%"})
            own: list[list[Any]] = [[] for _ in range(100)]
            await asyncio.gather(*(_life(face, seed, log) for seed, log in enumerate(own)))
            logs[name] = own
    assert logs["shared"] == logs["plain"]
    assert sum(map(len, logs["shared"])) > 100 * 20


async def test_each_task_reads_what_it_wrote(storage: Storage) -> None:
    async def work(number: int) -> None:
        chat = await storage.conversations.create(NewConversation(title="0"))
        for step in range(10):
            await storage.conversations.update(chat.id, title=f"{number}.{step}")
            assert (await storage.conversations.require(chat.id)).title == f"{number}.{step}"

    await asyncio.gather(*(work(number) for number in range(100)))


async def test_large_parameters_and_large_results_share_a_connection_with_small_ones(
    migrated: str, unhurried: None
) -> None:
    async with Storage(migrated, multiplex=2) as storage:
        chat = await storage.conversations.create(NewConversation(title="t"))
        await known(
            storage,
            create=lambda: storage.messages.append(chat.id, role="user", content="small"),
            require=lambda: storage.conversations.require(chat.id),
            latest=lambda: storage.messages.latest(chat.id),
        )
        await storage.messages.delete_where({"conversation_id": chat.id})
        texts = [letter * 3_000_000 for letter in "abcdef"]
        large = [storage.messages.append(chat.id, role="user", content=text) for text in texts]
        results = await asyncio.gather(*large, *(storage.conversations.require(chat.id) for _ in range(50)))
        assert [message.content for message in results[:6]] == texts
        newest = await asyncio.gather(*(storage.messages.latest(chat.id) for _ in range(5)))
        assert all(sorted(item.content for item in found) == texts for found in newest)


async def test_behind_a_pooler_and_without_prepared_statements_no_connection_is_shared(migrated: str) -> None:
    for given in ({"pooler": True}, {"prepare": False}, {"multiplex": 0}):
        async with Storage(migrated, **given) as storage:
            assert isinstance(storage.database, MultiplexedDatabase)
            assert storage.database._multiplexer is None
            assert await storage.conversations.count() == 0


# ---- errors of one are nobody else's ----


async def test_one_call_that_fails_costs_those_sent_with_it_nothing(storage: Storage) -> None:
    chats = await asyncio.gather(*(storage.conversations.create(NewConversation(title=str(n))) for n in range(5)))
    divide: Statement[int] = Statement("test.divide", "SELECT 7 / $1::int", Shape("one", int), table="test")
    await known(
        storage,
        require=lambda: storage.conversations.require(chats[0].id),
        divide=lambda: storage.database.run(divide, [1]),
    )
    for _ in range(3):
        reads = [storage.conversations.require(chat.id) for chat in chats]
        outcomes = await asyncio.gather(
            *reads[:3],
            storage.database.run(divide, [0]),
            *reads[3:],
            storage.database.run(divide, [1]),
            return_exceptions=True,
        )
        assert [*outcomes[:3], *outcomes[4:6]] == chats
        assert isinstance(outcomes[3], StorageError)
        assert outcomes[6] == 7


async def test_an_error_at_commit_is_the_error_of_its_own_call(storage: Storage, migrated: str) -> None:
    ask(
        migrated,
        """
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN RAISE check_violation USING CONSTRAINT = 'late', TABLE = 'conversations'; END $$;
        CREATE CONSTRAINT TRIGGER late AFTER INSERT ON conversations DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW WHEN (NEW.title = 'late') EXECUTE FUNCTION refuse();
        """,
    )
    await known(storage, create=lambda: storage.conversations.create(NewConversation(title="before")))
    titles = ["a", "late", "b", "late", "c"]
    outcomes = await asyncio.gather(
        *(storage.conversations.create(NewConversation(title=title)) for title in titles), return_exceptions=True
    )
    assert [getattr(outcome, "constraint", None) for outcome in outcomes] == [None, "late", None, "late", None]
    assert [outcome.outcome for outcome in outcomes if isinstance(outcome, StorageError)] == ["not kept"] * 2
    assert await storage.conversations.count({"title__in": titles}) == 3


async def test_a_select_that_writes_all_the_same_does_so_exactly_once(storage: Storage, migrated: str) -> None:
    """A function can hide its writing. Nobody may be told of what a neighbour's error undid."""
    ask(
        migrated,
        """
        CREATE TABLE marks (n integer);
        CREATE FUNCTION mark(n integer) RETURNS integer LANGUAGE sql AS
            $$ INSERT INTO marks SELECT 1000 / n RETURNING $1 $$;
        """,
    )
    hidden: Statement[int] = Statement("test.mark", "SELECT mark($1::int)", Shape("one", int), table="test")
    await known(storage, mark=lambda: storage.database.run(hidden, [1]))
    ask(migrated, "TRUNCATE marks")
    numbers = [n % 11 for n in range(110)]
    outcomes = await asyncio.gather(*(storage.database.run(hidden, [n]) for n in numbers), return_exceptions=True)
    assert [outcome for outcome in outcomes if not isinstance(outcome, StorageError)] == [n for n in numbers if n]
    assert ask(migrated, "SELECT count(*) FROM marks") == [(100,)]


async def test_a_schema_change_costs_nobody_an_error(storage: Storage, migrated: str) -> None:
    chat = await storage.conversations.create(NewConversation(title="t"))
    await known(storage, require=lambda: storage.conversations.require(chat.id))
    for length in (501, 502, 503):
        ask(migrated, f"ALTER TABLE conversations ALTER COLUMN title TYPE varchar({length})")
        assert await asyncio.gather(*(storage.conversations.require(chat.id) for _ in range(20))) == [chat] * 20


# ---- slow statements and locks ----


async def test_a_slow_statement_goes_to_the_pool_and_short_ones_pass_it(
    migrated: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(multiplexed, "LIMIT", 0.5)  # what is quick stays below it on a busy machine too
    monkeypatch.setattr(multiplexer, "_AWAY", 600.0)
    async with Storage(migrated, multiplex=1, pool_max=1, pool_timeout=60) as storage:
        count = storage.conversations.count
        await known(storage, count=count, locked=lambda: storage.database.run(LOCKED, [1]))
        (one,) = shared(storage)
        async with held(migrated, "SELECT pg_advisory_xact_lock(1)"):
            slow = asyncio.create_task(storage.database.run(LOCKED, [1]))
            await until_one_waits(migrated, "advisory")
            # They stand behind it, so they wait until it is cut short; then it has the pool's only connection.
            assert await asyncio.gather(*(count() for _ in range(10))) == [0] * 10
            await until_one_waits(migrated, "advisory")
            assert await asyncio.gather(*(count() for _ in range(10))) == [0] * 10
            assert not slow.done()
        assert await slow == 7
        async with held(migrated, "SELECT pg_advisory_xact_lock(1)"):
            again = asyncio.create_task(storage.database.run(LOCKED, [1]))
            await until_one_waits(migrated, "advisory")
            assert not one.under_way, "it is known to be slow, so it takes no shared connection"
        assert await again == 7


async def test_a_write_that_was_cut_short_is_done_exactly_once(storage: Storage) -> None:
    chat = await storage.conversations.create(NewConversation(title="t"))
    for _ in range(3):
        assert await storage.database.run(SLEEP_AND_WRITE, [chat.id, 0.0]) == 1
        assert await storage.database.run(SLEEP_AND_WRITE, [chat.id, 3 * LIMIT]) == 1
    assert (await storage.conversations.require(chat.id)).title == "txxxxxx"


async def test_a_lock_that_this_very_process_holds_is_no_deadlock(storage: Storage) -> None:
    """The block asks on a shared connection, behind a statement that waits for the block: alone, each would get on."""
    chat = await storage.conversations.create(NewConversation(title="t"))
    outside = storage.autonomous.conversations
    await known(storage, count=outside.count, update=lambda: outside.update(chat.id, title="t"))
    async with storage.transaction() as tx:
        await tx.conversations.update(chat.id, title="mine")
        blocked = [asyncio.create_task(outside.update(chat.id, title="b")) for _ in range(2)]
        await asyncio.sleep(0)
        assert await asyncio.wait_for(outside.count(), 60) == 1
    await asyncio.gather(*blocked)
    assert (await storage.conversations.require(chat.id)).title == "b"


async def test_a_locked_table_delays_a_burst_and_fails_nobody(storage: Storage, migrated: str) -> None:
    chat = await storage.conversations.create(NewConversation(title="t"))
    await known(storage, require=lambda: storage.conversations.require(chat.id))
    async with held(migrated, "LOCK TABLE conversations"):
        reads = [asyncio.create_task(storage.conversations.require(chat.id)) for _ in range(1000)]
        await until_one_waits(migrated, "relation")
    assert await asyncio.gather(*reads) == [chat] * 1000
    assert await asyncio.gather(*(storage.conversations.require(chat.id) for _ in range(1000))) == [chat] * 1000


async def test_what_is_never_sent_fails_after_the_pools_time_out_and_is_never_done(
    migrated: str, unhurried: None
) -> None:
    async with Storage(migrated, multiplex=1, pool_timeout=0.2) as storage:
        chat = await storage.conversations.create(NewConversation(title="t"))
        update = storage.conversations.update
        await known(storage, update=lambda: update(chat.id, title="t"))
        async with held(migrated, "SELECT FROM conversations WHERE id = %s FOR UPDATE", chat.id):
            sent = [asyncio.create_task(update(chat.id, title="sent")) for _ in range(DEPTH)]
            await until(lambda: len(shared(storage)[0].under_way) == DEPTH)
            with pytest.raises(PoolTimeout, match="was not sent") as caught:
                await update(chat.id, title="never sent")
            assert caught.value.outcome == "not kept"
        assert {row.title for row in await asyncio.gather(*sent)} == {"sent"}
        assert (await storage.conversations.require(chat.id)).title == "sent"


# ---- calls that are given up ----


async def test_cancelled_tasks_leave_their_neighbours_unharmed(storage: Storage) -> None:
    chats = await asyncio.gather(*(storage.conversations.create(NewConversation(title=str(n))) for n in range(50)))
    dice = random.Random(5)
    survivors = 0
    for _ in range(20):
        tasks = [asyncio.create_task(storage.conversations.require(dice.choice(chats).id)) for _ in range(100)]
        expected = await asyncio.gather(*(storage.conversations.require(chat.id) for chat in chats[:3]))
        doomed = {task for task in tasks if dice.random() < 0.5}
        more = [asyncio.create_task(storage.conversations.require(chat.id)) for chat in chats]
        for _ in range(dice.randrange(4)):
            await asyncio.sleep(0)
        for task in doomed:
            task.cancel()
        assert await asyncio.gather(*more) == chats
        assert expected == chats[:3]
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        for task, outcome in zip(tasks, outcomes, strict=True):
            if task not in doomed:
                assert outcome in chats
                survivors += 1
    assert survivors > 500
    assert await storage.conversations.count() == 50


@pytest.fixture
async def chat(alone: Storage) -> Conversation:
    """A row of `alone`, whose only shared connection knows how to change it."""
    made = await alone.conversations.create(NewConversation(title="t"))
    await known(alone, update=lambda: alone.conversations.update(made.id, title="t"))
    return made


async def test_a_cancelled_write_that_was_sent_is_done_before_its_caller_goes_on(
    alone: Storage, chat: Conversation, migrated: str
) -> None:
    async with held(migrated, "SELECT FROM conversations WHERE id = %s FOR UPDATE", chat.id):
        first = asyncio.create_task(alone.conversations.update(chat.id, title="first"))
        await until_one_waits(migrated, "transactionid")
        for _ in range(3):  # impatience does not help
            first.cancel()
            await asyncio.sleep(0)
        second = asyncio.create_task(alone.conversations.update(chat.id, title="second"))
        await asyncio.sleep(0.05)
        assert not first.done()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert (await second).title == "second"
    assert (await alone.conversations.require(chat.id)).title == "second"


async def test_a_cancelled_write_that_was_not_sent_never_is(alone: Storage, chat: Conversation, migrated: str) -> None:
    async with held(migrated, "SELECT FROM conversations WHERE id = %s FOR UPDATE", chat.id):
        sent = [asyncio.create_task(alone.conversations.update(chat.id, title="sent")) for _ in range(DEPTH)]
        await until(lambda: len(shared(alone)[0].under_way) == DEPTH)
        waiting = asyncio.create_task(alone.conversations.update(chat.id, title="given up"))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert not any(task.done() for task in sent)
    await asyncio.gather(*sent)
    assert (await alone.conversations.require(chat.id)).title == "sent"


async def test_a_cancelled_read_is_not_waited_for(alone: Storage, migrated: str) -> None:
    await known(alone, locked=lambda: alone.database.run(LOCKED, [1]))
    async with held(migrated, "SELECT pg_advisory_xact_lock(1)"):
        read = asyncio.create_task(alone.database.run(LOCKED, [1]))
        await until_one_waits(migrated, "advisory")
        read.cancel()
        with pytest.raises(asyncio.CancelledError):
            await read
    assert await alone.database.run(LOCKED, [1]) == 7


# ---- connections that are lost, and the end ----


async def test_lost_connections_are_made_anew_and_no_acknowledged_write_is_lost(
    storage: Storage, migrated: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(multiplexer, "_PAUSE", 0.01)
    acknowledged: set[UUID] = set()
    refused: set[UUID] = set()
    stop = False

    async def writer() -> None:
        while not stop:
            id_ = uuid4()
            try:
                await storage.messages.create(NewMessage(id=id_, conversation_id=chat.id, role="user", content="x"))
            except OutcomeUnknown:
                continue
            except ConnectionLost as error:
                assert error.outcome == "not kept"
                refused.add(id_)
            else:
                acknowledged.add(id_)

    chat = await storage.conversations.create(NewConversation(title="t"))
    writers = [asyncio.create_task(writer()) for _ in range(20)]
    for round_ in range(1, 6):
        await until(lambda round_=round_: len(acknowledged) > 50 * round_)
        await asyncio.to_thread(terminate, migrated)
    stop = True
    await asyncio.gather(*writers)
    async with storage.messages.stream({"conversation_id": chat.id}) as rows:
        stored = {row.id async for row in rows}
    assert stored >= acknowledged
    assert not stored & refused
    await known(storage, count=storage.conversations.count)


async def test_reads_under_way_when_the_connection_is_lost_are_answered(storage: Storage, migrated: str) -> None:
    chat = await storage.conversations.create(NewConversation(title="t"))
    for _ in range(5):
        reads = [asyncio.create_task(storage.conversations.require(chat.id)) for _ in range(200)]
        await asyncio.sleep(0)
        terminate(migrated)  # the loop stands still meanwhile, so that the requests are on their way
        assert await asyncio.gather(*reads) == [chat] * 200


async def test_a_closed_storage_answers_nobody_and_leaves_no_connection(migrated: str) -> None:
    storage = await Storage(migrated).connect()
    pending = [asyncio.create_task(storage.conversations.count()) for _ in range(10)]
    await asyncio.sleep(0)
    await storage.close()
    outcomes = await asyncio.gather(*pending, return_exceptions=True)
    assert all(outcome == 0 or isinstance(outcome, StorageError) for outcome in outcomes)
    with pytest.raises(StorageError, match="not open"):
        await storage.conversations.count()
    await until(lambda: not ask(migrated, f"SELECT FROM pg_stat_activity WHERE {OURS}"))
