"""The server goes away and comes back."""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter

import psycopg
import pytest
from psycopg import sql

from agent_storage import Storage, sync
from agent_storage.errors import OutcomeUnknown, Unavailable
from agent_storage.types import NewBoard

from .proxy import Proxy


async def test_calls_that_begin_in_a_short_outage_wait_for_its_end(proxy: Proxy) -> None:
    async with Storage(proxy.conninfo, pool_timeout=20.0) as storage:
        await storage.boards.count()
        proxy.down()
        await asyncio.sleep(0.05)
        calls = [asyncio.create_task(storage.boards.count()) for _ in range(200)]
        await asyncio.sleep(2.0)
        assert not any(call.done() for call in calls)
        proxy.up()
        back = time.monotonic()
        assert await asyncio.gather(*calls) == [0] * 200
        assert time.monotonic() - back < 10  # back-off would be at 4 s now, and grow


async def test_a_server_that_is_known_to_be_down_is_reported_at_once(proxy: Proxy) -> None:
    async with Storage(proxy.conninfo, pool_timeout=2.0) as storage:
        await storage.boards.count()
        proxy.down()
        with pytest.raises(Unavailable):
            await storage.boards.count()
        deadline = time.monotonic() + 20
        while storage.database.outage.since is None or time.monotonic() - storage.database.outage.since < 2.0:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
        started = time.monotonic()
        with pytest.raises(Unavailable, match=r"cannot reach PostgreSQL .* down for \d+ s"):
            await storage.boards.count()
        assert time.monotonic() - started < 1.0
        proxy.up()
        async with asyncio.timeout(20):
            while True:
                try:
                    assert await storage.boards.count() == 0
                    break
                except Unavailable:
                    await asyncio.sleep(0.02)


def test_the_sync_face_says_so_too(proxy: Proxy) -> None:
    with sync.Storage(proxy.conninfo, pool_timeout=1.0) as storage:
        storage.boards.count()
        proxy.down()
        ended = Counter[str]()
        deadline = time.monotonic() + 20
        while "down for" not in ended and time.monotonic() < deadline:
            try:
                storage.boards.count()
            except Unavailable as error:
                ended["down for" if "down for" in str(error) else "other"] += 1
        assert ended["down for"]
        proxy.up()
        while time.monotonic() < deadline + 20:
            try:
                assert storage.boards.count() == 0
                return
            except Unavailable:
                time.sleep(0.02)
        pytest.fail("it did not come back")


async def test_a_pool_with_live_connections_is_not_down(proxy: Proxy) -> None:
    async with (
        Storage(proxy.conninfo, pool_timeout=1.0, multiplex=0) as storage,
        storage.connection() as connection,
    ):
        storage.database.outage.failed("too many connections")
        storage.database.outage.since = time.monotonic() - 60
        storage.database.outage.check()
        await connection.execute("SELECT 1")


@pytest.mark.parametrize("path", [{}, {"multiplex": 0}, {"prepare": False}], ids=["shared", "pool", "unprepared"])
async def test_after_a_failover_a_write_finds_the_writable_server(migrated: str, path: dict[str, int]) -> None:
    """Sessions that began on the former primary refuse writes; new ones do not."""
    name = sql.Identifier(psycopg.conninfo.conninfo_to_dict(migrated)["dbname"])  # type: ignore[arg-type]
    with psycopg.connect(migrated, autocommit=True) as admin:
        admin.execute(sql.SQL("ALTER DATABASE {} SET default_transaction_read_only = on").format(name))
        async with Storage(migrated, **path) as storage:  # type: ignore[arg-type]
            for _ in range(3):
                await storage.boards.count()
            with pytest.raises(Unavailable) as refused:
                await storage.boards.create(NewBoard(name="n", slug="refused"))
            assert refused.value.sqlstate == "25006"
            admin.execute("SET default_transaction_read_only = off")
            admin.execute(sql.SQL("ALTER DATABASE {} RESET default_transaction_read_only").format(name))
            made = await asyncio.gather(
                *(storage.boards.create(NewBoard(name="n", slug=f"made {n}")) for n in range(50))
            )
            assert len(made) == 50


async def test_a_cancelled_wait_for_a_synchronous_standby_leaves_the_outcome_unknown(
    migrated: str, server_conninfo: str
) -> None:
    if os.environ.get("STORAGE_TEST_DATABASE_URL"):
        pytest.skip("changes a setting of the whole server")
    options = "-c synchronous_commit=on"
    with psycopg.connect(server_conninfo, autocommit=True) as admin:
        admin.execute("SET synchronous_commit = off")
        admin.execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
        admin.execute("SELECT pg_reload_conf()")
        try:
            for settings in ({}, {"multiplex": 0}):
                url = psycopg.conninfo.make_conninfo(migrated, options=options)
                async with Storage(url, **settings) as storage:
                    await storage.boards.count()
                    for call in (_create, _batch, _transaction):
                        task = asyncio.create_task(call(storage, f"{call.__name__} {len(settings)}"))
                        while not task.done():
                            admin.execute(
                                "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
                            )
                            await asyncio.sleep(0.01)
                        assert isinstance(task.exception(), OutcomeUnknown)
        finally:
            admin.execute("ALTER SYSTEM RESET synchronous_standby_names")
            admin.execute("SELECT pg_reload_conf()")


async def _create(storage: Storage, slug: str) -> None:
    await storage.boards.create(NewBoard(name="n", slug=slug))


async def _batch(storage: Storage, slug: str) -> None:
    async with storage.batch() as batch:
        batch.add(batch.boards.create, NewBoard(name="n", slug=slug))


async def _transaction(storage: Storage, slug: str) -> None:
    async with storage.transaction() as tx:
        await tx.boards.create(NewBoard(name="n", slug=slug))


async def test_a_write_whose_connection_breaks_before_commit_runs_again(proxy: Proxy, migrated: str) -> None:
    attempts = 0

    async def work(tx: Storage) -> None:
        nonlocal attempts
        attempts += 1
        await tx.boards.create(NewBoard(name="n", slug="once"))
        if attempts < 3:
            proxy.reset()
            await tx.boards.count()

    async with Storage(proxy.conninfo) as storage:
        await storage.run(work)
        assert await storage.boards.count() == 1
    assert attempts == 3


async def test_a_lost_commit_is_not_run_again(proxy: Proxy) -> None:
    attempts = 0

    async def work(tx: Storage) -> None:
        nonlocal attempts
        attempts += 1
        await tx.boards.create(NewBoard(name="n", slug=f"number {attempts}"))
        proxy.cut(answers=0, reset=True)

    async with Storage(proxy.conninfo) as storage:
        await storage.boards.count()
        with pytest.raises(OutcomeUnknown):
            await storage.run(work)
    assert attempts == 1
