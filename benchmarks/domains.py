"""Measure the domains: budgets under concurrency, bulk events, followers, short ids, approvals.

python -m benchmarks.domains               on a separate embedded server, with its usual settings
python -m benchmarks.domains --quick       the same with fewer rows
python -m benchmarks.domains --json FILE   the figures too, as JSON
"""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

from agent_storage.demo import seed_demo
from agent_storage.sync import Storage

from .approvals import approvals
from .budgets import budgets
from .events import events, following
from .figures import Figure, save, show
from .serving import a_database, machine
from .short_ids import short_ids


def measure(conninfo: str, *, quick: bool) -> list[Figure]:
    """Every figure; sums of a tree of budgets that do not agree end the run."""
    found = asyncio.run(budgets(conninfo, 300 if quick else 2000))
    found += asyncio.run(events(conninfo, 10_000 if quick else 100_000))
    found += following(conninfo, 50 if quick else 200, 100 if quick else 300)
    found += asyncio.run(approvals(conninfo, 20 if quick else 100))
    return found + short_ids(conninfo, 50_000 if quick else 1_000_000, 20 if quick else 100)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.domains", description="The domains measured.")
    parser.add_argument("--quick", action="store_true", help="fewer rows; for a first look")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    wanted = parser.parse_args()
    with a_database() as conninfo:
        about = machine(conninfo)
        with Storage(conninfo) as storage:
            seed_demo(storage, scale=1 if wanted.quick else 10)  # no table is empty, as in life
        found = measure(conninfo, quick=wanted.quick)
    show(" · ".join(f"{name} {value}" for name, value in about.items()), found)
    if wanted.json:
        save(wanted.json, about, found)


if __name__ == "__main__":
    main()
