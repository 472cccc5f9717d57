"""Streams of events: every event once, in order, whoever publishes and whatever breaks."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from agent_storage import InvalidValue
from agent_storage.types import NewEventStream, NewStreamEvent

from .test_approvals import listening
from .test_chat import refused


def events(stream: str, count: int) -> list[NewStreamEvent]:
    return [NewStreamEvent(stream_id=stream, node_id=f"node {n}", data={"n": n, "text": "\x00"}) for n in range(count)]


async def follow(storage: Any, stream: str, until: int, after: int = 0, **fields: Any) -> list[int]:
    seen: list[int] = []
    async with storage.stream_events.follow(stream, after, **fields) as followed:
        async for event in followed:
            seen.append(event.sequence)
            if event.sequence >= until:
                return seen
    raise AssertionError("a stream never ends")


async def test_events_are_numbered_without_a_gap_each_stream_for_itself(face: Any) -> None:
    first = await face.stream_events.publish("a", "node", {"x": "\x00\ud800"})
    assert (first.sequence, first.data, first.node_id) == (1, {"x": "\x00\ud800"}, "node")
    assert await face.stream_events.publish_many("a", events("a", 10)) == range(2, 12)
    made = await face.stream_events.create_many([*events("b", 2), *events("a", 2), *events("b", 1)])
    assert [(item.stream_id, item.sequence) for item in made] == [("b", 1), ("b", 2), ("a", 12), ("a", 13), ("b", 3)]
    read = await face.stream_events.read("a", after=1, limit=3)
    assert [(item.sequence, item.data["n"]) for item in read] == [(2, 0), (3, 1), (4, 2)]
    assert read[0].data["text"] == "\x00"
    assert await face.stream_events.read("nothing") == []
    assert (await face.event_streams.get_by(stream_id="a")).last_sequence == 13


async def test_publish_many_is_all_or_nothing(face: Any) -> None:
    with pytest.raises(InvalidValue, match="not all events belong to a"):
        await face.stream_events.publish_many("a", [*events("a", 1), *events("b", 1)])
    assert await face.stream_events.publish_many("a", []) == range(0)
    assert await face.event_streams.count() == 0


async def test_sequences_go_on_when_old_events_are_gone_and_a_stream_takes_its_events_along(face: Any) -> None:
    await face.stream_events.publish_many("a", events("a", 3))
    await face.stream_events.delete_where({"stream_id": "a"})
    assert (await face.stream_events.publish("a")).sequence == 4
    stream = await face.event_streams.get_by(stream_id="a")
    await face.event_streams.delete(stream.id)
    assert await face.stream_events.count() == 0


async def test_follow_started_before_during_and_after_gives_every_event_once_and_in_order(storage: Any) -> None:
    total = 600
    before = asyncio.create_task(follow(storage, "s", total))
    await listening(storage)
    late: list[asyncio.Task[list[int]]] = []

    async def publish(worker: int) -> None:
        for number in range(15):
            if number % 5 == 2:
                await storage.stream_events.publish_many("s", events("s", 38))
            else:
                await storage.stream_events.publish("s", f"worker {worker}", number)
            if number == 7:
                late.append(asyncio.create_task(follow(storage, "s", total)))

    # four publishers: 12 single events and 3 times 38 each
    await asyncio.gather(*(publish(worker) for worker in range(4)))
    count = (await storage.event_streams.get_by(stream_id="s")).last_sequence
    assert count == 4 * (12 + 3 * 38)
    await storage.stream_events.publish_many("s", events("s", total - count))
    expected = list(range(1, total + 1))
    assert await asyncio.wait_for(before, 30) == expected
    assert [await asyncio.wait_for(task, 30) for task in late] == [expected] * 4
    assert await follow(storage, "s", total) == expected
    assert await follow(storage, "s", total, after=total - 2) == expected[-2:]


async def test_follow_survives_its_connections_being_cut_in_the_middle(storage: Any, migrated: str) -> None:
    followed = asyncio.create_task(follow(storage, "s", 200))
    await listening(storage)
    with psycopg.connect(migrated, autocommit=True) as connection:
        for round_ in range(4):
            for _ in range(50):
                connection.execute(
                    "WITH s AS (INSERT INTO event_streams AS s (stream_id, last_sequence) VALUES ('s', 1)"
                    " ON CONFLICT (stream_id) DO UPDATE SET last_sequence = s.last_sequence + 1 RETURNING *)"
                    " INSERT INTO stream_events (stream_id, sequence) SELECT stream_id, last_sequence FROM s"
                )
            if round_ < 3:
                connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
    assert await asyncio.wait_for(followed, 30) == list(range(1, 201))


async def test_tailing_while_six_write_misses_none(storage: Any) -> None:
    async def write() -> None:
        for _ in range(30):
            async with storage.transaction() as tx:
                await tx.stream_events.publish("s")
                await asyncio.sleep(0)  # others get in between, and commit in another order than they began

    seen: list[int] = []

    async def tail() -> None:
        while len(seen) < 180:
            seen.extend([event.sequence for event in await storage.stream_events.read("s", seen[-1] if seen else 0)])
            await asyncio.sleep(0)

    await asyncio.gather(tail(), *(write() for _ in range(6)))
    assert seen == list(range(1, 181))


def test_follow_on_the_sync_face(sync_storage: Any) -> None:
    seen: list[int] = []

    def read() -> None:
        with sync_storage.stream_events.follow("s") as events:
            for event in events:
                seen.append(event.sequence)
                if event.sequence == 20:
                    return

    thread = threading.Thread(target=read)
    thread.start()
    for _ in range(20):
        sync_storage.stream_events.publish("s")
    thread.join(30)
    assert seen == list(range(1, 21))


async def test_a_rolled_back_event_leaves_no_gap_and_wakes_nobody(storage: Any) -> None:
    await storage.stream_events.publish("s")
    with pytest.raises(RuntimeError):
        async with storage.transaction() as tx:
            await tx.stream_events.publish("s")
            raise RuntimeError
    assert (await storage.stream_events.publish("s")).sequence == 2


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.01)


async def delete(storage: Any, stream: str) -> None:
    await storage.event_streams.delete((await storage.event_streams.get_by(stream_id=stream)).id)


async def test_a_published_event_never_changes(face: Any, migrated: str) -> None:
    event = await face.stream_events.publish("s", "node", {"n": 1})
    for change in ({"data": {}}, {"stream_id": "t"}, {"node_id": None}, {"sequence": 2}):
        with pytest.raises(InvalidValue, match="cannot be changed; the row never changes"):
            await face.stream_events.update(event.id, **change)
        with pytest.raises(InvalidValue, match="cannot be changed"):
            await face.stream_events.update_many([event.id], change)
    with pytest.raises(InvalidValue, match=r"stream_events\.data cannot be changed"):
        await face.stream_events.patch(event.id, data={"n": 2})
    for change in ("data = '{}'", "stream_id = 't'", "node_id = NULL", "sequence = 2", "created_at = now()"):
        refused(migrated, f"UPDATE stream_events SET {change}")
    assert list(await face.stream_events.read("s")) == [event]


async def test_the_counter_of_a_stream_moves_with_its_events_alone(face: Any, migrated: str) -> None:
    await face.stream_events.publish_many("s", events("s", 3))
    head = await face.stream_events.head("s")
    assert head.last_sequence == 3
    stream = await face.event_streams.upsert(NewEventStream(stream_id="s"))
    assert (stream.id, stream.last_sequence) == (head.id, 3)
    for change in ({"last_sequence": 0}, {"stream_id": "t"}):
        with pytest.raises(InvalidValue, match="cannot be changed; the row never changes"):
            await face.event_streams.update(stream.id, **change)
    with pytest.raises(InvalidValue, match="last_sequence"):
        NewEventStream(stream_id="s", last_sequence=0)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    for change in (
        "last_sequence = 0",
        "last_sequence = 2",
        "last_sequence = 4",
        "last_sequence = 9223372036854775807",
        "stream_id = 't'",
        "id = uuid_v7()",
    ):
        refused(migrated, f"UPDATE event_streams SET {change}")
    text = "INSERT INTO event_streams (stream_id) VALUES ('s') ON CONFLICT (stream_id) DO UPDATE SET last_sequence = 0"
    error = refused(migrated, text)
    assert error.diag.constraint_name == "event_streams_last_sequence_follows_events"
    await face.stream_events.delete_where({"sequence": 3})
    refused(migrated, "UPDATE event_streams SET last_sequence = 2")  # a sequence is not given out twice
    assert (await face.stream_events.publish("s")).sequence == 4


async def test_a_stream_that_is_copied_with_its_sequences_goes_on_where_it_ends(face: Any, migrated: str) -> None:
    await face.event_streams.create(NewEventStream(stream_id="s"))
    with (
        psycopg.connect(migrated, autocommit=True) as connection,
        connection.cursor() as cursor,
        cursor.copy("COPY stream_events (stream_id, sequence) FROM STDIN") as copy,
    ):
        for number in range(10_000, 0, -1):
            copy.write_row(("s", number))
    assert (await face.stream_events.head("s")).last_sequence == 10_000
    assert (await face.stream_events.publish("s")).sequence == 10_001


async def test_explicit_sequences_among_many_publishers_queue_with_them(storage: Any, migrated: str) -> None:
    await storage.stream_events.publish("s")
    follower = asyncio.create_task(follow(storage, "s", 111))

    async def publish() -> int:
        return (await storage.stream_events.publish("s")).sequence

    async def insert() -> None:
        text = "INSERT INTO stream_events (stream_id, sequence) SELECT 's', last_sequence + 1 FROM event_streams"
        async with await psycopg.AsyncConnection.connect(migrated, autocommit=True) as connection:
            for _ in range(200):
                with contextlib.suppress(psycopg.errors.UniqueViolation):  # a publisher had it first
                    await connection.execute(text)
                    return
        raise AssertionError("no sequence is free")

    made = await asyncio.gather(*(publish() for _ in range(100)), *(insert() for _ in range(10)))
    assert len({*made[:100]}) == 100
    assert await asyncio.wait_for(follower, 30) == list(range(1, 112))
    assert await publish() == 112


async def test_a_follower_of_a_stream_that_is_deleted_and_published_again_gets_the_new_events(storage: Any) -> None:
    await storage.stream_events.publish_many("s", events("s", 17))
    seen: list[tuple[Any, int]] = []

    async def read() -> None:
        async with storage.stream_events.follow("s", 15) as followed:
            async for event in followed:
                seen.append((followed.generation, event.sequence))
                if event.data == "end":
                    return

    following = asyncio.create_task(read())
    await until(lambda: len(seen) == 2)
    first = await storage.stream_events.head("s")
    await delete(storage, "s")
    await storage.stream_events.publish_many("s", events("s", 20))  # more than it has seen of the old one
    await until(lambda: len(seen) == 22)
    second = await storage.stream_events.head("s")
    async with storage.transaction() as tx:  # gone and back in one transaction
        await delete(tx, "s")
        await tx.stream_events.publish("s", None, "end")
    await asyncio.wait_for(following, 30)
    third = await storage.stream_events.head("s")
    assert seen == [
        (first.id, 16),
        (first.id, 17),
        *((second.id, n) for n in range(1, 21)),
        (third.id, 1),
    ]


async def test_a_follower_that_comes_back_gives_the_generation_that_it_has_seen(storage: Any) -> None:
    await storage.stream_events.publish_many("s", events("s", 17))
    old = await storage.stream_events.head("s")
    assert await follow(storage, "s", 17, after=15, generation=old.id) == [16, 17]
    await delete(storage, "s")
    waiting = asyncio.create_task(follow(storage, "s", 3, after=17))  # no stream: it has seen 17 of an old one
    await listening(storage)
    await storage.stream_events.publish_many("s", events("s", 3))
    assert await asyncio.wait_for(waiting, 30) == [1, 2, 3]
    assert await follow(storage, "s", 3, after=17) == [1, 2, 3]  # beyond the end: of an old one too
    await storage.stream_events.publish_many("s", events("s", 17))
    assert await follow(storage, "s", 20, after=17, generation=old.id) == list(range(1, 21))
    assert await follow(storage, "s", 20, after=17) == [18, 19, 20]
    assert await storage.stream_events.read("s", generation=old.id) == []
    new = await storage.stream_events.head("s")
    assert len(await storage.stream_events.read("s", 18, generation=new.id)) == 2


async def test_followers_of_a_stream_that_comes_and_goes_see_each_generation_in_order(storage: Any) -> None:
    """Thirty followers, while the stream is deleted and published again; each sees a beginning of every generation."""
    histories: list[dict[Any, list[int]]] = [{} for _ in range(30)]

    async def read(history: dict[Any, list[int]]) -> None:
        async with storage.stream_events.follow("s") as followed:
            async for event in followed:
                history.setdefault(followed.generation, []).append(event.sequence)
                if event.data == "end":
                    return

    async def publish() -> None:
        for _ in range(20):
            await storage.stream_events.publish("s")

    following = [asyncio.create_task(read(history)) for history in histories]
    for _ in range(15):
        publishing = asyncio.gather(*(publish() for _ in range(4)))
        await storage.stream_events.publish("s")
        await delete(storage, "s")
        await publishing
    await storage.stream_events.publish("s", None, "end")
    await asyncio.wait_for(asyncio.gather(*following), 30)
    last = await storage.stream_events.head("s")
    for history in histories:
        assert all(seen == list(range(1, len(seen) + 1)) for seen in history.values())
        assert list(history)[-1] == last.id
        assert history[last.id] == list(range(1, last.last_sequence + 1))


def test_follow_on_the_sync_face_notices_another_stream(sync_storage: Any) -> None:
    sync_storage.stream_events.publish_many("s", events("s", 4))
    with sync_storage.stream_events.follow("s", 2) as followed:
        assert [next(followed).sequence for _ in range(2)] == [3, 4]
        old = followed.generation
        sync_storage.event_streams.delete(old)
        sync_storage.stream_events.publish_many("s", events("s", 9))
        assert [next(followed).sequence for _ in range(9)] == list(range(1, 10))
        assert followed.generation == sync_storage.stream_events.head("s").id != old
