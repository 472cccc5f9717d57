"""What the domains promise, measured: budgets, streams, short ids, approvals.

    python -m benchmarks.domains                       all four, on an embedded server of its own
    python -m benchmarks.domains --only budgets        one of them: budgets, streams, ids, approvals
    python -m benchmarks.domains --quick               a tenth of the work
    python -m benchmarks.domains --json FILE           the numbers too, as JSON

Each beside the way a service would do it by hand on psycopg, on the same server in the same run.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
from psycopg.types.json import Jsonb
from psycopg_pool import AsyncConnectionPool
from rich.console import Console
from rich.table import Table

from agent_storage import BudgetExceeded, Storage, sync
from agent_storage.connection.embedded import EmbeddedServer
from agent_storage.ids import prefix_range
from agent_storage.migrations.manager import Migrator
from agent_storage.seeding import seed_demo
from agent_storage.types import NewApprovalRequest, NewBudgetPool, NewStreamEvent, NewWorkflow

Row = dict[str, Any]


# ---- budgets: spends a second on a tree of three levels ------------------------------------------------------------


async def budgets(storage: Storage, scale: float) -> list[Row]:
    """Ours beside a transaction that locks row by row, from the leaf to the root, as a service would write it."""
    rows: list[Row] = []
    async with AsyncConnectionPool(storage.database.conninfo, min_size=20, max_size=20) as pool:
        for spenders in (1, 50, 200):
            for name, spend in (("spend()", _ours(storage)), ("SELECT … FOR UPDATE by hand", _by_hand(pool))):
                root, leaves = await _tree(storage)
                spends = max(spenders, int(2000 * scale))
                seconds, granted = await _race(leaves, spenders, spends, spend)
                pools = {item.id: item for item in await storage.budget_pools.subtree(root)}
                assert pools[root].used_budget == granted, "the sums must agree to the cent"
                rows.append(
                    {"work": f"{spenders} spenders", "way": name, "value": spends / seconds, "unit": "spends/s"}
                )
    return rows


async def _tree(storage: Storage) -> tuple[UUID, list[UUID]]:
    async def pool(parent: UUID | None) -> UUID:
        new = NewBudgetPool(parent_pool_id=parent, total_budget=Decimal(10_000_000))
        return (await storage.budget_pools.create(new)).id

    root = await pool(None)
    middles = [await pool(root) for _ in range(3)]
    return root, [await pool(middle) for middle in middles for _ in range(3)]


Spend = Callable[[UUID, Decimal], Awaitable[None]]


async def _race(leaves: list[UUID], spenders: int, spends: int, spend: Spend) -> tuple[float, Decimal]:
    dice, granted = random.Random(1), Decimal(0)
    asked = [(dice.choice(leaves), Decimal(dice.randint(1, 500)) / 100) for _ in range(spends)]

    async def work(mine: list[tuple[UUID, Decimal]]) -> Decimal:
        for leaf, amount in mine:
            await spend(leaf, amount)
        return sum((amount for _, amount in mine), Decimal(0))

    started = time.perf_counter()
    for amount in await asyncio.gather(*(work(asked[n::spenders]) for n in range(spenders))):
        granted += amount
    return time.perf_counter() - started, granted


def _ours(storage: Storage) -> Spend:
    async def spend(leaf: UUID, amount: Decimal) -> None:
        await storage.budget_pools.spend(leaf, amount)

    return spend


def _by_hand(pool: AsyncConnectionPool[Any]) -> Spend:
    async def spend(leaf: UUID, amount: Decimal) -> None:
        async with pool.connection() as connection:
            at: UUID | None = leaf
            while at is not None:
                query = "SELECT parent_pool_id, total_budget - used_budget FROM budget_pools WHERE id = %s FOR UPDATE"
                found = await (await connection.execute(query, (at,))).fetchone()
                if found is None or found[1] < amount:
                    raise BudgetExceeded("short", pool_id=at, remaining=found[1] if found else Decimal(0))
                update = "UPDATE budget_pools SET used_budget = used_budget + %s WHERE id = %s"
                await connection.execute(update, (amount, at))
                at = found[0]

    return spend


# ---- streams: many events at once ----------------------------------------------------------------------------------


async def streams(storage: Storage, scale: float) -> list[Row]:
    """COPY beside statements of 1,000 rows and psycopg's executemany."""
    count = int(100_000 * scale)
    events = [NewStreamEvent(stream_id="s", node_id="n", data={"token": n}) for n in range(count)]

    async def copy() -> None:
        assert len(await storage.stream_events.publish_many("s", events)) == count

    async def statements() -> None:
        for start in range(0, count, 1000):
            await storage.stream_events.create_many(events[start : start + 1000])

    async def executemany() -> None:
        query = "INSERT INTO stream_events (stream_id, node_id, sequence, data) VALUES ('s', %s, %s, %s)"
        first = (await storage.stream_events.reserve("s", count)) - count + 1
        async with storage.database.connection() as connection, connection.transaction():
            rows = [(event.node_id, first + n, Jsonb(event.data)) for n, event in enumerate(events)]
            await connection.cursor().executemany(query, rows)

    ways = {"publish_many (COPY)": copy, "create_many, 1,000 each": statements, "psycopg executemany": executemany}
    return [
        {"work": f"{count:,} events", "way": name, "value": count / await _timed(way), "unit": "events/s"}
        for name, way in ways.items()
    ]


