"""Once: a statement is executed at most once unless it is declared repeatable, a call that was given up is never
executed afterwards, and an error says what became of it.
"""

from __future__ import annotations

import asyncio
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

import agent_storage
from agent_storage import ConnectionLost, OutcomeUnknown, PoolTimeout, StorageError, sync
from agent_storage.database import multiplexed
from agent_storage.database.fastpath.multiplexer import DEPTH
from agent_storage.database.fastpath.prepared import Prepared, PreparedStatements
from agent_storage.embedded import EmbeddedServer
from agent_storage.statements.records import Input, Record
from agent_storage.sync.database.fastpath.replies import Replies

from ..conftest import UNSAFE_BUT_FAST
from .proxy import Proxy
from .test_whole_or_nothing import PATHS, Waited, opened, own_database, plain

EVERY_PATH = pytest.mark.parametrize("path", PATHS)
EVERY_ASYNC_PATH = pytest.mark.parametrize("path", [path for path in PATHS if path.startswith("async")])

#: `attempts` counts executions, since a sequence does not roll back; `charges` holds what was kept.
TABLE = """
CREATE SEQUENCE attempts;
CREATE TABLE charges (
    id          uuid PRIMARY KEY DEFAULT uuid_v7(),
    account     text NOT NULL,
    note        text NOT NULL DEFAULT '',
    number      integer NOT NULL DEFAULT 0,
    created_at  timestamptz NOT NULL DEFAULT now(),
    updated_at  timestamptz NOT NULL DEFAULT now()
);
CREATE FUNCTION count_attempt() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN PERFORM nextval('attempts'); RETURN NEW; END $$;
CREATE TRIGGER count_attempt BEFORE INSERT ON charges FOR EACH ROW EXECUTE FUNCTION count_attempt();
CREATE FUNCTION take(of text, seconds float8) RETURNS uuid LANGUAGE plpgsql AS $$
DECLARE made uuid;
BEGIN
    INSERT INTO charges (account) VALUES (of) RETURNING id INTO made;
    PERFORM pg_sleep(seconds);
    RETURN made;
END $$;
CREATE PROCEDURE charge_twice(of text, seconds float8) LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO charges (account) VALUES (of);
    COMMIT;
    PERFORM pg_sleep(seconds);
    INSERT INTO charges (account) VALUES (of);
END $$
"""


class NewCharge(Input):
    account: str
    note: str = ""
    number: int = 0


class Charge(Record, NewCharge):
    pass


def declare(repository: Any, sql: Any) -> Any:
    """The repository of `charges` on one face."""

    class Charges(repository[Charge, NewCharge]):
        """Charges."""

        table = "charges"

        @sql("SELECT take(%(of)s, %(seconds)s)")
        async def charge(self, of: str, seconds: float = 0.0) -> UUID:
            """A SELECT that writes."""
            ...

        @sql("WITH made AS (SELECT take(%(of)s, %(seconds)s) AS id) SELECT count(*) FROM made")
        async def charge_and_count(self, of: str, seconds: float = 0.0) -> int:
            """A WITH that writes."""
            ...

        @sql("CALL charge_twice(%(of)s, %(seconds)s)")
        async def charge_twice(self, of: str, seconds: float) -> None:
            """A procedure that commits in between."""
            ...

        @sql("/* a /* nested */ comment */ -- and another\n  call charge_twice(%(of)s, %(seconds)s)")
        async def charge_twice_behind_comments(self, of: str, seconds: float) -> None:
            """The same."""
            ...

        @sql("UPDATE {table} SET number = number + 1 WHERE account = %(account)s")
        async def add_one(self, account: str) -> int:
            """A write whose every execution shows."""
            ...

        @sql("SELECT pg_sleep(%(seconds)s)::text")
        async def sleep(self, seconds: float) -> str:
            """Keeps a connection busy."""
            ...

    return Charges


ASYNC, SYNC = declare(agent_storage.Repository, agent_storage.sql), declare(sync.Repository, sync.sql)


def charges_on(runner: Any) -> Any:
    return Waited(SYNC(plain(runner))) if isinstance(runner, Waited) else ASYNC(runner)


