"""Measure the time to import the package, to start its command, and to create the first database.

    python -m benchmarks.startup [--rounds 11] [--json FILE]

Each in a separate process, as a shell starts it, including the start of Python, which is shown for comparison. Fails if
importing the package imports a framework.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from .figures import Figure, extent, save, show
from .serving import platform

FRAMEWORKS = ("agents", "django", "fastapi", "langgraph", "psycopg", "rich", "sqlalchemy", "sqlmodel", "typer", "yoyo")
PYTHON, STORAGE = sys.executable, str(Path(sys.executable).with_name("storage"))
STARTED: dict[str, list[str]] = {
    "python": [PYTHON, "-c", ""],
    "import agent_storage": [PYTHON, "-c", "import agent_storage"],
    "from agent_storage import Storage": [PYTHON, "-c", "from agent_storage import Storage"],
    "storage --help": [STORAGE, "--help"],
}
FIRST, LATER = "storage migrate up, the first", "storage migrate up, later"


def seconds(command: Sequence[str], environment: Mapping[str, str]) -> float:
    """Return the duration of a process."""
    started = time.perf_counter()
    subprocess.run(command, env=environment, capture_output=True, check=True)
    return time.perf_counter() - started


def figure(work: str, took: Sequence[float]) -> Figure:
    """Its median."""
    times = [one * 1000 for one in took]
    return Figure(work, "a process", statistics.median(times), "ms", extent(times))


def unasked() -> list[str]:
    """The frameworks that importing the package brings."""
    text = f"import sys, agent_storage; print(*[name for name in {FRAMEWORKS!r} if name in sys.modules])"
    return subprocess.run([PYTHON, "-c", text], capture_output=True, text=True, check=True).stdout.split()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.startup", description="Importing and starting.")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    wanted = parser.parse_args()
    took: dict[str, list[float]] = {name: [] for name in STARTED}
    for _ in range(wanted.rounds):
        for name, command in STARTED.items():
            took[name].append(seconds(command, os.environ))
    figures = [figure(name, times) for name, times in took.items()]
    with tempfile.TemporaryDirectory(prefix="storage-bench-") as folder:
        Path(folder).chmod(0o755)  # as root, the server runs under another account
        environment = {name: text for name, text in os.environ.items() if name != "STORAGE_DATABASE_URL"}
        environment["STORAGE_DATA_DIR"] = str(Path(folder) / "data")
        up = [STORAGE, "migrate", "up"]
        figures.append(figure(FIRST, [seconds(up, environment)]))
        figures.append(figure(LATER, [seconds(up, environment) for _ in range(5)]))
    show("Start-up", figures)
    if wanted.json:
        save(wanted.json, platform(), figures)
    if brought := unasked():
        sys.exit(f"import agent_storage brings {', '.join(brought)}")


if __name__ == "__main__":
    main()
