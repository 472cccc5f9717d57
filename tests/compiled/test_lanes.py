"""Statements of all tasks on shared connections: each caller sees exactly what it would have seen alone."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Coroutine
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from agent_storage import Conflict, ConnectionLost, NotFound, Storage, StorageError
from agent_storage.compiled.lanes import LIMIT
from agent_storage.database import Database
from agent_storage.multiplexed import MultiplexedDatabase
from agent_storage.statement import Shape, Statement
from agent_storage.types import NewConversation, NewMessage, NewProvider

SLEEP: Statement[Any] = Statement("test.sleep", "SELECT pg_sleep($1)::text", Shape("one", str), table="test")
SLEEP_AND_WRITE: Statement[Any] = Statement(
    "test.sleep_and_write",
    "UPDATE conversations SET title = title || 'x' WHERE id = $1 AND pg_sleep($2) IS NOT NULL",
    Shape("one", int),
    table="test",
)


@pytest.fixture(params=[1, 2, 4])
async def storage(migrated: str, request: pytest.FixtureRequest) -> AsyncIterator[Storage]:
    async with Storage.open(migrated, multiplex=request.param, pool_max=4) as opened:
        yield opened


def lanes(storage: Storage) -> list[Any]:
    database = storage.database
    assert isinstance(database, MultiplexedDatabase)
    assert database._lanes is not None
    return [lane for lane in database._lanes._lanes if lane is not None and not lane.lost]


async def quick(storage: Storage, *calls: Coroutine[Any, Any, object]) -> None:
    """Run each alone, so that its statement is known to be quick and may share a Sync."""
    for call in calls:
        await call
    for lane in lanes(storage):
        assert not lane.busy


async def backends(storage: Storage) -> int:
    async with storage.database.connection() as connection:
        cursor = await connection.execute(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE datname = current_database() AND application_name = 'agent-storage'"
        )
        row = await cursor.fetchone()
    assert row is not None
    return row[0]


async def test_200_tasks_travel_on_the_lanes_and_open_no_further_connection(storage: Storage) -> None:
    made = await asyncio.gather(*(storage.conversations.create(NewConversation(title=str(n))) for n in range(200)))
    assert [row.title for row in made] == [str(n) for n in range(200)]
    found = await asyncio.gather(*(storage.conversations.get(row.id) for row in made))
    assert found == made
    assert await backends(storage) <= len(lanes(storage)) + 4


async def _life(storage: Storage, seed: int, log: list[Any]) -> None:
    """One task's doings; what it saw goes to `log`. It touches its own rows alone, so that the answers are certain."""
    dice = random.Random(seed)
    chat = await storage.conversations.create(NewConversation(title=f"task {seed}"))
    for step in range(25):
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
                    log.append((error.constraint, error.sqlstate, str(error)))
            case 6:
                changed = await storage.conversations.update(chat.id, title=f"{seed} at {step}")
                log.append((changed.title, (await storage.conversations.require(chat.id)).title))
            case _:
                log.append(("count", await storage.messages.count({"conversation_id": chat.id})))


async def test_every_answer_is_that_of_the_plain_path(storage: Storage, migrated: str) -> None:
    logs: dict[str, list[list[Any]]] = {}
    async with Storage.open(migrated, compiled=False, multiplex=0) as plain:
        for name, face in (("plain", plain), ("lanes", storage)):
            await face.providers.delete_where({"name__like": "provider-%"})
            own: list[list[Any]] = [[] for _ in range(200)]
            await asyncio.gather(*(_life(face, seed, log) for seed, log in enumerate(own)))
            logs[name] = own
    assert logs["lanes"] == logs["plain"]
    assert sum(map(len, logs["lanes"])) > 200 * 25


async def test_cancelled_tasks_leave_their_neighbours_unharmed(storage: Storage) -> None:
    chats = await asyncio.gather(*(storage.conversations.create(NewConversation(title=str(n))) for n in range(50)))
    dice = random.Random(5)
    survivors = 0
    for _ in range(40):
        tasks = [asyncio.create_task(storage.conversations.require(dice.choice(chats).id)) for _ in range(100)]
        expected = await asyncio.gather(*(storage.conversations.require(chat.id) for chat in chats[:3]))
        doomed = [task for task in tasks if dice.random() < 0.5]
        more = [asyncio.create_task(storage.conversations.require(chat.id)) for chat in chats]
        for _ in range(dice.randrange(4)):
            await asyncio.sleep(0)
        for task in doomed:
            task.cancel()
        answers = await asyncio.gather(*more)
        assert answers == chats
        assert expected == chats[:3]
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        for task, outcome in zip(tasks, outcomes, strict=True):
            if task not in doomed:
                assert outcome in chats
                survivors += 1
    assert survivors > 1000
    assert await storage.conversations.count() == 50