@pytest.fixture(scope="module")
def conninfo(server_conninfo: str) -> Iterator[str]:
    with own_database(server_conninfo, TABLE) as made:
        yield made


@pytest.fixture
def admin(conninfo: str) -> Iterator[psycopg.Connection]:
    """A connection beside the storage; the table is empty."""
    with psycopg.connect(conninfo, autocommit=True) as connection:
        yield connection
        connection.execute("TRUNCATE charges")


def one(admin: psycopg.Connection, query: Any, *values: Any) -> Any:
    row = admin.execute(query, values).fetchone()
    assert row is not None
    return row[0]


def kept(admin: psycopg.Connection, account: str) -> int:
    return one(admin, "SELECT count(*) FROM charges WHERE account = %s", account)


def attempts(admin: psycopg.Connection) -> int:
    return one(admin, "SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM attempts")


OURS = "datname = current_database() AND application_name = 'agent-storage'"


async def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    """Wait, without blocking the event loop, until something is so."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        await asyncio.sleep(0.002)


async def quiet(admin: psycopg.Connection) -> None:
    """Wait until no backend of the storage is at work any more."""
    query = f"SELECT count(*) FROM pg_stat_activity WHERE {OURS} AND state = 'active'"
    await until(lambda: one(admin, query) == 0)


def check_truth(error: StorageError | None, count: int, whole: int) -> None:
    """What the caller was told is what is there."""
    assert count in (0, whole), "neither whole nor nothing"
    if error is None or error.outcome == "kept":
        assert count == whole, "it was said to be kept"
    elif error.outcome == "not kept":
        assert count == 0, f"it was said not to be kept: {error}"
    else:
        assert isinstance(error, OutcomeUnknown)


# ---- 3: what was given up is never executed afterwards ----


@asynccontextmanager
async def busy(storage: Any, statements: int, seconds: float) -> AsyncIterator[None]:
    """So many statements stand on one shared connection before those of the block, each for so long."""
    sleeping = [asyncio.create_task(charges_on(storage).sleep(seconds)) for _ in range(statements)]
    await asyncio.sleep(0)
    try:
        yield
    finally:
        await asyncio.gather(*sleeping, return_exceptions=True)


@pytest.mark.parametrize(("before", "seconds"), [(2, 0.01), (DEPTH + 8, 0.0015)], ids=["sent", "in the queue"])
async def test_a_cancelled_update_never_comes_after_the_next_one(
    conninfo: str, admin: psycopg.Connection, before: int, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(multiplexed, "LIMIT", 5.0)  # so that what keeps the connection busy may stay there
    async with opened(conninfo, "async shared", multiplex=1) as storage:
        charges = charges_on(storage)
        made = await charges.create(NewCharge(account="a"))
        for _ in range(3):
            await charges.update(made.id, note="warm")
            await charges.sleep(0.0)
            await asyncio.sleep(0.01)
        cancelled = 0
        for number in range(50):
            async with busy(storage, before, seconds):
                try:
                    async with asyncio.timeout(0.004):
                        await charges.update(made.id, note=f"first {number}")
                except TimeoutError:
                    cancelled += 1
                at_once = one(admin, "SELECT note FROM charges")
                await charges_on(storage.autonomous).count()
            second = await charges.update(made.id, note=f"second {number}")
            assert second.note == f"second {number}"
            await quiet(admin)
            assert one(admin, "SELECT note FROM charges") == f"second {number}"
            assert at_once in (f"first {number}", f"second {number - 1}", "warm")
        assert cancelled >= 40


@EVERY_ASYNC_PATH
async def test_when_a_call_is_given_up_its_write_is_done_or_will_never_be(
    conninfo: str, admin: psycopg.Connection, path: str
) -> None:
    async with opened(conninfo, path, pool_max=2, **({"multiplex": 2} if "shared" in path else {})) as storage:
        charges = charges_on(storage)
        await charges.create(NewCharge(account="a"))
        await charges.add_one("a")
        for number in range(20):
            sleeping = [asyncio.create_task(charges.sleep(0.004)) for _ in range(7 * number % 40)]
            call = asyncio.create_task(charges.add_one("a"))
            await asyncio.sleep(0.0005 * (number % 7))
            for _ in range(1 + number % 3):  # cancelled again while it waits
                call.cancel()
                await asyncio.sleep(0)
            with suppress(asyncio.CancelledError):
                await call
            when_told = one(admin, "SELECT number FROM charges")
            await asyncio.gather(*sleeping)
            await quiet(admin)
            assert one(admin, "SELECT number FROM charges") == when_told


@EVERY_ASYNC_PATH
async def test_an_update_that_waited_for_a_lock_and_was_cancelled_does_not_come_later(
    conninfo: str, admin: psycopg.Connection, path: str
) -> None:
    async with opened(conninfo, path) as storage:
        charges = charges_on(storage)
        made = await charges.create(NewCharge(account="a"))
        for number in range(5):
            with psycopg.connect(conninfo) as locker:
                locker.execute("SELECT FROM charges FOR UPDATE")
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.004 + 0.02 * number):  # on a shared connection, also past its limit
                        await charges.update(made.id, note="first")
                locker.rollback()
            await charges.update(made.id, note=f"second {number}")
            await quiet(admin)
            assert one(admin, "SELECT note FROM charges") == f"second {number}"


async def test_a_write_that_waits_for_the_pool_and_is_cancelled_is_never_sent(
    conninfo: str, admin: psycopg.Connection
) -> None:
    async with opened(conninfo, "async prepared", pool_max=1) as storage:
        before = attempts(admin)
        async with storage.database.connection():
            for call in (charges_on(storage).charge("a"), charges_on(storage).create_many([NewCharge(account="a")])):
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.01):
                        await call
        await charges_on(storage).count()
        assert (attempts(admin), kept(admin, "a")) == (before, 0)


async def test_a_write_that_was_told_pool_timeout_is_never_sent(
    conninfo: str, admin: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(multiplexed, "LIMIT", 5.0)  # so that what keeps the connection busy may stay there
    async with opened(conninfo, "async shared", multiplex=1, pool_timeout=0.05) as storage:
        charges = charges_on(storage)
        for _ in range(3):
            await charges.charge("warm")
            await charges.sleep(0.0)
            await asyncio.sleep(0.01)
        before = attempts(admin)
        async with busy(storage, DEPTH, 0.03):
            told = await asyncio.gather(*(charges.charge("a") for _ in range(20)), return_exceptions=True)
        refused = [error for error in told if isinstance(error, PoolTimeout)]
        made = [answer for answer in told if isinstance(answer, UUID)]
        assert len(refused) > 10
        assert len(refused) + len(made) == 20
        assert {error.outcome for error in refused} == {"not kept"}
        await charges.count()
        await quiet(admin)
        assert (attempts(admin) - before, kept(admin, "a")) == (len(made), len(made))


class Interrupted(Exception):
    """Raised by a signal's handler, in the middle of whatever runs."""


