"""Part of `benchmarks.compare`: how many times as fast as its peers this package means to be, and whether it is."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from .figures import Goal
from .measuring import Result

SYNC, ASYNC, UVLOOP = "agent-storage sync", "agent-storage async", "agent-storage async, uvloop"

#: Work, who of us, at least so many times as fast as whom.
FACTORS = (
    ("W1", SYNC, 1.8, "psycopg dict_row"),
    ("W1", ASYNC, 1.1, "asyncpg + pydantic"),
    ("W1", UVLOOP, 1.1, "asyncpg + pydantic, uvloop"),
    ("W1", SYNC, 7.0, "SQLAlchemy ORM"),
    ("W1", SYNC, 6.0, "Drizzle"),
    ("W2", SYNC, 2.0, "psycopg dict_row"),
    ("W2", SYNC, 0.5, "pgbench"),
    ("W2", ASYNC, 1.15, "asyncpg + pydantic"),
    ("W2", UVLOOP, 1.15, "asyncpg + pydantic, uvloop"),
    ("W2", SYNC, 10.0, "SQLAlchemy ORM"),
    ("W2", SYNC, 1.8, "Drizzle"),
    ("W2", SYNC, 15.0, "Prisma"),
    ("W3", SYNC, 1.35, "psycopg dict_row"),
    ("W3", SYNC, 1.8, "psycopg class_row"),
    ("W3", ASYNC, 1.0, "asyncpg + pydantic"),
    ("W3", SYNC, 2.5, "SQLAlchemy ORM"),
    ("W3", SYNC, 1.7, "Drizzle"),
    ("W3", SYNC, 4.5, "Prisma"),
    ("W4", SYNC, 0.6, "server alone"),
    ("W4", SYNC, 1.7, "SQLAlchemy ORM"),
    ("W4", SYNC, 8.0, "SQLAlchemy add_all"),
    ("W4", SYNC, 3.0, "Drizzle"),
    ("W4", SYNC, 9.0, "Prisma"),
    ("W5", SYNC, 2.0, "SQLAlchemy ORM"),
    ("W5", SYNC, 5.0, "SQLAlchemy all()"),
    ("W5", ASYNC, 1.1, "asyncpg + pydantic"),
    ("W5", SYNC, 1.4, "Drizzle"),
    ("W5", SYNC, 1.4, "Prisma"),
    ("W6", ASYNC, 5.0, "asyncpg pool + pydantic"),
    ("W6", ASYNC, 25.0, "SQLAlchemy ORM async"),
    ("W6", ASYNC, 1.0, "pgbench"),
    ("W6", ASYNC, 4.5, "Drizzle"),
    ("W6b", ASYNC, 5.0, "asyncpg pool + pydantic"),
    ("W6b", ASYNC, 25.0, "SQLAlchemy ORM async"),
    ("W6b", ASYNC, 1.0, "pgbench"),
    ("W6b", ASYNC, 4.5, "Drizzle"),
    ("W6c", ASYNC, 1.0, "asyncpg pool + pydantic"),
    ("W6d", ASYNC, 1.0, "asyncpg pool + pydantic"),
    ("W7", SYNC, 3.9, "psycopg dict_row"),
    ("W7", SYNC, 7.0, "SQLAlchemy ORM"),
    ("W7b", SYNC, 5.8, "psycopg dict_row"),
    ("W7b", ASYNC, 5.8, "asyncpg + pydantic"),
    ("W7b", SYNC, 5.8, "SQLAlchemy ORM"),
    ("W7b", SYNC, 5.8, "Django ORM"),
    ("W7b", SYNC, 5.8, "Drizzle"),
    ("W7b", SYNC, 5.8, "Prisma"),
    ("W8", SYNC, 2.2, "psycopg dict_row"),
    ("W8", SYNC, 16.0, "SQLAlchemy ORM"),
    ("W8", SYNC, 8.0, "Drizzle"),
    ("W8", SYNC, 15.0, "Prisma"),
)
STREAM_MB = 10.0
#: With many tasks at once, the slowest hundredth of our calls takes so much of the peer's at most.
SLOWEST = ("asyncpg pool + pydantic", 1 / 3)


def judged(results: Sequence[Result]) -> list[Goal]:
    """The goals for which both sides took part."""
    medians = {(one.work, one.by): one.median for one in results}
    found: list[Goal] = []
    for work, ours, factor, peer in FACTORS:
        mine, theirs = medians.get((work, ours)), medians.get((work, peer))
        if mine is not None and theirs is not None:
            found.append(Goal.least(work, f"{ours}, times as fast as {peer}", factor, theirs / mine))
    found += [
        Goal.most(one.work, f"{one.by}, MB above start", STREAM_MB, one.peak_mb)
        for one in results
        if one.by in {SYNC, ASYNC} and one.peak_mb is not None
    ]
    slowest = {one.work: one.p99_ms for one in results if one.by == SLOWEST[0]}
    for one in results:
        if one.by == ASYNC and one.p99_ms and (theirs := slowest.get(one.work)):
            what = f"{ASYNC}, p99 as a part of {SLOWEST[0]}'s"
            found.append(Goal.most(one.work, what, SLOWEST[1], one.p99_ms / theirs))
    return sorted(found, key=lambda one: one.work)


def show_goals(found: Sequence[Goal]) -> None:
    """Print them."""
    table = Table("work", "goal", "wanted", "reached", "", title="Goals", title_justify="left")
    for one in found:
        table.add_row(one.work, one.goal, f"{one.wanted:.2f}", f"{one.reached:.2f}", "met" if one.met else "not met")
    Console(width=120).print(table)
