"""Far more callers than connections: each is served, and in turn."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from typing import Any

from agent_storage import Storage, sync
from agent_storage.types import NewBoard

COUNT = 2000


async def test_two_thousand_of_each_kind_at_once_are_all_done_once_and_in_turn(migrated: str) -> None:
    served: dict[str, list[int]] = {"transaction": [], "batch": [], "write": []}

    async with Storage(migrated, pool_timeout=300) as storage:

        async def transaction(number: int) -> None:
            async with storage.transaction() as tx:
                served["transaction"].append(number)
                await tx.boards.create(NewBoard(name="n", slug=f"transaction {number}"))

        async def batch(number: int) -> None:
            async with storage.batch() as asked:
                asked.add(asked.boards.create, NewBoard(name="n", slug=f"batch {number}"))
            served["batch"].append(number)

        async def write(number: int) -> None:
            await storage.boards.create(NewBoard(name="n", slug=f"write {number}"))
            served["write"].append(number)

        calls: list[Any] = [kind(number) for number in range(COUNT) for kind in (transaction, batch, write)]
        ended = Counter(type(one) for one in await asyncio.gather(*calls, return_exceptions=True))
        assert ended == {type(None): 3 * COUNT}
        assert await storage.boards.count() == 3 * COUNT
    for kind in ("transaction", "batch"):
        assert sorted(served[kind]) == list(range(COUNT))
        # in the order of the calls, but for those that are on the ten connections at the same time
        assert max(abs(place - number) for place, number in enumerate(served[kind])) <= 100, kind


def test_two_hundred_threads_are_all_served_and_alike(migrated: str) -> None:
    done = Counter[int]()
    with sync.Storage(migrated, pool_timeout=300) as storage:

        def work(number: int) -> None:
            for turn in range(5):
                with storage.transaction() as tx:
                    tx.boards.create(NewBoard(name="n", slug=f"{number} {turn}"))
                with storage.batch() as asked:
                    asked.add(asked.boards.create, NewBoard(name="n", slug=f"batch {number} {turn}"))
                storage.boards.create(NewBoard(name="n", slug=f"write {number} {turn}"))
                done[number] += 3

        threads = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(200)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(300)
        assert done == dict.fromkeys(range(200), 15)
        assert storage.boards.count() == 3000
