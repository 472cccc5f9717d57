"""Checkpoints beside LangGraph's saver, and a chat's history beside the OpenAI Agents SDK's session.

    python -m benchmarks.histories [--rounds 7] [--json FILE]

Each keeps its own tables in one database and is used as its documentation says: AsyncPostgresSaver on psycopg's pool,
SQLAlchemySession on asyncpg. A checkpoint is a state of 20 messages; the calls of all take turns. `synchronous_commit`
is off, so that clients are measured. Contenders that are not installed are skipped by name.
"""

# pyright: reportMissingImports=false
# The contenders need not be installed.

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import psycopg_pool
from psycopg.rows import dict_row

import agent_storage
from agent_storage.types import NewCheckpoint, NewConversation, NewMessage

from .contenders.base import address
from .figures import Figure, extent, save, show
from .serving import a_database, machine

OURS, CALLS = "agent-storage", 100
TEXT = "The train leaves at half past eight from platform 4, and the next one an hour later. " * 3
#: The calls by work and contender.
Works = dict[str, dict[str, Callable[[], Awaitable[object]]]]
WORKS = ("W10 put", "W10 latest", "W10 list 10", "W11 add 3", "W11 newest 100")


def state() -> dict[str, Any]:
    """20 messages."""
    return {"messages": [{"role": "user" if n % 2 else "assistant", "content": f"{n}: {TEXT}"} for n in range(20)]}


async def ours(conninfo: str, works: Works, stack: AsyncExitStack) -> None:
    """Checkpoints and messages of this package."""
    storage = await stack.enter_async_context(agent_storage.Storage(conninfo))
    agent, chat = "agent-1", await storage.conversations.create(NewConversation(title="Trains"))

    async def put() -> object:
        return await storage.checkpoints.store(NewCheckpoint(agent_id=agent, state=state()))

    async def add() -> object:
        new = [NewMessage(conversation_id=chat.id, role="user", content=TEXT) for _ in range(3)]
        return await storage.messages.append_many(chat.id, new)

    works["W10 put"][OURS] = put
    works["W10 latest"][OURS] = lambda: storage.checkpoints.latest(agent)
    works["W10 list 10"][OURS] = lambda: storage.checkpoints.find(
        {"agent_id": agent}, order_by="-captured_at", limit=10
    )
    works["W11 add 3"][OURS] = add
    works["W11 newest 100"][OURS] = lambda: storage.messages.latest(chat.id)


async def langgraph(conninfo: str, works: Works, stack: AsyncExitStack) -> None:
    """LangGraph's saver on psycopg's pool, a channel for the messages, a new version for each checkpoint."""
    from langgraph.checkpoint.base import empty_checkpoint
    from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver

    async with await psycopg.AsyncConnection.connect(conninfo, autocommit=True) as connection:
        await connection.execute("CREATE SCHEMA langgraph")  # its table of checkpoints has the name of ours
    options = "-c search_path=langgraph"
    arguments = {"autocommit": True, "prepare_threshold": 0, "row_factory": dict_row, "options": options}
    pool: Any = psycopg_pool.AsyncConnectionPool(conninfo, max_size=10, kwargs=arguments, open=False)
    saver = AsyncPostgresSaver(await stack.enter_async_context(pool))
    await saver.setup()
    thread: Any = {"configurable": {"thread_id": "agent-1", "checkpoint_ns": ""}}
    last: list[Any] = [thread]
    version = 0

    async def put() -> object:
        nonlocal version
        version += 1
        versions = {"messages": f"{version:032}.0"}
        checkpoint: Any = {**empty_checkpoint(), "channel_values": state(), "channel_versions": versions}
        last[0] = await saver.aput(last[0], checkpoint, {"source": "loop", "step": version}, versions)
        return last[0]

    async def listed() -> object:
        return [one async for one in saver.alist(thread, limit=10)]

    works["W10 put"]["LangGraph AsyncPostgresSaver"] = put
    works["W10 latest"]["LangGraph AsyncPostgresSaver"] = lambda: saver.aget_tuple(thread)
    works["W10 list 10"]["LangGraph AsyncPostgresSaver"] = listed


async def agents(conninfo: str, works: Works, stack: AsyncExitStack) -> None:
    """The Agents SDK's session on asyncpg."""
    from agents.extensions.memory import SQLAlchemySession
    from sqlalchemy.ext.asyncio import create_async_engine

    engine = create_async_engine("postgresql+asyncpg://", connect_args=address(conninfo))
    stack.push_async_callback(engine.dispose)
    session = SQLAlchemySession(str(uuid4()), engine=engine, create_tables=True)

    async def add() -> object:
        return await session.add_items([{"role": "user", "content": TEXT} for _ in range(3)])

    works["W11 add 3"]["Agents SDK SQLAlchemySession"] = add
    works["W11 newest 100"]["Agents SDK SQLAlchemySession"] = lambda: session.get_items(limit=100)


async def measured(conninfo: str, rounds: int) -> list[Figure]:
    """Measure every work by every contender in turns. The first round warms up and inserts the rows to read."""
    works: Works = {name: {} for name in WORKS}
    async with AsyncExitStack() as stack:
        await ours(conninfo, works, stack)
        for module, peer in (("langgraph.checkpoint.postgres", langgraph), ("agents.extensions.memory", agents)):
            if find_spec(module.partition(".")[0]) is None:
                print(f"skipped: {module} is not installed")
            else:
                await peer(conninfo, works, stack)
        found: list[Figure] = []
        for name, contenders in works.items():
            async with await psycopg.AsyncConnection.connect(conninfo, autocommit=True) as connection:
                await connection.execute("ANALYZE")  # as autovacuum would have done by then
            took: dict[str, list[float]] = {by: [] for by in contenders}
            for _ in range(rounds + 1):
                for by, call in contenders.items():
                    started = time.perf_counter()
                    for _ in range(CALLS):
                        await call()
                    took[by].append((time.perf_counter() - started) / CALLS * 1e6)
            for by, times in took.items():
                found.append(Figure(name, by, statistics.median(times[1:]), "µs", extent(times[1:])))
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.histories", description="Savers and sessions.")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    wanted = parser.parse_args()
    with a_database({"synchronous_commit": "off"}) as conninfo:
        about = machine(conninfo)
        print(" · ".join(f"{name} {value}" for name, value in about.items()))
        figures = asyncio.run(measured(conninfo, wanted.rounds))
    show("Histories", figures)
    if wanted.json:
        save(wanted.json, about, figures)


if __name__ == "__main__":
    main()
