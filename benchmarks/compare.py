"""This package beside its peers, on one table and one server.

    python -m benchmarks.compare                      every workload
    python -m benchmarks.compare --quick              smaller workloads, fewer rounds and contenders
    python -m benchmarks.compare --only W2 --only W8  some of them
    python -m benchmarks.compare --json FILE          the figures too, as JSON

The contenders take turns in each round, so that a slow moment of the machine affects all of them; medians of rounds.
`synchronous_commit` is off, so that clients are measured and not the disk. Contenders that are not installed are
named and skipped.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from .figures import number
from .measuring import Result, create_table, measured, peak, present, reference
from .serving import a_database, machine
from .workloads import AT_ONCE, Work, works

SETTINGS = {"synchronous_commit": "off"}
#: The method whose memory is measured too.
STREAMED = "stream"


def compare(conninfo: str, chosen: Sequence[Work], *, quick: bool) -> list[Result]:
    """Every figure; prints each table as it is done."""
    create_table(conninfo)
    kinds, skipped = present(quick=quick)
    for line in skipped:
        print(f"skipped: {line}")
    found: list[Result] = []
    for work in chosen:
        results = measured(conninfo, work, kinds)
        if work.method == STREAMED and not quick:
            named = {kind.name: kind for kind in kinds}
            results = [replace(one, peak_mb=peak(conninfo, named[one.by])) for one in results]
        show(work, results)
        found += results
    return found


def show(work: Work, results: Sequence[Result]) -> None:
    """Print one work's table, the fastest first."""
    per = "row" if work.size > 1 else "call"
    headings = ("by", f"µs per {per}", "least to most", "client CPU", f"x {reference(work)}")
    table = Table(*headings, title=f"{work.key} {work.title}", title_justify="left")
    if work.method == STREAMED:
        table.add_column("peak MB above start", justify="right")
    if work.method in AT_ONCE:
        table.add_column("p99 of a call, ms", justify="right")
    for place in (1, 2, 3, 4):
        table.columns[place].justify = "right"
    for one in sorted(results, key=lambda one: one.median):
        times = (number(one.median), f"{number(one.least)} to {number(one.most)}")
        cpu = "-" if one.cpu is None else number(one.cpu)
        peaks = ("-" if one.peak_mb is None else number(one.peak_mb),) if work.method == STREAMED else ()
        slowest = ("-" if one.p99_ms is None else number(one.p99_ms),) if work.method in AT_ONCE else ()
        table.add_row(one.by, *times, cpu, "-" if one.ratio is None else f"{one.ratio:.2f}", *peaks, *slowest)
    Console(width=120).print(table)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare", description="This package and its peers.")
    keys = [work.key for work in works(quick=True)]
    parser.add_argument("--quick", action="store_true", help="smaller workloads, fewer rounds and contenders")
    parser.add_argument("--only", action="append", choices=keys, help="this workload; may be given more than once")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    wanted = parser.parse_args()
    chosen = [work for work in works(quick=wanted.quick) if work.key in (wanted.only or keys)]
    with a_database(SETTINGS) as conninfo:
        about = machine(conninfo)
        print(" · ".join(f"{name} {value}" for name, value in about.items()))
        found = compare(conninfo, chosen, quick=wanted.quick)
    if wanted.json:
        document = {"machine": about, "results": [asdict(one) for one in found]}
        wanted.json.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", "utf-8")


if __name__ == "__main__":
    main()
