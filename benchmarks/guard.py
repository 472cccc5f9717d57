"""Has this package become slower, compared with psycopg's dict_row in the same run?

    python -m benchmarks.guard             quick workloads of two contenders; exit 1 when a ratio is below its bound
    python -m benchmarks.guard --only W2

Ratios, not times: they hold on another machine. On the clock, since this package spends processor time on looking for
an answer. The bounds are in `guard.json`, far below what is measured, so that a fault shows and noise does not; what
falls short is measured again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .contenders import EVERYBODY
from .measuring import create_table, measured, reference
from .serving import a_database
from .workloads import Work, works

SETTINGS = {"synchronous_commit": "off"}
BOUNDS = Path(__file__).with_suffix(".json")


def ratio(conninfo: str, work: Work, by: str) -> float:
    """How many times as fast as the reference."""
    kinds = [kind for kind in EVERYBODY if kind.name in {by, reference(work)}]
    took = {one.by: one.median for one in measured(conninfo, work, kinds)}
    return took[reference(work)] / took[by]


def guarded(conninfo: str, work: Work, bound: Mapping[str, Any]) -> bool:
    """Whether the ratio is at its bound or above, at the second attempt at the latest; prints it."""
    for _attempt in range(2):
        found = ratio(conninfo, work, bound["by"])
        good = found >= bound["least"]
        print(f"{work.key} {work.title}: {bound['by']} is {found:.2f} x {reference(work)}, at least {bound['least']}")
        if good:
            return True
    return False


def main() -> int:
    """Measure and compare; 1 when anything is below its bound."""
    bounds: dict[str, dict[str, Any]] = json.loads(BOUNDS.read_text("utf-8"))
    parser = argparse.ArgumentParser(prog="python -m benchmarks.guard", description="Ratios that must not fall.")
    parser.add_argument("--only", action="append", choices=bounds, help="this workload; may be given more than once")
    wanted = parser.parse_args()
    chosen = [work for work in works(quick=True) if work.key in (wanted.only or bounds)]
    with a_database(SETTINGS) as conninfo:
        create_table(conninfo)
        slow = [work.key for work in chosen if not guarded(conninfo, work, bounds[work.key])]
    print(f"too slow: {', '.join(slow)}" if slow else "nothing has become slower than its bound")
    return 1 if slow else 0


if __name__ == "__main__":
    raise SystemExit(main())