@contextmanager
def interrupted_after(seconds: float) -> Iterator[None]:
    def interrupt(*_: Any) -> None:
        raise Interrupted

    before, traced = signal.signal(signal.SIGALRM, interrupt), sys.gettrace()
    sys.settrace(None)  # interrupted in its tracer, coverage would keep a lock of its own for ever
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        sys.settrace(traced)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("settings", [{}, {"prepare": False}], ids=["prepared", "unprepared"])
def test_a_call_of_the_sync_face_that_a_signal_interrupts_does_not_come_later(
    conninfo: str, admin: psycopg.Connection, settings: dict[str, Any]
) -> None:
    with sync.Storage(conninfo, pool_max=1, **settings) as storage:
        charges = SYNC(storage)
        made = charges.create(NewCharge(account="a"))
        for number in range(10):
            with psycopg.connect(conninfo) as locker:
                locker.execute("SELECT FROM charges FOR UPDATE")
                with pytest.raises(Interrupted), interrupted_after(0.01 + 0.003 * number):
                    charges.update(made.id, note="first")
                locker.rollback()
            charges.update(made.id, note=f"second {number}")
            assert one(admin, "SELECT note FROM charges") == f"second {number}"


# ---- 4: nothing is executed twice ----


def terminate(admin: psycopg.Connection, doing: str) -> int:
    """End the backends whose statement holds `doing`; how many there were."""
    query = f"SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE {OURS} AND state = 'active'"
    return one(admin, f"{query} AND query LIKE %s AND query_start < clock_timestamp() - interval '5 ms'", f"%{doing}%")


