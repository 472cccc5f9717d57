"""Part of `benchmarks.domains`: publishing many events at once, beside other ways to insert them; and following."""

from __future__ import annotations

import asyncio
import statistics
import threading
import time
from collections.abc import Awaitable, Callable

import psycopg
from psycopg.types.json import Jsonb

from agent_storage import Storage, sync
from agent_storage.types import NewStreamEvent

from .figures import Figure, extent

BATCH, ROUNDS = 1000, 3


async def events(conninfo: str, count: int) -> list[Figure]:
    """Events per second of each way; the events are made before the clock starts."""
    async with Storage(conninfo) as storage, await psycopg.AsyncConnection.connect(conninfo) as connection:
        ways: dict[str, Callable[[str], Awaitable[float]]] = {
            "publish_many": lambda stream: published(storage, stream, count),
            f"create_many by {BATCH:,}": lambda stream: created(storage, stream, count),
            "psycopg executemany": lambda stream: executed(connection, stream, count),
        }
        rates: dict[str, list[float]] = {by: [] for by in ways}
        for round_ in range(ROUNDS):
            for by, way in ways.items():
                stream = f"{by}, round {round_}"
                rates[by].append(count / await way(stream))
                last = await storage.stream_events.read(stream, count - 1)
                assert [event.sequence for event in last] == [count], f"{by}: {last}"
    work = f"publish {count:,} events"
    return [Figure(work, by, statistics.median(found), "per s", extent(found)) for by, found in rates.items()]


def data(number: int) -> dict[str, object]:
    """A token of an answer, as a node streams it."""
    return {"type": "token", "index": number, "text": f"word {number} ", "finished": False}


def made(stream: str, count: int) -> list[NewStreamEvent]:
    return [NewStreamEvent(stream_id=stream, node_id="answer", data=data(n)) for n in range(count)]


async def published(storage: Storage, stream: str, count: int) -> float:
    given = made(stream, count)
    started = time.perf_counter()
    await storage.stream_events.publish_many(stream, given)
    return time.perf_counter() - started


async def created(storage: Storage, stream: str, count: int) -> float:
    given = made(stream, count)
    started = time.perf_counter()
    async with storage.transaction() as tx:
        for first in range(0, count, BATCH):
            await tx.stream_events.create_many(given[first : first + BATCH])
    return time.perf_counter() - started


async def executed(connection: psycopg.AsyncConnection, stream: str, count: int) -> float:
    given = [(stream, "answer", n + 1, Jsonb(data(n))) for n in range(count)]
    started = time.perf_counter()
    async with connection.transaction(), connection.cursor() as cursor:
        await cursor.execute("INSERT INTO event_streams (stream_id, last_sequence) VALUES (%s, %s)", (stream, count))
        await cursor.executemany(
            "INSERT INTO stream_events (stream_id, node_id, sequence, data) VALUES (%s, %s, %s, %s)", given
        )
    return time.perf_counter() - started


def following(conninfo: str, followers: int, count: int) -> list[Figure]:
    """From the first of `count` events to the last; each is published when every follower has the one before."""
    work = f"{count} events, each to all followers of the stream before the next"
    ways: dict[str, Callable[[str], float]] = {
        f"{followers} tasks": lambda stream: asyncio.run(followed(conninfo, stream, followers, count)),
        f"{followers} threads": lambda stream: followed_sync(conninfo, stream, followers, count),
        "1 task": lambda stream: asyncio.run(followed(conninfo, stream, 1, count)),
    }
    found: list[Figure] = []
    for by, way in ways.items():
        took = [way(f"{by}, round {round_}") for round_ in range(ROUNDS)]
        found.append(Figure(work, by, statistics.median(took), "s", extent(took)))
    return found


async def followed(conninfo: str, stream: str, followers: int, count: int) -> float:
    async with Storage(conninfo) as storage, Storage(conninfo) as publisher:
        arrived = asyncio.Semaphore(0)

        async def follow() -> None:
            async with storage.stream_events.follow(stream) as found:
                async for event in found:
                    arrived.release()
                    if event.sequence > count:
                        return

        async def publish() -> None:
            await publisher.stream_events.publish(stream, "answer", data(0))
            for _ in range(followers):
                await arrived.acquire()

        tasks = [asyncio.create_task(follow()) for _ in range(followers)]
        await publish()
        started = time.perf_counter()
        for _ in range(count):
            await publish()
        took = time.perf_counter() - started
        await asyncio.gather(*tasks)
    return took


def followed_sync(conninfo: str, stream: str, followers: int, count: int) -> float:
    with sync.Storage(conninfo) as storage, sync.Storage(conninfo) as publisher:
        arrived = threading.Semaphore(0)

        def follow() -> None:
            with storage.stream_events.follow(stream) as found:
                for event in found:
                    arrived.release()
                    if event.sequence > count:
                        return

        def publish() -> None:
            publisher.stream_events.publish(stream, "answer", data(0))
            for _ in range(followers):
                arrived.acquire()

        running = [threading.Thread(target=follow) for _ in range(followers)]
        for one in running:
            one.start()
        publish()
        started = time.perf_counter()
        for _ in range(count):
            publish()
        took = time.perf_counter() - started
        for one in running:
            one.join()
    return took