async def _timed(work: Callable[[], Awaitable[None]]) -> float:
    started = time.perf_counter()
    await work()
    return time.perf_counter() - started


# ---- short ids: among a million rows -------------------------------------------------------------------------------


async def ids(storage: Storage, scale: float) -> list[Row]:
    """The server's own time (EXPLAIN ANALYZE, planning and execution, median of 100) beside LIKE on the id's text."""
    count = int(1_000_000 * scale)
    async with storage.database.connection() as connection:
        await connection.execute(
            f"INSERT INTO boards (name, slug) SELECT 'b', n::text FROM generate_series(1, {count}) n"
        )
        await connection.execute("VACUUM ANALYZE boards")
        cursor = await connection.execute("SELECT id FROM boards ORDER BY random() LIMIT 100")
        some = [row[0] for row in await cursor.fetchall()]
        rows: list[Row] = []
        for length in (4, 8, 9, 12, 32):
            query = "SELECT * FROM boards WHERE id BETWEEN %s AND %s ORDER BY id LIMIT 11"
            took = [await _explained(connection, query, prefix_range(id_.hex[:length])) for id_ in some]
            rows.append(_milliseconds(f"{length} digits of {count:,}", "resolve()", took))
        query = "SELECT * FROM boards WHERE id::text LIKE %s LIMIT 11"
        took = [await _explained(connection, query, (f"{str(id_)[:13]}%",)) for id_ in some[:5]]
        rows.append(_milliseconds(f"12 digits of {count:,}", "id::text LIKE", took))
    return rows


def _milliseconds(work: str, way: str, took: list[float]) -> Row:
    return {"work": work, "way": way, "value": statistics.median(took), "unit": "ms", "p99": max(took)}


async def _explained(connection: psycopg.AsyncConnection[Any], query: str, values: tuple[Any, ...]) -> float:
    cursor = await connection.execute(b"EXPLAIN (ANALYZE, FORMAT JSON) " + query.encode(), values, prepare=False)
    row = await cursor.fetchone()
    assert row is not None
    return float(row[0][0]["Planning Time"] + row[0][0]["Execution Time"])


# ---- approvals: from the decision to the one who waits -------------------------------------------------------------


async def approvals(storage: Storage, scale: float) -> list[Row]:
    """From the commit of the decision to wait() returning, in the same process over the server."""
    workflow = await storage.workflows.create(NewWorkflow(name="w", definition={}))
    run = await storage.workflow_sessions.start(workflow.id)
    took: list[float] = []
    for _ in range(max(20, int(200 * scale))):
        new = NewApprovalRequest(session_id=run.id, node_id="n", type="human_review")
        asked = await storage.approval_requests.create(new)
        waiting = asyncio.create_task(storage.approval_requests.wait(asked.id, 30))
        await asyncio.sleep(0.005)
        started = time.perf_counter()
        await storage.approval_requests.approve(asked.id, "ada")
        await waiting
        took.append((time.perf_counter() - started) * 1000)
    return [_milliseconds("decide and wake", "wait() on NOTIFY", took)]


ALL = {"budgets": budgets, "streams": streams, "ids": ids, "approvals": approvals}


async def measure(conninfo: str, only: list[str], scale: float) -> list[Row]:
    """The rows of the table."""
    found: list[Row] = []
    async with Storage.open(conninfo, pool_max=20, statement_timeout=600) as storage:
        for name in only:
            found += [{"subject": name, **row} for row in await ALL[name](storage, scale)]
    return found


def show(rows: list[Row]) -> None:
    """Print them."""
    table = Table(title=f"Domains, {datetime.now(UTC):%d %b %Y}")
    for column in ("work", "way", "value"):
        table.add_column(column, justify="right" if column == "value" else "left")
    for row in rows:
        worst = f" (worst {row['p99']:,.2f})" if "p99" in row else ""
        digits = 2 if row["unit"] == "ms" else 0
        table.add_row(row["work"], row["way"], f"{row['value']:,.{digits}f} {row['unit']}{worst}")
    Console().print(table)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=list(ALL), action="append", help="one of them; may be given again")
    parser.add_argument("--quick", action="store_true", help="a tenth of the work")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there, too")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="storage-bench-") as folder:
        Path(folder).chmod(0o755)  # as root, the server runs under another account
        with EmbeddedServer(Path(folder) / "server", settings={"synchronous_commit": "off"}) as server:
            conninfo = server.conninfo("postgres")
            Migrator(conninfo).up()
            with sync.Storage.open(conninfo) as storage:
                seed_demo(storage, scale=5)  # no table is empty, as in life
            rows = asyncio.run(measure(conninfo, arguments.only or list(ALL), 0.1 if arguments.quick else 1))
    show(rows)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
