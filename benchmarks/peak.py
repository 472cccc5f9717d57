"""The peak memory of one contender's stream, above that of the process before it; a separate process for each.

echo CONNINFO | python -m benchmarks.peak NAME     megabytes; nothing where the kernel does not say
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from .contenders import EVERYBODY, Contender
from .workloads import Work


def most() -> int | None:
    """The most memory that this process ever had, in kB (VmHWM)."""
    try:
        found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    except OSError:
        return None
    return int(found[1]) if found else None


def streamed(one: Contender) -> float | None:
    """Read it all once; what the process has grown by since it connected."""
    before = most()
    one.time(Work("", "", "stream", 1, 0, 1), [()])
    after = most()
    return None if before is None or after is None else (after - before) / 1024


def main() -> None:
    """Measure the contender of that name."""
    kind = next(kind for kind in EVERYBODY if kind.name == sys.argv[1])
    one = kind(sys.stdin.read().strip())
    one.open()
    try:
        grown = streamed(one)
    finally:
        one.close()
    print("" if grown is None else f"{grown:.1f}")


if __name__ == "__main__":
    main()