@EVERY_PATH
@pytest.mark.parametrize("method", ["charge", "charge_and_count"])
async def test_a_function_whose_backend_is_ended_is_run_once_and_the_error_is_true(
    conninfo: str, admin: psycopg.Connection, path: str, method: str
) -> None:
    async with opened(conninfo, path) as storage:
        charge = getattr(charges_on(storage), method)
        for warm in (False, True):
            before = attempts(admin)
            account, seconds = f"{warm}", 0.04 if "shared" in path else 5.0
            ended = asyncio.create_task(asyncio.to_thread(_terminate_soon, conninfo, method))
            with pytest.raises(ConnectionLost) as caught:
                if isinstance(storage, Waited):
                    await asyncio.to_thread(charge.target, account, seconds)
                else:
                    while True:  # on a shared connection it may be over before its backend is
                        await charge(account, seconds)
                        admin.execute("DELETE FROM charges WHERE account = %s", (account,))
                        before = attempts(admin)
            await ended
            check_truth(caught.value, kept(admin, account), 1)
            assert attempts(admin) - before <= 1  # on a busy machine its backend may end before it has begun
            await charge("again")
        assert kept(admin, "again") == 2


def _terminate_soon(conninfo: str, method: str) -> None:
    with psycopg.connect(conninfo, autocommit=True) as admin:
        end = time.monotonic() + 10
        while not terminate(admin, f"charges.{method} "):
            assert time.monotonic() < end


@EVERY_PATH
@pytest.mark.parametrize("method", ["charge_twice", "charge_twice_behind_comments"])
async def test_a_procedure_that_commits_inside_and_takes_long_is_run_once(
    conninfo: str, admin: psycopg.Connection, path: str, method: str
) -> None:
    async with opened(conninfo, path) as storage:
        for number in range(2):
            before = attempts(admin)
            await getattr(charges_on(storage), method)(f"{number}", 0.08)
            assert (attempts(admin) - before, kept(admin, f"{number}")) == (2, 2)


async def test_a_write_that_takes_long_on_a_shared_connection_has_its_effect_once(
    conninfo: str, admin: psycopg.Connection
) -> None:
    async with opened(conninfo, "async shared") as storage:
        made = await asyncio.gather(*(charges_on(storage).charge(f"{n}", 0.02 * n) for n in range(8)))
        assert len(set(made)) == 8
        assert [kept(admin, f"{n}") for n in range(8)] == [1] * 8


@pytest.fixture
def proxy(conninfo: str) -> Iterator[Proxy]:
    made = Proxy(conninfo)
    yield made
    made.close()


async def _create(storage: Any, account: str) -> None:
    await charges_on(storage).create(NewCharge(account=account))


async def _batch(storage: Any, account: str) -> None:
    async with storage.batch() as batch:
        for _ in range(3):
            batch.add(charges_on(batch).create, NewCharge(account=account))


async def _batch_that_commits_apart(storage: Any, account: str) -> None:
    async with storage.batch() as batch:
        for _ in range(3):
            batch.add(charges_on(batch).create, NewCharge(account=account))
        batch.add(charges_on(batch).charge, account)


async def _transaction(storage: Any, account: str) -> None:
    async with storage.transaction() as tx:
        await charges_on(tx).create(NewCharge(account=account))
        async with tx.transaction() as inner:
            await charges_on(inner).charge(account)


async def _create_many(storage: Any, account: str) -> None:
    await charges_on(storage).create_many([NewCharge(account=account) for _ in range(1001)])


async def _charge(storage: Any, account: str) -> None:
    await charges_on(storage).charge(account)


#: What writes, and how many rows.
WRITES: dict[str, tuple[Callable[[Any, str], Coroutine[Any, Any, None]], int]] = {
    "a SELECT that writes": (_charge, 1),
    "create": (_create, 1),
    "batch": (_batch, 3),
    "batch that commits apart": (_batch_that_commits_apart, 4),
    "transaction": (_transaction, 2),
    "create_many": (_create_many, 1001),
}


