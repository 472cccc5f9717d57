"""Part of `benchmarks.compare`: rounds in which the contenders take turns, and their results."""

from __future__ import annotations

import gc
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import psycopg
from psycopg import sql

from .contenders import EVERYBODY, ONLY_IN_FULL, POOLED_REFERENCE, REFERENCE, Contender
from .delay import delayed
from .workloads import AT_ONCE, TABLE, Seeded, Work


class Timed(NamedTuple):
    """One round: microseconds on the clock and of the client's processor time; a call's 99th percentile in seconds."""

    clock: float
    cpu: float | None
    p99: float | None


@dataclass(frozen=True)
class Result:
    """How one contender did one work: microseconds for each call (or row), the median and both ends."""

    work: str
    title: str
    by: str
    median: float
    least: float
    most: float
    #: The median of the client's own processor time.
    cpu: float | None = None
    #: How many times as fast as the reference.
    ratio: float | None = None
    peak_mb: float | None = None
    #: The median of the rounds' 99th percentiles of one call, in milliseconds.
    p99_ms: float | None = None


def present(*, quick: bool) -> tuple[list[type[Contender]], list[str]]:
    """Return the contenders that can run, and the reasons why the others cannot."""
    reasons: dict[type[Contender], str | None] = {}
    for kind in EVERYBODY:
        missing = kind.missing()
        reasons[kind] = missing and f"{missing} is not installed"
        if quick and kind in ONLY_IN_FULL:
            reasons[kind] = "not in quick runs"
    there = [kind for kind, reason in reasons.items() if reason is None]
    return there, [f"{kind.name}: {reason}" for kind, reason in reasons.items() if reason is not None]


def reference(work: Work) -> str:
    """Return the contender to which the others are compared."""
    return (POOLED_REFERENCE if work.method in AT_ONCE else REFERENCE).name


@contextmanager
def all_open(kinds: Sequence[type[Contender]], conninfo: str) -> Iterator[list[Contender]]:
    """One of each kind, connected."""
    with ExitStack() as stack:
        contenders = [kind(conninfo) for kind in kinds]
        for one in contenders:
            one.open()
            stack.callback(one.close)
        yield contenders


def create_table(conninfo: str) -> None:
    """Make the table of the benchmark."""
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute(TABLE.encode())


def measured(conninfo: str, work: Work, kinds: Sequence[type[Contender]]) -> list[Result]:
    """Every contender's times for one work. The first round warms up and does not count."""
    able = [kind for kind in kinds if work.method in kind.methods]
    times: dict[str, list[Timed]] = {kind.name: [] for kind in able}
    with (
        psycopg.connect(conninfo, autocommit=True) as connection,
        durable(connection, work.durable),
        delayed(conninfo, work.delay) as address,
        all_open(able, address) as contenders,
    ):
        seeded = Seeded(connection, work)
        for round_ in range(work.rounds + 1):
            turn = round_ % len(contenders)
            for one in contenders[turn:] + contenders[:turn]:
                times[one.name].append(timed(one, work, seeded.arguments(round_)))
    return results(work, {name: found[1:] for name, found in times.items()})


@contextmanager
def durable(connection: psycopg.Connection, wanted: bool) -> Iterator[None]:
    """New sessions wait for the disk at each commit, whatever the server's setting is."""
    database = sql.Identifier(connection.info.dbname)
    if wanted:
        connection.execute(sql.SQL("ALTER DATABASE {} SET synchronous_commit = on").format(database))
    yield
    if wanted:
        connection.execute(sql.SQL("ALTER DATABASE {} RESET synchronous_commit").format(database))


def timed(one: Contender, work: Work, arguments: Sequence[tuple[Any, ...]]) -> Timed:
    """Microseconds for each call or row: on the clock, and of the client's processor time; and the slowest calls."""
    gc.collect()
    started = time.process_time()
    seconds = one.time(work, arguments)
    used = one.cpu if one.elsewhere else time.process_time() - started
    unit = len(arguments) * work.size / 1e6
    return Timed(seconds / unit, None if used is None else used / unit, one.p99)


def results(work: Work, times: dict[str, list[Timed]]) -> list[Result]:
    """Return the results of the rounds."""
    clock = {name: [one.clock for one in found] for name, found in times.items()}
    used = {name: [one.cpu for one in found if one.cpu is not None] for name, found in times.items()}
    slowest = {name: [one.p99 * 1000 for one in found if one.p99 is not None] for name, found in times.items()}
    medians = {name: statistics.median(found) for name, found in clock.items()}
    base = medians.get(reference(work))
    return [
        Result(
            *(work.key, work.title, name, middle, min(clock[name]), max(clock[name])),
            cpu=statistics.median(used[name]) if used[name] else None,
            ratio=base and base / middle,
            p99_ms=statistics.median(slowest[name]) if slowest[name] else None,
        )
        for name, middle in medians.items()
    ]


def peak(conninfo: str, kind: type[Contender]) -> float | None:
    """Return the megabytes that streaming adds, measured in a separate process. None if it cannot be measured."""
    if kind.elsewhere:
        return None
    command = [sys.executable, "-m", "benchmarks.peak", kind.name]
    done = subprocess.run(command, input=conninfo, capture_output=True, text=True, check=True)
    return float(done.stdout) if done.stdout.strip() else None
