"""Streams of events: every event once, in order, whoever publishes and whatever breaks."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import psycopg
import pytest

from agent_storage import InvalidValue
from agent_storage.types import NewStreamEvent

from .test_approvals import listening


def events(stream: str, count: int) -> list[NewStreamEvent]:
    return [NewStreamEvent(stream_id=stream, node_id=f"node {n}", data={"n": n, "text": "\x00"}) for n in range(count)]


async def follow(storage: Any, stream: str, until: int, after: int = 0) -> list[int]:
    seen: list[int] = []
    async with storage.stream_events.follow(stream, after) as followed:
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