@pytest.mark.parametrize(
    ("cut", "path"),
    [("the answer is lost", path) for path in PATHS]
    + [
        (cut, path)
        for cut in ("cut behind the request", "the request is lost")
        for path in ("async shared", "async prepared", "sync unprepared")
    ],
)
async def test_a_cut_at_any_packet_executes_nothing_twice_and_the_error_is_true(
    conninfo: str, admin: psycopg.Connection, proxy: Proxy, cut: str, path: str
) -> None:
    direction, deliver = ("answer", False) if "answer" in cut else ("request", "behind" in cut)
    unknown = 0
    few = {"pool_min": 1, "pool_max": 1, **({"multiplex": 1} if "shared" in path else {})}
    async with opened(proxy.conninfo, path, **few) as storage:
        for name, (write, whole) in WRITES.items():
            await write(storage, f"warm {name}")
            for packet in range(40):
                account = f"{name} {packet}"
                before, error = attempts(admin), None
                proxy.arm(direction, packet, deliver=deliver)
                try:
                    async with asyncio.timeout(20):
                        await write(storage, account)
                except StorageError as caught:
                    error = caught
                over = proxy.disarm()
                await until(lambda: not proxy.ending)
                check_truth(error, kept(admin, account), whole)
                assert attempts(admin) - before <= whole
                unknown += error is not None and error.outcome == "unknown"
                if over:
                    assert error is None
                    break
                await charges_on(storage).count()  # and it is fit for the next
            else:
                pytest.fail(f"{name} takes more than 40 packets")
    assert unknown >= 3


@EVERY_ASYNC_PATH
async def test_what_is_cancelled_anywhere_is_whole_or_nothing_and_nothing_comes_later(
    conninfo: str, admin: psycopg.Connection, path: str
) -> None:
    dice, cancelled = random.Random(3), 0
    async with opened(conninfo, path, pool_max=1) as storage:
        for name, (write, whole) in WRITES.items():
            await write(storage, f"warm {name}")
            started = time.monotonic()
            await write(storage, f"timed {name}")
            took = time.monotonic() - started
            for number in range(12):
                account = f"{name} {number}"
                task = asyncio.create_task(write(storage, account))
                await asyncio.sleep(dice.uniform(0, 1.2 * took))
                for _ in range(1 + number % 3):  # cancelled again while it waits
                    task.cancel()
                    await asyncio.sleep(0)
                try:
                    await task
                    assert kept(admin, account) == whole
                except asyncio.CancelledError:
                    cancelled += 1
                when_told = kept(admin, account)
                assert when_told in (0, whole)
                await quiet(admin)
                assert kept(admin, account) == when_told
            await write(storage, f"after {name}")
    assert cancelled > 8


def at_once(coroutine: Coroutine[Any, Any, None]) -> None:
    """Run what waits for nothing, without an event loop."""
    with suppress(StopIteration):
        coroutine.send(None)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # where the handler raises in a __del__
@pytest.mark.parametrize("settings", [{}, {"prepare": False}], ids=["prepared", "unprepared"])
def test_what_a_signal_interrupts_anywhere_is_whole_or_nothing(
    conninfo: str, admin: psycopg.Connection, settings: dict[str, Any]
) -> None:
    dice, interrupted = random.Random(3), 0
    with sync.Storage(conninfo, pool_max=20, pool_timeout=3, **settings) as storage:
        for name, (write, whole) in WRITES.items():
            at_once(write(Waited(storage), f"warm {name}"))
            started = time.monotonic()
            at_once(write(Waited(storage), f"timed {name}"))
            took = time.monotonic() - started
            for number in range(12):
                account, write_ = f"{name} {number}", write(Waited(storage), f"{name} {number}")
                try:
                    with interrupted_after(dice.uniform(0.0001, 0.0001 + took)):
                        at_once(write_)
                    assert kept(admin, account) == whole
                except Interrupted:
                    interrupted += 1
                assert kept(admin, account) in (0, whole)
            at_once(write(Waited(storage), f"after {name}"))
            assert kept(admin, f"after {name}") == whole
    assert interrupted > 10


