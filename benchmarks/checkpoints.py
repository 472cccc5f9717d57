"""Checkpoints in PostgreSQL, SQLite and MariaDB beside LangGraph's SqliteSaver and PostgresSaver, on the sync face.

    python -m benchmarks.checkpoints [--rounds 7] [--json FILE]

A checkpoint is a state of 20 messages; put, latest and list 10, of one agent. The calls of all take turns. Servers and
files are durable: each put is on the disk when it returns (SQLite: WAL, synchronous full, which both use). A contender
that is not installed is skipped by name. LangGraph's lists contain the states, ours do not.
"""

# pyright: reportMissingImports=false, reportUnknownVariableType=false, reportUnknownMemberType=false
# The contenders need not be installed.

from __future__ import annotations

import argparse
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psycopg
from psycopg.rows import dict_row
from tests.adapters.checkpoints import mariadb

from agent_storage.sync.adapters.checkpoints import checkpoint_provider
from agent_storage.types import NewCheckpoint

from .figures import Figure, extent, save, show
from .histories import state
from .serving import a_database, machine

CALLS = 50
WORKS = ("put", "latest", "list 10")
#: The calls by work and contender.
Works = dict[str, dict[str, Callable[[], object]]]


def ours(name: str, url: str, works: Works, stack: ExitStack) -> None:
    """A provider of this package."""
    provider = stack.enter_context(checkpoint_provider(url))
    works["put"][name] = lambda: provider.store_checkpoint(NewCheckpoint(agent_id="agent-1", state=state()))
    works["latest"][name] = lambda: provider.latest_checkpoint("agent-1")
    works["list 10"][name] = lambda: provider.list_checkpoints("agent-1", limit=10)


def saver(name: str, made: Any, works: Works) -> None:
    """A saver of LangGraph: a channel for the messages, a new version for each checkpoint."""
    from langgraph.checkpoint.base import empty_checkpoint

    thread: Any = {"configurable": {"thread_id": "agent-1", "checkpoint_ns": ""}}
    last: list[Any] = [thread]
    version = 0

    def put() -> object:
        nonlocal version
        version += 1
        versions = {"messages": f"{version:032}.0"}
        checkpoint: Any = {**empty_checkpoint(), "channel_values": state(), "channel_versions": versions}
        last[0] = made.put(last[0], checkpoint, {"source": "loop", "step": version}, versions)
        return last[0]

    works["put"][name] = put
    works["latest"][name] = lambda: made.get_tuple(thread)
    works["list 10"][name] = lambda: list(made.list(thread, limit=10))


def contenders(conninfo: str, folder: Path, works: Works, stack: ExitStack) -> None:
    """Open all that are installed."""
    ours("agent-storage, PostgreSQL", conninfo, works, stack)
    ours("agent-storage, SQLite", f"sqlite:///{folder / 'ours.db'}", works, stack)
    if missing := mariadb.missing():
        print(f"skipped: agent-storage, MariaDB: {missing} is not installed")
    elif find_spec("pymysql") is None:
        print("skipped: agent-storage, MariaDB: PyMySQL is not installed")
    else:
        ours("agent-storage, MariaDB", stack.enter_context(mariadb.server(fast=False)), works, stack)
    if find_spec("langgraph") is None:
        print("skipped: langgraph is not installed")
        return
    if find_spec("langgraph.checkpoint.postgres") is not None:
        from langgraph.checkpoint.postgres import PostgresSaver

        with psycopg.connect(conninfo, autocommit=True) as connection:
            connection.execute("CREATE SCHEMA langgraph")
        options: Any = {"row_factory": dict_row, "prepare_threshold": 0, "options": "-c search_path=langgraph"}
        made = PostgresSaver(stack.enter_context(psycopg.connect(conninfo, autocommit=True, **options)))
        made.setup()
        saver("LangGraph PostgresSaver", made, works)
    if find_spec("langgraph.checkpoint.sqlite") is not None:
        from langgraph.checkpoint.sqlite import SqliteSaver

        connection = sqlite3.connect(folder / "langgraph.db", check_same_thread=False)
        stack.callback(connection.close)
        saver("LangGraph SqliteSaver", SqliteSaver(connection), works)


def measured(conninfo: str, rounds: int) -> list[Figure]:
    """Measure every work by every contender in turns. The first round warms up."""
    works: Works = {name: {} for name in WORKS}
    found: list[Figure] = []
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        contenders(conninfo, Path(folder), works, stack)
        for name, calls in works.items():
            with psycopg.connect(conninfo, autocommit=True) as connection:
                connection.execute("ANALYZE")  # as autovacuum would have done by then
            took: dict[str, list[float]] = {by: [] for by in calls}
            for _ in range(rounds + 1):
                for by, call in calls.items():
                    started = time.perf_counter()
                    for _ in range(CALLS):
                        call()
                    took[by].append((time.perf_counter() - started) / CALLS * 1e6)
            for by, times in took.items():
                found.append(Figure(name, by, statistics.median(times[1:]), "µs", extent(times[1:])))
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.checkpoints", description="Checkpoints and savers.")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    wanted = parser.parse_args()
    with a_database({}) as conninfo:
        about = machine(conninfo)
        print(" · ".join(f"{name} {value}" for name, value in about.items()))
        figures = measured(conninfo, wanted.rounds)
    show("Checkpoints", figures)
    if wanted.json:
        save(wanted.json, about, figures)


if __name__ == "__main__":
    main()
