"""Where the time of one workload goes, by cProfile.

    python -m benchmarks.profile W2                                the sync face
    python -m benchmarks.profile W2 --by "agent-storage async"     another contender
    python -m benchmarks.profile W6 --sort tottime --lines 40

cProfile makes each call of a Python function dearer, so read it for its order and counts, not for microseconds.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats

import psycopg

from .contenders import Contender
from .measuring import create_table, present
from .serving import a_database
from .workloads import Seeded, Work, works

SETTINGS = {"synchronous_commit": "off"}


def profiled(conninfo: str, work: Work, kind: type[Contender]) -> pstats.Stats:
    """The second round of a work; the first one prepares its statements."""
    one = kind(conninfo)
    one.open()
    try:
        with psycopg.connect(conninfo, autocommit=True) as connection:
            seeded = Seeded(connection, work)
            one.time(work, seeded.arguments(0))
            profile = cProfile.Profile()
            profile.runcall(one.time, work, seeded.arguments(1))
    finally:
        one.close()
    return pstats.Stats(profile)


def main() -> None:
    """Profile and print."""
    kinds = {kind.name: kind for kind in present(quick=False)[0] if not kind.elsewhere}
    chosen = {work.key: work for work in works(quick=True)}
    parser = argparse.ArgumentParser(prog="python -m benchmarks.profile", description="Where the time goes.")
    parser.add_argument("work", choices=chosen)
    parser.add_argument("--by", choices=kinds, help="who does it (default: the sync face; the async one for W6)")
    parser.add_argument("--sort", choices=["cumulative", "tottime", "ncalls"], default="tottime")
    parser.add_argument("--lines", type=int, default=30, help="how many functions to list (default: 30)")
    wanted = parser.parse_args()
    work = chosen[wanted.work]
    kind = kinds[wanted.by or ("agent-storage async" if work.method == "mixed" else "agent-storage sync")]
    if work.method not in kind.methods:
        parser.error(f"{kind.name} does not take part in {work.key}")
    with a_database(SETTINGS) as conninfo:
        create_table(conninfo)
        found = profiled(conninfo, work, kind)
    print(f"{work.key} {work.title}, by {kind.name}, {work.calls} calls")
    found.strip_dirs().sort_stats(wanted.sort).print_stats(wanted.lines)


if __name__ == "__main__":
    main()
