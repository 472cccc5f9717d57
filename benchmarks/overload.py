"""Measure overload: far more callers at once than connections, each calling again as soon as its call has ended.

    python -m benchmarks.overload [--tasks 2000] [--threads 200] [--seconds 8] [--json FILE]

Prints the rate, the longest call, how many calls each caller has made, and the memory of a call that waits. Exits with
1 if a call was refused or a caller was starved.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import sys
import threading
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psycopg

from agent_storage import Storage, StorageError, sync
from agent_storage.types import NewBoard

from .figures import Figure, percentile, save, show
from .serving import a_database, machine

KINDS = ("transaction", "batch", "single write")


@dataclass
class Caller:
    """One caller: the calls that succeeded, the durations of all, and the errors."""

    kind: str
    number: int
    done: int = 0
    took: list[float] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)

    def new(self) -> NewBoard:
        """The row of its next call."""
        return NewBoard(name="overload", slug=f"{self.kind} {self.number} {len(self.took)} {time.monotonic_ns()}")

    def ended(self, started: float, error: StorageError | None = None) -> None:
        """Record the end of a call."""
        self.took.append(time.perf_counter() - started)
        if error is None:
            self.done += 1
        else:
            self.refused[type(error).__name__] += 1


async def call(storage: Storage, caller: Caller) -> None:
    """Make the call of a caller."""
    if caller.kind == "transaction":
        async with storage.transaction() as tx:
            board = await tx.boards.create(caller.new())
            await tx.boards.update(board.id, name="changed")
    elif caller.kind == "batch":
        async with storage.batch() as batch:
            for _ in range(2):
                batch.add(batch.boards.create, caller.new())
    else:
        await storage.boards.create(caller.new())


def call_sync(storage: sync.Storage, caller: Caller) -> None:
    """The same in a thread."""
    if caller.kind == "transaction":
        with storage.transaction() as tx:
            board = tx.boards.create(caller.new())
            tx.boards.update(board.id, name="changed")
    elif caller.kind == "batch":
        with storage.batch() as batch:
            for _ in range(2):
                batch.add(batch.boards.create, caller.new())
    else:
        storage.boards.create(caller.new())


async def tasks(conninfo: str, callers: Sequence[Caller], seconds: float) -> None:
    """Let every caller call until the time is over."""
    async with Storage(conninfo) as storage:
        for kind in KINDS:
            await call(storage, Caller(kind, -1))  # the statements are known
        end = time.perf_counter() + seconds

        async def loop(caller: Caller) -> None:
            while (started := time.perf_counter()) < end:
                try:
                    await call(storage, caller)
                    caller.ended(started)
                except StorageError as error:
                    caller.ended(started, error)

        await asyncio.gather(*(loop(caller) for caller in callers))


def threads(conninfo: str, callers: Sequence[Caller], seconds: float) -> None:
    """The same on the sync face."""
    with sync.Storage(conninfo) as storage:
        end = time.perf_counter() + seconds

        def loop(caller: Caller) -> None:
            while (started := time.perf_counter()) < end:
                try:
                    call_sync(storage, caller)
                    caller.ended(started)
                except StorageError as error:
                    caller.ended(started, error)

        running = [threading.Thread(target=loop, args=(caller,)) for caller in callers]
        for one in running:
            one.start()
        for one in running:
            one.join()


def figures(work: str, callers: Sequence[Caller], elapsed: float) -> list[Figure]:
    """The figures of one run."""
    took = [one for caller in callers for one in caller.took]
    found: list[Figure] = []
    for kind in dict.fromkeys(caller.kind for caller in callers):
        ours = [caller for caller in callers if caller.kind == kind]
        done = [caller.done for caller in ours]
        refused = sum((caller.refused for caller in ours), Counter[str]())
        note = (
            f"each caller {min(done)} to {max(done)}; {sum(not one for one in done)} starved, {refused.total()} refused"
        )
        found.append(Figure(work, kind, sum(done) / elapsed, "per s", note))
    longest = f"p99 {percentile(took, 0.99):.2f} s, median {percentile(took, 0.5):.2f} s"
    found.append(Figure(work, "longest call", max(took), "s", longest))
    return found


def faults(callers: Sequence[Caller]) -> list[str]:
    """The callers that were refused or never succeeded."""
    return [
        f"{caller.kind} {caller.number}: {caller.done} done, {dict(caller.refused)}"
        for caller in callers
        if caller.refused or not caller.done
    ]


async def memory(conninfo: str, kind: str, count: int) -> float:
    """Return the bytes that Python allocates for a task and its call, which waits; a task alone is about 2 kB of it."""
    async with Storage(conninfo, pool_timeout=60) as storage:
        for _ in range(3):
            await call(storage, Caller(kind, -1))
        blocker = await psycopg.AsyncConnection.connect(conninfo)
        await blocker.execute("LOCK TABLE boards IN ACCESS EXCLUSIVE MODE")
        first = [asyncio.create_task(call(storage, Caller(kind, -2))) for _ in range(200)]
        await asyncio.sleep(1)  # every connection is busy
        gc.collect()
        tracemalloc.start()
        callers = [Caller(kind, number) for number in range(count)]
        before = tracemalloc.get_traced_memory()[0]
        waiting = [asyncio.create_task(call(storage, caller)) for caller in callers]
        await asyncio.sleep(0.5)
        gc.collect()
        used = (tracemalloc.get_traced_memory()[0] - before) / count
        tracemalloc.stop()
        await blocker.close()
        await asyncio.gather(*first, *waiting)
    return used


def measure(conninfo: str, wanted: argparse.Namespace) -> tuple[list[Figure], list[str]]:
    """Every figure, and the faults."""
    found: list[Figure] = []
    wrong: list[str] = []

    def run(work: str, kinds: Sequence[str], count: int, calling: Callable[[Sequence[Caller]], object]) -> None:
        callers = [Caller(kind, number) for number in range(count) for kind in kinds]
        started = time.perf_counter()
        calling(callers)
        found.extend(figures(work, callers, time.perf_counter() - started))
        wrong.extend(faults(callers))

    def on_tasks(callers: Sequence[Caller]) -> object:
        return asyncio.run(tasks(conninfo, callers, wanted.seconds))

    many = f"{wanted.tasks:,} tasks"
    for kind in KINDS:
        run(f"{many}, one kind at a time", [kind], wanted.tasks, on_tasks)
    run(f"{many} of each kind", KINDS, wanted.tasks, on_tasks)
    run(
        f"{wanted.threads} threads of each kind",
        KINDS,
        wanted.threads,
        lambda callers: threads(conninfo, callers, wanted.seconds),
    )
    for kind in KINDS:
        used = asyncio.run(memory(conninfo, kind, wanted.tasks)) / 1024
        found.append(Figure("memory of a task and its call that waits", kind, used, "kB", f"of {wanted.tasks:,}"))
    return found, wrong


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overload", description="Overload.")
    parser.add_argument("--tasks", type=int, default=2000)
    parser.add_argument("--threads", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    wanted = parser.parse_args()
    with a_database() as conninfo:
        about = machine(conninfo)
        found, wrong = measure(conninfo, wanted)
    show(" · ".join(f"{name} {value}" for name, value in about.items()), found)
    if wanted.json:
        save(wanted.json, about, found)
    if wrong:
        sys.exit("\n".join([f"{len(wrong)} callers were refused or starved:", *wrong[:10]]))


if __name__ == "__main__":
    main()