async def test_each_task_reads_what_it_wrote(storage: Storage) -> None:
    async def work(number: int) -> None:
        chat = await storage.conversations.create(NewConversation(title="0"))
        for step in range(20):
            await storage.conversations.update(chat.id, title=f"{number}.{step}")
            assert (await storage.conversations.require(chat.id)).title == f"{number}.{step}"

    await asyncio.gather(*(work(number) for number in range(100)))


async def test_a_slow_statement_goes_to_the_pool_and_short_ones_pass_it(storage: Storage) -> None:
    await storage.conversations.count()
    slow = asyncio.create_task(storage.database.run(SLEEP, [0.7]))
    await asyncio.sleep(4 * LIMIT)
    started = time.perf_counter()
    for _ in range(20):
        await storage.conversations.count()
    assert not slow.done()
    assert await slow == ""
    assert time.perf_counter() - started < 20
    again = asyncio.create_task(storage.database.run(SLEEP, [0.5]))
    await asyncio.sleep(0.05)
    assert not any(lane.busy for lane in lanes(storage)), "it is known to be slow, so it takes no lane"
    await again


async def test_quick_reads_are_not_blamed_for_the_slow_one_among_them(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_the_pool: list[str] = []
    over_the_pool = Database.run_outside

    async def counted(self: Database, statement: Statement[Any], values: Any) -> Any:
        on_the_pool.append(statement.name)
        return await over_the_pool(self, statement, values)

    monkeypatch.setattr(Database, "run_outside", counted)
    chat = await storage.conversations.create(NewConversation(title="t"))
    # It was quick at first, so it shares a Sync with others; from then on it is not.
    await quick(storage, storage.database.run(SLEEP, [0.0]), storage.conversations.get(chat.id))
    gets = 0
    end = time.monotonic() + 1.5

    async def get() -> None:
        nonlocal gets
        while time.monotonic() < end:
            assert await storage.conversations.get(chat.id) == chat
            gets += 1

    async def sleep() -> None:
        while time.monotonic() < end:
            await storage.database.run(SLEEP, [0.03])

    await asyncio.gather(sleep(), *(get() for _ in range(16)))
    assert on_the_pool.count(SLEEP.name) > 3
    assert on_the_pool.count("conversations.get") < gets / 2


async def test_a_write_that_the_lane_cut_short_is_done_exactly_once(storage: Storage) -> None:
    chat = await storage.conversations.create(NewConversation(title="t"))
    for _ in range(3):
        assert await storage.database.run(SLEEP_AND_WRITE, [chat.id, 3 * LIMIT]) == 1
    assert (await storage.conversations.require(chat.id)).title == "txxx"


async def test_a_lock_that_this_very_process_holds_is_no_deadlock(storage: Storage) -> None:
    """The transaction asks on a lane, behind a statement that waits for the transaction: alone, each would get on."""
    chat = await storage.conversations.create(NewConversation(title="t"))
    async with storage.transaction() as tx:
        await tx.conversations.update(chat.id, title="mine")
        blocked = [asyncio.create_task(storage.outside.conversations.update(chat.id, title="b")) for _ in range(2)]
        await asyncio.sleep(0)
        assert await asyncio.wait_for(storage.outside.conversations.count(), 10) == 1
    await asyncio.gather(*blocked)
    assert (await storage.conversations.require(chat.id)).title == "b"


async def test_an_error_at_commit_is_an_error(storage: Storage, migrated: str) -> None:
    with psycopg.connect(migrated, autocommit=True) as admin:
        admin.execute(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE check_violation USING CONSTRAINT = 'late', TABLE = 'conversations'; END $$"
        )
        admin.execute(
            "CREATE CONSTRAINT TRIGGER late AFTER INSERT ON conversations DEFERRABLE INITIALLY DEFERRED"
            " FOR EACH ROW WHEN (NEW.title = 'late') EXECUTE FUNCTION refuse()"
        )
    titles = ["a", "late", "b", "late", "c"]
    outcomes = await asyncio.gather(
        *(storage.conversations.create(NewConversation(title=title)) for title in titles), return_exceptions=True
    )
    assert [isinstance(outcome, StorageError) for outcome in outcomes] == [False, True, False, True, False]
    assert await storage.conversations.count() == 3


async def test_one_read_that_fails_costs_the_others_of_its_group_nothing(storage: Storage) -> None:
    chats = await asyncio.gather(*(storage.conversations.create(NewConversation(title=str(n))) for n in range(5)))
    divide: Statement[int] = Statement("test.divide", "SELECT 7 / $1::int", Shape("one", int), table="test")
    await quick(storage, storage.conversations.require(chats[0].id), storage.database.run(divide, [1]))
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


async def test_a_read_that_writes_all_the_same_does_so_exactly_once(storage: Storage, migrated: str) -> None:
    """A function can hide its writing. Reads share a transaction: nobody may be told of what a neighbour undid."""
    with psycopg.connect(migrated, autocommit=True) as admin:
        admin.execute("CREATE TABLE marks (n integer)")
        admin.execute(
            "CREATE FUNCTION mark(n integer) RETURNS integer LANGUAGE sql AS "
            "$$ INSERT INTO marks SELECT 1000 / n RETURNING $1 $$"
        )
    hidden: Statement[int] = Statement("test.mark", "SELECT mark($1::int)", Shape("one", int), table="test")
    assert not hidden.writes
    await quick(storage, storage.database.run(hidden, [1]))
    numbers = [n % 11 for n in range(110)]
    outcomes = await asyncio.gather(*(storage.database.run(hidden, [n]) for n in numbers), return_exceptions=True)
    done = [n for n, outcome in zip(numbers, outcomes, strict=True) if outcome == n]
    assert len(done) == 100
    with psycopg.connect(migrated) as admin:
        assert admin.execute("SELECT count(*) FROM marks").fetchone() == (101,)


async def test_a_schema_change_costs_nobody_an_error(storage: Storage, migrated: str) -> None:
    chat = await storage.conversations.create(NewConversation(title="t"))
    for length in (501, 502, 503):
        with psycopg.connect(migrated, autocommit=True) as admin:
            admin.execute(f"ALTER TABLE conversations ALTER COLUMN title TYPE varchar({length})")  # type: ignore[arg-type]
        found = await asyncio.gather(*(storage.conversations.require(chat.id) for _ in range(20)))
        assert found == [chat] * 20


async def test_large_parameters_and_large_results_share_a_lane_with_small_ones(storage: Storage) -> None:
    chat = await storage.conversations.create(NewConversation(title="t"))
    texts = [letter * 3_000_000 for letter in "abcdef"]
    large = [storage.messages.append(chat.id, role="user", content=text) for text in texts]
    results = await asyncio.gather(*large, *(storage.conversations.require(chat.id) for _ in range(50)))
    assert sorted(len(message.content) for message in results[:6]) == [3_000_000] * 6
    newest = await asyncio.gather(*(storage.messages.latest(chat.id) for _ in range(5)))
    assert all(sorted(item.content[0] for item in found) == list("abcdef") for found in newest)


def terminate(conninfo: str) -> None:
    with psycopg.connect(conninfo, autocommit=True) as admin:
        admin.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            " WHERE datname = current_database() AND application_name = 'agent-storage'"
        )