#: Steps of a call between which a signal may come.
STEPS: list[tuple[Any, str]] = [
    (PreparedStatements, "ask"),
    (PreparedStatements, "add"),
    (Prepared, "encode"),
    (Prepared, "send"),
    (Replies, "end_pipeline"),
    (Replies, "all"),
]


@pytest.mark.parametrize("settings", [{}, {"prepare": False}], ids=["prepared", "unprepared"])
@pytest.mark.parametrize("when", ["before", "behind"])
def test_an_interrupt_between_two_steps_leaves_the_connection_fit(
    conninfo: str, admin: psycopg.Connection, settings: dict[str, Any], when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted = 0

    def interrupting(original: Callable[..., Any]) -> Callable[..., Any]:
        def step(*args: Any, **kwargs: Any) -> Any:
            nonlocal interrupted
            answer = None if when == "before" and not interrupted else original(*args, **kwargs)
            if not interrupted:
                interrupted += 1
                raise Interrupted
            return answer

        return step

    for owner, name in STEPS:
        for what, (write, whole) in WRITES.items():
            with sync.Storage(conninfo, pool_max=1, pool_timeout=2, **settings) as storage:
                for number in range(2):  # the statements are not prepared yet, and then they are
                    interrupted = 0
                    account = f"{owner.__name__} {name} {what} {number}"
                    with monkeypatch.context() as patch, suppress(Interrupted):
                        patch.setattr(owner, name, interrupting(getattr(owner, name)))
                        at_once(write(Waited(storage), account))
                    for _ in range(2):
                        at_once(write(Waited(storage), f"again {account}"))
                    assert kept(admin, account) in (0, whole), account
                    assert kept(admin, f"again {account}") == 2 * whole, account


@EVERY_ASYNC_PATH
async def test_closing_while_calls_are_under_way_tells_each_the_truth(
    conninfo: str, admin: psycopg.Connection, path: str
) -> None:
    for number in range(4):
        async with opened(conninfo, path, pool_max=2) as storage:
            await _charge(storage, f"{number} warm")
            calls = [asyncio.create_task(_charge(storage, f"{number} {n}")) for n in range(60)]
            await asyncio.sleep(0.001 * number)
            await storage.close()
            told = await asyncio.gather(*calls, return_exceptions=True)
        await quiet(admin)
        for n, error in enumerate(told):
            assert error is None or isinstance(error, StorageError)
            check_truth(error, kept(admin, f"{number} {n}"), 1)


@EVERY_PATH
async def test_what_is_declared_repeatable_is_asked_again_when_its_answer_is_lost(
    conninfo: str, admin: psycopg.Connection, proxy: Proxy, path: str
) -> None:
    few = {"pool_max": 1, **({"multiplex": 1} if "shared" in path else {})}
    async with opened(proxy.conninfo, path, **few) as storage:
        made = await charges_on(storage).create(NewCharge(account="a"))
        for _ in range(3):
            await charges_on(storage).get(made.id)
            proxy.arm("answer", 0, deliver=False)
            assert await charges_on(storage).get(made.id) == made
            assert not proxy.disarm()


# ---- 12: kinds of errors ----


@pytest.fixture(scope="module")
def nobody_follows() -> Iterator[str]:
    """A database on a server whose commits wait for a standby that does not exist: done, but not confirmed."""
    folder = Path(tempfile.mkdtemp(prefix="storage-tests-"))
    folder.chmod(0o755)  # as root, the server runs under another account
    waits = {"max_wal_senders": "1", "wal_level": "replica", "synchronous_standby_names": "nobody"}
    try:
        with (
            EmbeddedServer(folder / "server", settings={**UNSAFE_BUT_FAST, **waits}) as server,
            own_database(server.conninfo("postgres"), TABLE) as conninfo,
        ):
            yield conninfo
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@EVERY_PATH
async def test_a_backend_that_is_killed_while_it_commits_gives_an_unknown_outcome(
    nobody_follows: str, path: str
) -> None:
    with psycopg.connect(nobody_follows, autocommit=True) as admin:

        def kill() -> None:
            waiting = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {OURS} AND wait_event = 'SyncRep'"
            end = time.monotonic() + 10
            while not admin.execute(waiting).fetchall():
                assert time.monotonic() < end

        admin.execute("TRUNCATE charges")
        waits = make_conninfo(nobody_follows, options="-c synchronous_commit=on")
        async with opened(waits, path, pool_max=1) as storage:
            for name, (write, whole) in WRITES.items():
                killing = asyncio.create_task(asyncio.to_thread(kill))
                with pytest.raises(OutcomeUnknown):
                    if isinstance(storage, Waited):
                        await asyncio.to_thread(asyncio.run, write(storage, name))  # type: ignore[arg-type]
                    else:
                        await write(storage, name)
                await killing
                assert kept(admin, name) == whole


@EVERY_PATH
async def test_a_backend_that_is_ended_in_a_deferred_trigger_gives_an_unknown_outcome_or_the_truth(
    conninfo: str, admin: psycopg.Connection, path: str
) -> None:
    admin.execute(
        "CREATE FUNCTION slowly() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN PERFORM pg_sleep(3); RETURN NULL; END $$;"
        "CREATE CONSTRAINT TRIGGER slowly AFTER INSERT ON charges DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW WHEN (NEW.note = 'slow') EXECUTE FUNCTION slowly()"
    )

    def end() -> None:
        with psycopg.connect(conninfo, autocommit=True) as killer:
            until_ = time.monotonic() + 10
            query = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {OURS} AND wait_event = 'PgSleep'"
            while not killer.execute(query).fetchall():
                assert time.monotonic() < until_

    async def single(storage: Any) -> None:
        await charges_on(storage).create(NewCharge(account="a", note="slow"))

    async def batch(storage: Any) -> None:
        async with storage.batch() as batch:
            batch.add(charges_on(batch).create, NewCharge(account="a", note="slow"))

    async def transaction(storage: Any) -> None:
        async with storage.transaction() as tx:
            await charges_on(tx).create(NewCharge(account="a", note="slow"))

    try:
        async with opened(conninfo, path, pool_max=1) as storage:
            for write in (single, batch, transaction):
                ending = asyncio.create_task(asyncio.to_thread(end))
                with pytest.raises(ConnectionLost) as caught:
                    if isinstance(storage, Waited):
                        await asyncio.to_thread(asyncio.run, write(storage))
                    else:
                        await write(storage)
                await ending
                check_truth(caught.value, kept(admin, "a"), 1)
    finally:
        admin.execute("DROP TRIGGER slowly ON charges; DROP FUNCTION slowly")


@EVERY_PATH
async def test_a_transaction_that_was_idle_for_too_long_is_a_lost_connection(
    conninfo: str, admin: psycopg.Connection, path: str
) -> None:
    async with opened(conninfo, path, idle_in_transaction_timeout=0.05) as storage:
        for calls in (1, 0):
            with pytest.raises(ConnectionLost) as caught:
                async with storage.transaction() as tx:
                    await charges_on(tx).create(NewCharge(account="a"))
                    pid = tx.runner.connection.info.backend_pid
                    await until(
                        lambda pid=pid: not one(admin, "SELECT count(*) FROM pg_stat_activity WHERE pid = %s", pid)
                    )
                    for _ in range(calls):
                        await charges_on(tx).count()
            check_truth(caught.value, kept(admin, "a"), 1)
            assert kept(admin, "a") == 0
        assert await charges_on(storage).count() == 0


@EVERY_PATH
async def test_a_slow_reader_of_a_small_stream_is_not_cut_off(
    conninfo: str, admin: psycopg.Connection, path: str
) -> None:
    limits = {"idle_in_transaction_timeout": 0.05, "statement_timeout": 0.1}
    async with opened(conninfo, path, pool_max=1, **limits) as storage:
        made = await charges_on(storage).create_many([NewCharge(account=str(n)) for n in range(3)])
        seen = []
        async with charges_on(storage).stream() as rows:
            async for row in rows:
                await asyncio.sleep(0.08)
                seen.append(row)
            await asyncio.sleep(0.08)
        assert seen == made
        assert await charges_on(storage).count() == 3
