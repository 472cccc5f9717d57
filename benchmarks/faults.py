"""What faults cost: acknowledged writes, lost ones, and the time until calls succeed again.

    python -m benchmarks.faults                     every case, some 5 minutes
    python -m benchmarks.faults --only kills        one: kills, idle, outage, path, commit, pooler, disk, recovery
    python -m benchmarks.faults --json FILE         the figures too

`path` and `disk` need root, because they make a network namespace and a small file system. `pooler` needs PgBouncer.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil
import psycopg
from psycopg.conninfo import make_conninfo
from tests.faults.proxy import Proxy
from tests.pooler import PGBOUNCER, pgbouncer

from agent_storage import Storage, StorageError, Unavailable, uuid7
from agent_storage.embedded import EmbeddedServer
from agent_storage.migrations.migrator import Migrator
from agent_storage.types import NewBoard

Figures = dict[str, Any]
TASKS = 100
#: Kills of the server, and the writes that are acknowledged before each.
CYCLES, WRITES = 20, 5500
CUTS = 200


@contextmanager
def served(**settings: str) -> Iterator[tuple[EmbeddedServer, str]]:
    """A migrated database on an embedded server, which is durable unless the settings say otherwise."""
    with tempfile.TemporaryDirectory(prefix="storage-faults-", ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o755)  # as root, the server runs under another account
        with EmbeddedServer(Path(name) / "server", settings=settings) as server:
            conninfo = server.conninfo("faults")
            Migrator(conninfo).up()
            yield server, conninfo


def kill(server: EmbeddedServer) -> None:
    """Kill -9 every process of the server."""
    pid = int((server.data_dir / "cluster" / "postmaster.pid").read_text().split()[0])
    postmaster = psutil.Process(pid)
    for one in [postmaster, *postmaster.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            one.send_signal(signal.SIGKILL)


def there(conninfo: str) -> list[UUID]:
    """Return the ids of the boards."""
    with psycopg.connect(conninfo) as connection:
        return [row[0] for row in connection.execute("SELECT id FROM boards").fetchall()]


async def write(storage: Storage, acknowledged: list[UUID], errors: Counter[str], over: Callable[[], bool]) -> None:
    """Create boards, and repeat each until it is acknowledged. The journal is written after the call returned."""
    while not over():
        made = uuid7()
        while True:
            try:
                await storage.boards.create(NewBoard(id=made, name="n", slug=str(made)))
            except Unavailable as error:
                errors[type(error).__name__] += 1
                if over():
                    return
                await asyncio.sleep(0.01)
            else:
                acknowledged.append(made)
                break


async def _again(acknowledged: list[UUID]) -> float:
    """Return the seconds until the next acknowledged write."""
    started, before = time.monotonic(), len(acknowledged)
    while len(acknowledged) == before:
        await asyncio.sleep(0.001)
    return time.monotonic() - started


async def kills(writes: int = WRITES, *, synchronous: bool = True) -> Figures:
    """Kill -9 of the whole server under writers; the control does not wait for the disk."""
    settings = {"synchronous_commit": "on" if synchronous else "off"}
    acknowledged: list[UUID] = []
    errors = Counter[str]()
    recovered: list[float] = []
    with served(**settings) as (server, conninfo):
        over = False
        async with Storage(conninfo, pool_timeout=60.0) as storage:
            tasks = [asyncio.create_task(write(storage, acknowledged, errors, lambda: over)) for _ in range(TASKS)]
            for _ in range(CYCLES):
                end = len(acknowledged) + writes
                while len(acknowledged) < end:
                    await asyncio.sleep(0.005)
                kill(server)
                await asyncio.to_thread(server.start)
                recovered.append(await _again(acknowledged))
            over = True
            await asyncio.gather(*tasks)
        rows = there(conninfo)
    figures = {
        "cycles": CYCLES,
        "acknowledged": len(acknowledged),
        "lost": len(set(acknowledged) - set(rows)),
        "twice": len(rows) - len(set(rows)),
        "errors": dict(errors),
        "recovery, median and longest": _spread(recovered),
    }
    if synchronous:
        control = await kills(writes, synchronous=False)
        figures["control with synchronous_commit=off"] = {name: control[name] for name in ("acknowledged", "lost")}
    return figures


async def idle() -> Figures:
    """20 idle connections of the pool are terminated."""
    with served() as (_, conninfo):
        async with Storage(conninfo, pool_min=20, pool_max=20, multiplex=0) as storage:
            await asyncio.gather(*(storage.boards.count() for _ in range(400)))
            with psycopg.connect(conninfo, autocommit=True) as admin:
                query = (
                    "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = current_database()"
                )
                ended = len(admin.execute(f"{query} AND pid <> pg_backend_pid()".encode()).fetchall())
            started = time.monotonic()
            told = await asyncio.gather(*(storage.boards.count() for _ in range(20)), return_exceptions=True)
            seconds = time.monotonic() - started
    return {"dead": ended, "errors": sum(isinstance(one, BaseException) for one in told), "seconds": round(seconds, 3)}


async def outage(seconds: float = 20.0) -> Figures:
    """Connections are refused for 20 s."""
    acknowledged: list[UUID] = []
    errors = Counter[str]()
    over = False
    with served() as (_, conninfo), Proxy(conninfo) as proxy:
        async with Storage(proxy.conninfo) as storage:
            tasks = [asyncio.create_task(write(storage, acknowledged, errors, lambda: over)) for _ in range(TASKS)]
            await asyncio.sleep(1)
            proxy.down()
            await asyncio.sleep(seconds)
            refused = time.monotonic()
            with suppress(Unavailable):
                await storage.boards.count()
            refused = time.monotonic() - refused
            proxy.up()
            back = await _again(acknowledged)
            over = True
            await asyncio.gather(*tasks)
        lost = len(set(acknowledged) - set(there(conninfo)))
    return {
        "outage": seconds,
        "a call while it lasts takes": round(refused, 3),
        "recovery": round(back, 2),
        "acknowledged": len(acknowledged),
        "lost": lost,
        "errors": dict(errors),
    }


async def commit() -> Figures:
    """COMMIT, or its answer, is cut 200 times, with and without ids of the caller's."""
    figures: Figures = {}
    for named in (True, False):
        told = Counter[str]()
        made: list[UUID] = []
        with served(fsync="off") as (_, conninfo), Proxy(conninfo) as proxy:
            async with Storage(proxy.conninfo, multiplex=0, pool_max=1) as storage:
                for number in range(CUTS):
                    new = NewBoard(id=uuid7() if named else None, name="n", slug=f"{number}" if named else f"{uuid7()}")
                    await _cut_commit(storage, proxy, new, told, cut=True, answers=bool(number % 2))
                    while named and not await _cut_commit(storage, proxy, new, told, cut=False):
                        pass
                    made += [new.id] if new.id else []
            rows = there(conninfo)
        figures["with ids" if named else "without"] = {
            "cut": CUTS,
            "told at COMMIT": dict(told),
            **({"lost": len(set(made) - set(rows)), "twice": len(rows) - len(set(made))} if named else {}),
        }
    return figures