async def test_lost_lanes_are_made_anew_and_no_acknowledged_write_is_lost(storage: Storage, migrated: str) -> None:
    acknowledged: list[UUID] = []
    stop = asyncio.Event()

    async def writer() -> None:
        while not stop.is_set():
            try:
                row = await storage.messages.create(
                    NewMessage(id=uuid4(), conversation_id=chat.id, role="user", content="x")
                )
            except ConnectionLost:
                continue
            acknowledged.append(row.id)

    chat = await storage.conversations.create(NewConversation(title="t"))
    writers = [asyncio.create_task(writer()) for _ in range(20)]
    for _ in range(5):
        await asyncio.sleep(0.3)
        await asyncio.to_thread(terminate, migrated)
    await asyncio.sleep(0.5)
    stop.set()
    await asyncio.gather(*writers)
    stored = {row.id async for row in storage.messages.stream({"conversation_id": chat.id})}
    assert stored >= set(acknowledged)
    assert len(acknowledged) > 100
    deadline = time.monotonic() + 20
    while not lanes(storage) and time.monotonic() < deadline:
        await asyncio.sleep(0.1)
        await storage.conversations.count()
    assert lanes(storage)


async def test_reads_in_flight_when_the_lane_is_lost_are_answered(storage: Storage, migrated: str) -> None:
    chat = await storage.conversations.create(NewConversation(title="t"))
    for _ in range(5):
        reads = [asyncio.create_task(storage.conversations.require(chat.id)) for _ in range(200)]
        await asyncio.sleep(0)
        terminate(migrated)  # the loop stands still meanwhile, so that the requests are on their way
        assert await asyncio.gather(*reads) == [chat] * 200


async def test_behind_a_pooler_there_are_no_lanes(migrated: str) -> None:
    for given in ({"pooler": True}, {"compiled": False}, {"multiplex": 0}):
        async with Storage.open(migrated, **given) as storage:
            assert isinstance(storage.database, MultiplexedDatabase)
            assert storage.database._lanes is None
            assert await storage.conversations.count() == 0


async def test_a_closed_storage_answers_nobody_and_leaves_no_connection(migrated: str) -> None:
    storage = await Storage.open(migrated).connect()
    pending = [asyncio.create_task(storage.conversations.count()) for _ in range(10)]
    await asyncio.sleep(0)
    await storage.close()
    outcomes = await asyncio.gather(*pending, return_exceptions=True)
    assert all(outcome == 0 or isinstance(outcome, StorageError) for outcome in outcomes)
    with pytest.raises(StorageError, match="not open"):
        await storage.conversations.count()
    with psycopg.connect(migrated, autocommit=True) as admin:
        for _ in range(50):
            row = admin.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
                " AND application_name = 'agent-storage'"
            ).fetchone()
            if row == (0,):
                break
            await asyncio.sleep(0.1)
    assert row == (0,)
