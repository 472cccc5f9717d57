"""Part of `benchmarks.compare`: rounds in which the contenders take turns, and what comes of them."""

from __future__ import annotations

import gc
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg

from .contenders import EVERYBODY, POOLED_REFERENCE, REFERENCE, Contender
from .workloads import TABLE, Seeded, Work

#: Whose work is done in another process.
ELSEWHERE = frozenset({"pgbench"})


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


def present() -> tuple[list[type[Contender]], list[str]]:
    """Who can take part, and the others with what they miss."""
    missing = {kind: kind.missing() for kind in EVERYBODY}
    there = [kind for kind, name in missing.items() if name is None]
    return there, [f"{kind.name}: {name} is not installed" for kind, name in missing.items() if name is not None]


def reference(work: Work) -> str:
    """The contender that the others are divided by."""
    return (POOLED_REFERENCE if work.method == "mixed" else REFERENCE).name


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
    times: dict[str, list[tuple[float, float]]] = {kind.name: [] for kind in able}
    with psycopg.connect(conninfo, autocommit=True) as connection, all_open(able, conninfo) as contenders:
        seeded = Seeded(connection, work)
        for round_ in range(work.rounds + 1):
            turn = round_ % len(contenders)
            for one in contenders[turn:] + contenders[:turn]:
                times[one.name].append(timed(one, work, seeded.arguments(round_)))
    return results(work, {name: found[1:] for name, found in times.items()})


def timed(one: Contender, work: Work, arguments: Sequence[tuple[Any, ...]]) -> tuple[float, float]:
    """Microseconds for each call or row: on the clock, and of this process's processor time."""
    gc.collect()
    started = time.process_time()
    seconds = one.time(work, arguments)
    used = time.process_time() - started
    unit = len(arguments) * work.size / 1e6
    return seconds / unit, used / unit


def results(work: Work, times: dict[str, list[tuple[float, float]]]) -> list[Result]:
    """What the rounds come to."""
    clock = {name: [pair[0] for pair in found] for name, found in times.items()}
    used = {name: statistics.median(pair[1] for pair in found) for name, found in times.items()}
    medians = {name: statistics.median(found) for name, found in clock.items()}
    base = medians.get(reference(work))
    return [
        Result(
            *(work.key, work.title, name, middle, min(clock[name]), max(clock[name])),
            cpu=None if name in ELSEWHERE else used[name],
            ratio=base and base / middle,
        )
        for name, middle in medians.items()
    ]


def peak(conninfo: str, kind: type[Contender]) -> float | None:
    """Megabytes above the start that streaming takes, in a process of its own; None where the kernel does not say."""
    command = [sys.executable, "-m", "benchmarks.peak", kind.name]
    done = subprocess.run(command, input=conninfo, capture_output=True, text=True, check=True)
    return float(done.stdout) if done.stdout.strip() else None
