"""Run the load under random faults, and print what it came to.

    python -m tests.soak --minutes 10             faults at random, invariants checked every 5 s, and at rest each 30 s
    python -m tests.soak --each --seconds 10      each kind of fault by itself: errors, recovery, acknowledged, lost
    python -m tests.soak --json FILE --seed 7     the figures too, as JSON; the same choices of faults

Ends with 1 if anything contradicts what callers were told. `make soak MINUTES=10` runs the first.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import psycopg

from agent_storage import Storage, sync
from agent_storage.embedded import EmbeddedServer
from agent_storage.migrations.migrator import Migrator

from ..database.test_storm import driven
from ..database.test_whole_or_nothing import Waited
from ..faults.proxy import Proxy
from .chaos import Chaos
from .invariants import always, at_rest
from .load import Journal, Shared, Worker, follow, prepare

#: Workers on the storage with shared connections, on the one without, and on the sync face.
TASKS = (16, 8, 4)
#: How long a round is; after it the workers come to rest, and what they were told is compared.
ROUND = 30.0
#: The tables that the load writes to; those that refer to them are emptied too.
WRITTEN = ("conversations", "event_streams", "stream_events", "budget_pools", "sessions", "projects", "checkpoints")
WRITTEN += ("workflow_sessions", "boards")
#: A worker that has not ended so many seconds after its round hangs.
PATIENCE = 90.0


class Soak:
    """A server, a proxy for each storage, and the rounds that ran."""

    def __init__(self, server: EmbeddedServer, conninfo: str, seed: int) -> None:
        self.conninfo = conninfo
        self.seed = seed
        self.proxies = [Proxy(conninfo) for _ in TASKS]
        self.chaos = Chaos(server, conninfo, self.proxies, seed)
        self.acknowledged = self.lost = self.rounds = self.checks = 0
        self.faults: list[str] = []
        self.errors: Counter[str] = Counter()
        self.outcomes: Counter[str] = Counter()
        self.injected: Counter[str] = Counter()
        self.recovered: dict[str, list[float]] = {}

    async def round(self, seconds: float, fault: str | None = None, pause: float = 2.0) -> Journal:
        """Run the load for so long, under random faults or one kind of fault, and compare at rest."""
        self.rounds += 1
        journal, over = Journal(), False
        limits: dict[str, Any] = {"statement_timeout": 2.0, "pool_timeout": 5.0}
        urls = [psycopg.conninfo.make_conninfo(proxy.conninfo, connect_timeout="2") for proxy in self.proxies]
        with sync.Storage(urls[2], pool_max=6, application_name="soak sync", **limits) as threads:
            async with AsyncExitStack() as stack:
                many = await stack.enter_async_context(
                    Storage(urls[0], listen_url=self.conninfo, application_name="soak shared", **limits)
                )
                pool = await stack.enter_async_context(
                    Storage(urls[1], multiplex=0, application_name="soak pool", **limits)
                )
                shared = await prepare(many)
                seen: dict[str, list[int]] = {stream: [] for stream in shared.streams}
                workers = self._workers([many, pool, Waited(threads)], shared, journal, lambda: over)
                reading = False
                followers = [
                    asyncio.create_task(follow(many, stream, journal, lambda: reading, numbers))
                    for stream, numbers in seen.items()
                ]
                await self._faults(journal, seconds, fault, pause)
                over = True
                _, hanging = await asyncio.wait(workers, timeout=PATIENCE)
                journal.faults += [f"a worker hangs: {task}" for task in hanging]
                await self._until_followed(seen)
                reading = True
                await asyncio.wait(followers, timeout=PATIENCE)
        found, lost = await asyncio.to_thread(at_rest, self.conninfo, journal, shared, seen)
        self.faults += journal.faults + found
        self.lost += lost
        self.acknowledged += journal.acknowledged
        self.errors += journal.errors
        self.outcomes += journal.outcomes
        await asyncio.to_thread(self._clear)
        return journal

    def _workers(self, storages: list[Any], shared: Shared, journal: Journal, over: Any) -> list[asyncio.Future[None]]:
        loop = asyncio.get_running_loop()
        made: list[asyncio.Future[None]] = []
        for kind, (storage, number) in enumerate(zip(storages, TASKS, strict=True)):
            for n in range(number):
                worker = Worker(storage, shared, journal, hash((self.seed, self.rounds, kind, n)), over)
                if worker.waits:
                    made.append(loop.run_in_executor(None, driven, worker.run()))
                else:
                    made.append(asyncio.create_task(worker.run()))
        return made

    async def _faults(self, journal: Journal, seconds: float, fault: str | None, pause: float) -> None:
        chance = random.Random(self.seed + self.rounds)
        end = time.monotonic() + seconds
        checked = time.monotonic()
        await asyncio.sleep(min(1.0, seconds / 4))
        while time.monotonic() < end:
            name, ended = await asyncio.to_thread(self.chaos.inject, fault)
            self.injected[name] += 1
            acknowledged = journal.acknowledged
            while journal.acknowledged - acknowledged < 3 and time.monotonic() - ended < PATIENCE:
                await asyncio.sleep(0.005)
            self.recovered.setdefault(name, []).append(time.monotonic() - ended)
            await asyncio.sleep(chance.uniform(0.1, pause))
            if time.monotonic() - checked > 5:
                checked = time.monotonic()
                try:
                    self.faults += await asyncio.to_thread(always, self.conninfo)
                    self.checks += 1
                except psycopg.Error:
                    self.errors["the check met a fault"] += 1

    async def _until_followed(self, seen: dict[str, list[int]]) -> None:
        """Wait until the followers have seen the last event."""

        def last() -> dict[str, int]:
            with psycopg.connect(self.conninfo) as connection:
                return dict(connection.execute("SELECT stream_id, last_sequence FROM event_streams").fetchall())

        ends = await asyncio.to_thread(last)
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            if all(len(numbers) >= ends.get(stream, 0) for stream, numbers in seen.items()):
                return
            await asyncio.sleep(0.05)

    def _clear(self) -> None:
        """Remove the rows of the round, so that the checks stay fast."""
        with psycopg.connect(self.conninfo, autocommit=True) as connection:
            connection.execute(f"TRUNCATE {', '.join(WRITTEN)} CASCADE".encode())

    def figures(self) -> dict[str, Any]:
        """Return what it came to."""
        return {
            "rounds": self.rounds,
            "checks": self.checks + self.rounds,
            "acknowledged": self.acknowledged,
            "lost": self.lost,
            "faults injected": dict(self.injected.most_common()),
            "errors that callers saw": dict(self.errors.most_common()),
            "outcomes of errors": dict(self.outcomes.most_common()),
            "recovery in seconds, median and longest": {
                name: [round(statistics.median(found), 2), round(max(found), 2)]
                for name, found in self.recovered.items()
            },
            "contradictions": self.faults[:20],
        }


async def soak(seconds: float, seed: int, *, each: bool = False) -> dict[str, Any]:
    """Run for so long on an embedded server that begins empty. Return figures; with `each`, those of each fault."""
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(32))
    with tempfile.TemporaryDirectory(prefix="storage-soak-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o755)  # as root, the server runs under another account
        with EmbeddedServer(folder / "server") as server:  # durable, as it comes
            conninfo = server.conninfo("soak")
            Migrator(conninfo).up()
            whole = Soak(server, conninfo, seed)
            if each:
                table: dict[str, Any] = {}
                for fault in whole.chaos.faults:
                    one = Soak(server, conninfo, seed)
                    await one.round(seconds, fault)
                    table[fault] = one.figures()
                    _say_one(fault, table[fault])
                return table
            end = time.monotonic() + seconds
            while (left := end - time.monotonic()) > 1 and not whole.faults:
                await whole.round(min(ROUND, left))
                print(f"round {whole.rounds}: {whole.acknowledged:,} acknowledged, {whole.lost} lost", file=sys.stderr)  # noqa: T201
            return whole.figures()


def _say_one(fault: str, figures: dict[str, Any]) -> None:
    recovery = figures["recovery in seconds, median and longest"].get(fault, ["", ""])
    errors = ", ".join(f"{name} {number}" for name, number in figures["errors that callers saw"].items())
    row = (fault, errors, f"{recovery[0]} / {recovery[1]}", f"{figures['acknowledged']:,}", figures["lost"])
    print(f"| {' | '.join(map(str, row))} |", flush=True)  # noqa: T201
    for line in figures["contradictions"]:
        print(f"  contradiction: {line}")  # noqa: T201


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description="A mixed load under random faults.")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seconds", type=float, help="instead of minutes; with --each, for each fault")
    parser.add_argument("--each", action="store_true", help="each kind of fault by itself")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--json", type=Path, metavar="FILE")
    given = parser.parse_args()
    print(f"seed {given.seed}", flush=True)  # noqa: T201
    logging.disable(logging.CRITICAL)  # lost connections are what this is about
    seconds = given.seconds or (10.0 if given.each else given.minutes * 60)
    figures = asyncio.run(soak(seconds, given.seed, each=given.each))
    if given.json:
        given.json.write_text(json.dumps(figures, indent=2) + "\n")
    if not given.each:
        print(json.dumps(figures, indent=2))  # noqa: T201
    parts = figures.values() if given.each else [figures]
    return int(any(part["contradictions"] or part["lost"] for part in parts))


if __name__ == "__main__":
    raise SystemExit(main())