async def _cut_commit(
    storage: Storage, proxy: Proxy, new: NewBoard, told: Counter[str], *, cut: bool, answers: bool = True
) -> bool:
    sent = False
    try:
        async with storage.transaction() as tx:
            await tx.boards.create(new)
            if cut:
                proxy.cut(answers=0) if answers else proxy.cut(requests=3)
                sent = True
    except Unavailable as error:
        if sent:
            told[type(error).__name__] += 1
        return False
    return True


async def pooler() -> Figures:
    """PgBouncer is killed (kill -9) under 200 tasks."""
    if PGBOUNCER is None:
        return {"skipped": "the program pgbouncer is not installed"}
    acknowledged: list[UUID] = []
    errors = Counter[str]()
    recovered: list[float] = []
    over = False
    with served() as (_, conninfo), pgbouncer(conninfo) as bouncer:
        async with Storage(bouncer.conninfo, pooler=True, pool_max=20) as storage:
            tasks = [asyncio.create_task(write(storage, acknowledged, errors, lambda: over)) for _ in range(200)]
            for _ in range(5):
                await asyncio.sleep(1)
                bouncer.kill()
                await asyncio.sleep(0.2)
                await asyncio.to_thread(bouncer.start)
                recovered.append(await _again(acknowledged))
            over = True
            await asyncio.gather(*tasks)
        rows = there(conninfo)
    return {
        "kills": len(recovered),
        "acknowledged": len(acknowledged),
        "lost": len(set(acknowledged) - set(rows)),
        "twice": len(rows) - len(set(rows)),
        "errors": dict(errors),
        "recovery, median and longest": _spread(recovered),
    }


