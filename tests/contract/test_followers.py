"""Many followers of one stream: they share its reads, and nothing else."""

from __future__ import annotations

import asyncio
import random
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from agent_storage import PoolUsedInTransaction, Storage, sync
from agent_storage.database.tails import Position
from agent_storage.sync import tables as sync_tables
from agent_storage.tables import StreamEvents
from agent_storage.types import NewStreamEvent

from .test_streams import delete, events, follow, until


class Counted(StreamEvents):
    """Counts its reads."""

    reads = 0

    async def read(self, *args: Any, **fields: Any) -> Any:
        Counted.reads += 1
        return await super().read(*args, **fields)


class CountedSync(sync_tables.StreamEvents):
    """The same on the sync face."""

    reads = 0

    def read(self, *args: Any, **fields: Any) -> Any:
        CountedSync.reads += 1
        return super().read(*args, **fields)


def trace(storage: Any) -> tuple[int, int]:
    """The tails and the subscriptions that are left."""
    listener = storage.database._listener
    return len(listener.tails), len(listener._waiting)


async def test_followers_at_the_same_position_share_one_read(storage: Storage) -> None:
    counted = Counted(storage.runner)
    Counted.reads = 0
    arrived = Counter[int]()

    async def read() -> list[int]:
        seen: list[int] = []
        async with counted.follow("s") as followed:
            async for event in followed:
                seen.append(event.sequence)
                arrived[event.sequence] += 1
                if event.sequence == 40:
                    return seen
        raise AssertionError("a stream never ends")

    following = [asyncio.create_task(read()) for _ in range(200)]
    for number in range(1, 41):
        await storage.stream_events.publish("s")
        await until(lambda number=number: arrived[number] == 200)
    assert await asyncio.gather(*following) == [list(range(1, 41))] * 200
    assert Counted.reads < 200 + 100  # each begins by a read of its own; without sharing there would be 8,000
    assert trace(storage) == (0, 0)


def test_threads_at_the_same_position_share_one_read(sync_storage: sync.Storage) -> None:
    counted = CountedSync(sync_storage.runner)
    CountedSync.reads = 0
    arrived = threading.Semaphore(0)
    histories: list[list[int]] = [[] for _ in range(50)]

    def read(seen: list[int]) -> None:
        with counted.follow("s") as followed:
            for event in followed:
                seen.append(event.sequence)
                arrived.release()
                if event.sequence == 40:
                    return

    threads = [threading.Thread(target=read, args=(history,), daemon=True) for history in histories]
    for thread in threads:
        thread.start()
    for _ in range(40):
        sync_storage.stream_events.publish("s")
        for _ in threads:
            assert arrived.acquire(timeout=30)
    for thread in threads:
        thread.join(30)
    assert histories == [list(range(1, 41))] * 50
    assert CountedSync.reads < 50 + 100
    assert trace(sync_storage) == (0, 0)


async def test_a_slow_follower_holds_up_no_other_and_gets_every_event(storage: Storage) -> None:
    go_on = asyncio.Event()
    slow: list[int] = []

    async def read_slowly() -> None:
        async with storage.stream_events.follow("s") as followed:
            async for event in followed:
                slow.append(event.sequence)
                await go_on.wait()
                if event.sequence == 1500:
                    return

    following = [asyncio.create_task(follow(storage, "s", 1500)) for _ in range(20)]
    lagging = asyncio.create_task(read_slowly())
    await storage.stream_events.publish("s")
    await until(lambda: slow == [1])
    for _ in range(3):
        await storage.stream_events.publish_many("s", events("s", 500))
    assert await asyncio.wait_for(asyncio.gather(*following), 30) == [list(range(1, 1501))] * 20
    assert slow == [1]
    (tail,) = storage.database._listener.tails.values()  # type: ignore[union-attr]
    assert sum(len(part.events) for part in tail._kept.values()) <= 1000  # type: ignore[attr-defined]
    go_on.set()
    await asyncio.wait_for(lagging, 30)
    assert slow == list(range(1, 1501))
    assert trace(storage) == (0, 0)


