"""One call of each kind, cut at every byte that it sends and that it receives.

The database is as before or as after, and the caller is told the truth: what was acknowledged is there, what was "not
kept" is not. No error of psycopg leaves the package.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, Literal

import psycopg
import pytest
from psycopg.pq import Format

from agent_storage import ConnectionLost, StorageError, Unavailable, Unreadable
from agent_storage.database import settings
from agent_storage.database.fastpath.loading import Loading
from agent_storage.types import NewBoard

from ..database.test_whole_or_nothing import Waited, opened, plain
from .proxy import Proxy

#: The path, and at how many bytes apart the connection is cut: all of them, where that takes a minute.
FACES = pytest.mark.parametrize(("path", "step"), [("sync prepared", 1), ("async prepared", 5), ("async shared", 5)])
DIRECTIONS = pytest.mark.parametrize("direction", ["answers", "requests"])
Direction = Literal["answers", "requests"]


async def _read(storage: Any, tag: str) -> None:
    assert (await storage.boards.get_by(slug="there")).name == "there"


async def _write(storage: Any, tag: str) -> None:
    await storage.boards.create(NewBoard(name=tag, slug=tag))


async def _few(storage: Any, tag: str) -> None:
    await storage.boards.create_many([NewBoard(name=tag, slug=f"{tag} {n}") for n in range(2)])


async def _batch(storage: Any, tag: str) -> None:
    async with storage.batch() as batch:
        for n in range(2):
            batch.add(plain(batch).boards.create, NewBoard(name=tag, slug=f"{tag} {n}"))


async def _commit(storage: Any, tag: str) -> None:
    async with storage.transaction() as tx:
        await tx.boards.create(NewBoard(name=tag, slug=tag))


async def _stream(storage: Any, tag: str) -> None:
    async with storage.boards.stream({"slug": "there"}) as rows:
        assert [row.name async for row in rows] == ["there"]


CALLS = pytest.mark.parametrize(
    ("call", "rows"),
    [(_read, 0), (_stream, 0), (_write, 1), (_few, 2), (_batch, 2), (_commit, 1)],
    ids=lambda one: getattr(one, "__name__", ""),
)


@FACES
@DIRECTIONS
@CALLS
async def test_a_call_that_is_cut_at_any_byte_tells_the_truth(
    migrated: str,
    path: str,
    step: int,
    direction: Direction,
    call: Callable[[Any, str], Awaitable[None]],
    rows: int,
) -> None:
    told = Counter[str]()
    with Proxy(migrated) as proxy, psycopg.connect(migrated, autocommit=True) as admin:
        admin.execute("INSERT INTO boards (name, slug) VALUES ('there', 'there')")
        shared = {"multiplex": 1} if path == "async shared" else {}
        async with opened(proxy.conninfo, path, pool_max=1, **shared) as storage, asyncio.timeout(240):
            number = 0
            while True:
                await _warm(storage, call, f"warm {number}")
                if direction == "answers":
                    proxy.cut(answers=number, reset=bool(number % 2))
                else:
                    proxy.cut(requests=number, reset=bool(number % 2))
                error = await _error(call(storage, f"cut {number}"))
                row = admin.execute("SELECT count(*) FROM boards WHERE name = %s", (f"cut {number}",)).fetchone()
                assert row is not None
                _check(error, row[0], rows)
                told[error.outcome if error else "done"] += 1
                if proxy.armed:  # the call needs no more bytes than these
                    break
                number += step
    assert number > 20
    if rows:
        assert told["unknown"]


async def _warm(storage: Any, call: Callable[[Any, str], Awaitable[None]], tag: str) -> None:
    """Connect and prepare, so that only bytes of the call are counted. A connection may break here too."""
    shared = not isinstance(storage, Waited) and storage.database.settings.multiplex
    async with asyncio.timeout(20):
        for turn in range(3 if shared else 1):
            while isinstance(error := await _error(call(storage, f"{tag} {turn}")), Unavailable):
                if error.outcome == "unknown":
                    break
                await asyncio.sleep(0)


async def _error(call: Awaitable[None]) -> StorageError | None:
    """A psycopg error is not caught, and fails the test."""
    try:
        await call
    except StorageError as error:
        return error
    return None


def _check(error: StorageError | None, there: int, whole: int) -> None:
    assert there in (0, whole), "neither whole nor nothing"
    if error is None:
        assert there == whole, "acknowledged, and not there"
        return
    assert isinstance(error, ConnectionLost), error
    if error.outcome == "not kept":
        assert there == 0, "said not to be kept, and there"


async def test_a_half_closed_connection_is_a_lost_one(proxy: Proxy) -> None:
    async with opened(proxy.conninfo, "async prepared", pool_max=1) as storage:
        await storage.boards.count()
        async with storage.transaction() as tx:
            await tx.boards.count()
            proxy.half_close()
            error = await _error(_count(tx))
            assert isinstance(error, ConnectionLost)
            with pytest.raises(ConnectionLost):
                await tx.boards.count()
            raise psycopg.Rollback
        proxy.half_close()
        assert await storage.boards.count() == 0  # an idle one is noticed before anything is sent


async def _count(storage: Any) -> None:
    await storage.boards.count()


@pytest.mark.parametrize("path", ["async shared", "async prepared", "sync prepared"])
async def test_slow_answers_change_nothing_but_the_time(proxy: Proxy, path: str) -> None:
    proxy.delay = 0.03  # less than the limit of a shared connection
    async with opened(proxy.conninfo, path) as storage:
        for number in range(5):
            await _write(storage, f"{number}")
            await _few(storage, f"few {number}")
            await _batch(storage, f"batch {number}")
            await _commit(storage, f"transaction {number}")
        assert await storage.boards.count() == 5 * 6


@pytest.mark.parametrize("path", ["async shared", "async prepared", "sync prepared"])
async def test_a_write_whose_answer_never_comes_has_an_unknown_outcome(
    proxy: Proxy, migrated: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server has the request, and its answer disappears."""
    monkeypatch.setattr(settings, "GRACE", 0.2)
    async with opened(proxy.conninfo, path, statement_timeout=1.0, pool_max=1, pool_timeout=2.0) as storage:
        for number in range(3):
            await _write(storage, f"warm {number}")
        proxy.black_hole = True
        error = await _error(_write(storage, "lost"))
        assert error is not None
        assert error.outcome == "unknown"
        proxy.heal()
        with psycopg.connect(migrated) as admin:
            assert admin.execute("SELECT count(*) FROM boards WHERE slug = 'lost'").fetchone() == (1,)


def test_a_reply_to_another_statement_is_refused(migrated: str) -> None:
    """A pooler or a network that mixes up replies must not make psycopg's loaders read beyond the row."""
    with psycopg.connect(migrated, autocommit=True) as connection:
        pgconn = connection.pgconn
        queries = (b"SELECT 1", b"SELECT 1, 2, 3")
        replies = [pgconn.exec_params(query, None, result_format=Format.BINARY) for query in queries]
        for own, other in (replies, reversed(replies)):
            loading = Loading(own, connection)
            assert len(list(loading.rows(own))) == 1
            with pytest.raises(Unreadable, match=r"STORAGE_POOLER=1"):
                list(loading.rows(other))