async def path() -> Figures:
    """The network drops every packet from the server: a namespace whose route back is a black hole."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return {"skipped": "needs root and the program ip"}
    figures: Figures = {}
    with served() as (_, conninfo), _namespace() as (name, host):
        command = ["ip", "netns", "exec", name, sys.executable, "-m", "tests.faults.proxy", conninfo, host]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            tuned = {"tcp_user_timeout": "3000", "keepalives_idle": "2", "keepalives_interval": "1"}
            for kind, given in (("defaults", {}), ("tuned", tuned)):
                conn = make_conninfo(url, **given)
                for settings in ({}, {"multiplex": 0}):
                    async with Storage(conn, **settings) as storage:  # type: ignore[arg-type]
                        for _ in range(3):  # a statement that is not prepared yet is not sent
                            await storage.boards.create(NewBoard(name="n", slug=f"{uuid7()}"))
                        _ip("-n", name, "route", "replace", "blackhole", f"{host.rsplit('.', 1)[0]}.1/32")
                        started = time.monotonic()
                        told = ""
                        try:
                            await storage.boards.create(NewBoard(name="n", slug=f"{uuid7()}"))
                        except StorageError as error:
                            told = type(error).__name__
                        seconds = round(time.monotonic() - started, 1)
                        _ip("-n", name, "route", "del", "blackhole", f"{host.rsplit('.', 1)[0]}.1/32")
                        figures[f"{kind}, {'pool' if settings else 'shared'}"] = {"told": told, "seconds": seconds}
            process.communicate("")
    return figures


@contextmanager
def _namespace() -> Iterator[tuple[str, str]]:
    """A network namespace, and its address."""
    name, net = f"faults{os.getpid()}", f"10.213.{os.getpid() % 250}"
    near, far = f"f{os.getpid()}a", f"f{os.getpid()}b"
    _ip("netns", "add", name)
    try:
        _ip("link", "add", near, "type", "veth", "peer", "name", far, "netns", name)
        _ip("addr", "add", f"{net}.1/24", "dev", near)
        _ip("link", "set", near, "up")
        _ip("-n", name, "addr", "add", f"{net}.2/24", "dev", far)
        _ip("-n", name, "link", "set", far, "up")
        yield name, f"{net}.2"
    finally:
        _ip("netns", "del", name)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


async def disk() -> Figures:
    """The disk of the server is full until a file is removed."""
    if os.geteuid() != 0:
        return {"skipped": "needs root"}
    acknowledged: list[UUID] = []
    errors = Counter[str]()
    with tempfile.TemporaryDirectory(prefix="storage-disk-") as name:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=160m,mode=755", "tmpfs", name], check=True)
        try:
            with EmbeddedServer(Path(name) / "server", settings={"max_wal_size": "64MB"}) as server:
                conninfo = server.conninfo("faults")
                Migrator(conninfo).up()
                async with Storage(conninfo) as storage:
                    filler = Path(name) / "filler"
                    acknowledged += [
                        (await storage.boards.create(NewBoard(name="n", slug=f"{n}"))).id for n in range(999)
                    ]
                    with suppress(OSError), filler.open("wb") as full:
                        while True:
                            full.write(b"x" * 65536)
                    while errors.total() < 20:
                        news = [NewBoard(id=uuid7(), name="n", slug=f"{uuid7()}") for _ in range(200)]
                        try:
                            await storage.boards.create_many(news)
                            acknowledged += [new.id for new in news if new.id]
                        except StorageError as error:
                            errors[f"{type(error).__name__} {error.sqlstate}"] += 1
                    filler.unlink()
                    started = time.monotonic()
                    while True:
                        try:
                            await storage.boards.create(NewBoard(name="after", slug="after"))
                            break
                        except StorageError:
                            await asyncio.sleep(0.01)
                    healed = time.monotonic() - started
                lost = len(set(acknowledged) - set(there(conninfo)))
        finally:
            subprocess.run(["umount", "-l", name], check=True)
    return {"acknowledged": len(acknowledged), "lost": lost, "errors": dict(errors), "recovery": round(healed, 2)}


async def recovery() -> Figures:
    """The embedded server is killed with WAL to replay, and started again."""
    with served(max_wal_size="8GB", checkpoint_timeout="1h", fsync="off") as (server, conninfo):
        with psycopg.connect(conninfo, autocommit=True) as admin:
            admin.execute("CREATE TABLE filler (t text)")
            for _ in range(62):
                admin.execute("INSERT INTO filler SELECT repeat(md5(n::text), 30) FROM generate_series(1, 50000) n")
            row = admin.execute("SELECT pg_current_wal_lsn() - '0/0'::pg_lsn").fetchone()
            assert row is not None
        kill(server)
        started = time.monotonic()
        await asyncio.to_thread(server.start)
        seconds = time.monotonic() - started
    return {"WAL in MB": round(float(row[0]) / 2**20), "seconds": round(seconds, 1)}


def _spread(seconds: list[float]) -> list[float]:
    return [round(statistics.median(seconds), 2), round(max(seconds), 2)]


CASES: dict[str, Callable[[], Awaitable[Figures]]] = {
    one.__name__: one for one in (kills, idle, outage, path, commit, pooler, disk, recovery)
}


def main() -> int:
    """Run from the command line. Ends with 1 if a write was lost or made twice."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faults", description="What faults cost.")
    parser.add_argument("--only", action="append", choices=CASES, help="one case; may be repeated")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--writes", type=int, default=WRITES, help="acknowledged before each of the 20 kills")
    given = parser.parse_args()
    logging.disable(logging.CRITICAL)  # lost connections are what this is about
    found: dict[str, Figures] = {}
    for name in given.only or CASES:
        case = kills(given.writes) if name == "kills" else CASES[name]()
        found[name] = asyncio.run(case)  # type: ignore[arg-type]
        print(f"{name}: {json.dumps(found[name])}", flush=True)
    if given.json:
        given.json.write_text(json.dumps(found, indent=2) + "\n")
    return int(any(one.get("lost") or one.get("twice") for one in found.values()))


if __name__ == "__main__":
    raise SystemExit(main())