async def test_when_the_follower_that_reads_is_cancelled_the_next_one_reads(storage: Storage) -> None:
    readers: list[asyncio.Task[Any]] = []
    gate = asyncio.Event()

    class Gated(Counted):
        """Its reads wait, except the first ones."""

        async def read(self, *args: Any, **fields: Any) -> Any:
            if args[1] == 1:
                readers.append(asyncio.current_task())  # type: ignore[arg-type]
                await gate.wait()
            return await super().read(*args, **fields)

    gated = Gated(storage.runner)

    arrived: list[int] = []

    async def read() -> list[int]:
        async with gated.follow("s") as followed:
            arrived.append((await anext(followed)).sequence)
            return [1, (await anext(followed)).sequence]

    await storage.stream_events.publish("s")
    following = [asyncio.create_task(read()) for _ in range(30)]
    await until(lambda: len(arrived) == 30)
    await storage.stream_events.publish("s")
    for _ in range(10):
        await until(lambda: any(not task.done() for task in readers))
        for task in readers:
            task.cancel()
        await asyncio.gather(*readers, return_exceptions=True)
    await until(lambda: any(not task.done() for task in readers))
    cancelled = sum(task.done() for task in readers)
    gate.set()
    ended = await asyncio.wait_for(asyncio.gather(*following, return_exceptions=True), 30)
    assert sum(isinstance(one, asyncio.CancelledError) for one in ended) == cancelled
    assert [one for one in ended if not isinstance(one, asyncio.CancelledError)] == [[1, 2]] * (30 - cancelled)
    assert 10 <= cancelled <= 20
    assert trace(storage) == (0, 0)


async def test_cancelled_followers_leave_no_trace(storage: Storage) -> None:
    dice = random.Random(5)
    for _ in range(5):
        following = [asyncio.create_task(follow(storage, f"s {n % 7}", 10**9)) for n in range(300)]
        for _ in range(5):
            await storage.stream_events.publish_many("s 1", events("s 1", 3))
            for task in dice.sample(following, 40):
                task.cancel()
        for task in following:
            task.cancel()
        ended = await asyncio.gather(*following, return_exceptions=True)
        assert {type(one) for one in ended} == {asyncio.CancelledError}
        assert trace(storage) == (0, 0)


async def test_a_follower_that_comes_after_a_delete_does_not_get_what_others_read_before(storage: Storage) -> None:
    await storage.stream_events.publish_many("s", events("s", 3))
    async with storage.stream_events.follow("s") as first:
        assert [await _next(first) for _ in range(3)] == [1, 2, 3]
        await storage.stream_events.delete_where({"sequence": 2})
        async with storage.stream_events.follow("s") as second:
            assert [await _next(second) for _ in range(2)] == [1, 3]


def test_neither_does_a_thread(sync_storage: sync.Storage) -> None:
    sync_storage.stream_events.publish_many("s", events("s", 3))
    with sync_storage.stream_events.follow("s") as first:
        assert [next(first).sequence for _ in range(3)] == [1, 2, 3]
        sync_storage.stream_events.delete_where({"sequence": 2})
        with sync_storage.stream_events.follow("s") as second:
            assert [next(second).sequence for _ in range(2)] == [1, 3]


async def test_a_follower_inside_a_transaction_is_refused_alone(storage: Storage) -> None:
    following = [asyncio.create_task(follow(storage, "s", 3)) for _ in range(20)]

    async def inside() -> None:
        async with storage.transaction():
            with pytest.raises(PoolUsedInTransaction):
                await follow(storage, "s", 3)

    await storage.stream_events.publish("s")
    await asyncio.gather(*(inside() for _ in range(5)))
    await storage.stream_events.publish_many("s", events("s", 2))
    assert await asyncio.wait_for(asyncio.gather(*following), 30) == [[1, 2, 3]] * 20


async def test_repositories_with_other_records_do_not_share_their_rows(storage: Storage) -> None:
    counted = Counted(storage.runner)
    async with storage.stream_events.follow("s") as one, counted.follow("s") as other:
        await storage.stream_events.publish("s")
        assert (await anext(one)) == (await anext(other))
        assert trace(storage) == (2, 1)
    assert trace(storage) == (0, 0)


async def test_followers_that_pause_leave_and_come_back_see_each_generation_in_order(storage: Storage) -> None:
    """Sixty followers that pause, are cancelled and resume by position and generation; the stream comes and goes."""
    dice = random.Random(11)
    histories: list[list[tuple[Any, int]]] = [[] for _ in range(60)]

    async def read(history: list[tuple[Any, int]]) -> None:
        generation, after = history[-1] if history else (None, 0)
        async with storage.stream_events.follow("s", after, generation=generation) as followed:
            async for event in followed:
                history.append((followed.generation, event.sequence))
                if event.data == "end":
                    return
                if dice.random() < 0.1:
                    await asyncio.sleep(dice.uniform(0, 0.01))

    async def read_with_breaks(history: list[tuple[Any, int]]) -> None:
        while True:
            task = asyncio.create_task(read(history))
            await asyncio.wait([task], timeout=dice.uniform(0.01, 0.3))
            if task.done():
                return await task
            task.cancel()
            with suppress(asyncio.CancelledError):
                return await task

    following = [asyncio.create_task(read_with_breaks(history)) for history in histories]
    for _ in range(12):
        for _ in range(dice.randrange(1, 15)):
            await storage.stream_events.publish_many("s", events("s", dice.randrange(1, 40)))
        await delete(storage, "s")
    await storage.stream_events.publish("s", None, "end")
    await asyncio.wait_for(asyncio.gather(*following), 60)
    last = await storage.stream_events.head("s")
    assert last is not None
    for history in histories:
        generations = list(dict.fromkeys(generation for generation, _ in history))
        assert history[-1] == (last.id, 1)
        assert generations == sorted(generations)  # ids are in order of time, so none comes back
        for generation in generations:
            seen = [sequence for of, sequence in history if of == generation]
            assert seen == list(range(1, len(seen) + 1))


async def test_the_events_of_a_stream_that_was_deleted_do_not_come_again(storage: Storage) -> None:
    """The follower began before the stream, so it read the first part from the position of no stream."""
    async with storage.stream_events.follow("s") as followed:
        following = asyncio.create_task(_next(followed))
        await until(lambda: len(trace_of(storage)) == 1)
        (tail,) = trace_of(storage)
        await until(lambda: tail._reads >= 1)  # there is no stream yet
        await storage.stream_events.publish_many("s", events("s", 3))
        assert await asyncio.wait_for(following, 30) == 1
        assert [await _next(followed) for _ in range(2)] == [2, 3]
        following = asyncio.create_task(_next(followed))
        await delete(storage, "s")
        for _ in range(3):  # it learns that there is no stream, and is woken again
            tail.wake()
            await until(lambda: followed.generation is None)
            await asyncio.sleep(0.05)
        assert not following.done()
        await storage.stream_events.publish("s")
        assert await asyncio.wait_for(following, 30) == 1
        assert followed.generation == (await storage.stream_events.head("s")).id  # type: ignore[union-attr]


def trace_of(storage: Any) -> list[Any]:
    """The tails that are followed."""
    listener = storage.database._listener
    return list(listener.tails.values()) if listener else []


async def test_a_part_without_rows_is_read_again_once_the_stream_has_changed(storage: Storage) -> None:
    await storage.stream_events.publish("s")
    async with storage.stream_events.follow("s") as one, storage.stream_events.follow("s") as other:
        assert (await anext(one)).sequence == (await anext(other)).sequence == 1
        waiting = [asyncio.create_task(_next(follower)) for follower in (one, other)]
        await storage.stream_events.publish("s")
        assert await asyncio.wait_for(asyncio.gather(*waiting), 30) == [2, 2]
        (tail,) = storage.database._listener.tails.values()  # type: ignore[union-attr]
        assert all(isinstance(position, Position) for position in tail._kept)  # type: ignore[attr-defined]


async def _next(follower: Any) -> int:
    return (await anext(follower)).sequence


def test_a_thread_whose_read_fails_fails_alone(sync_storage: sync.Storage) -> None:
    class Failing(CountedSync):
        """Its read fails in one thread."""

        def read(self, *args: Any, **fields: Any) -> Any:
            if threading.current_thread().name == "fails" and args[1] == 1:
                raise ZeroDivisionError
            return super().read(*args, **fields)

    failing = Failing(sync_storage.runner)
    ended: list[Any] = []

    def read() -> None:
        seen: list[int] = []
        try:
            with failing.follow("s") as followed:
                for event in followed:
                    seen.append(event.sequence)
                    arrived.release()
                    if event.sequence == 2:
                        break
            ended.append(seen)
        except ZeroDivisionError:
            ended.append("failed")

    arrived = threading.Semaphore(0)
    sync_storage.stream_events.publish("s")
    work: list[tuple[Callable[[], None], str]] = [(read, "fails" if n < 3 else "reads") for n in range(12)]
    threads = [threading.Thread(target=target, name=name, daemon=True) for target, name in work]
    for thread in threads:
        thread.start()
    for _ in threads:
        assert arrived.acquire(timeout=30)
    sync_storage.stream_events.publish_many("s", [NewStreamEvent(stream_id="s")])
    for thread in threads:
        thread.join(30)
    assert ended.count([1, 2]) + ended.count("failed") == 12
    assert ended.count([1, 2]) >= 9
    assert trace(sync_storage) == (0, 0)
