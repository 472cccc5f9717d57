"""A storm: 200 tasks and four threads write through every path, while connections are killed, tables are locked and
changed, calls are given up, the event loop stands still and the process forks. A ledger keeps what callers were told;
after each round the table must agree with it.

It lasts `STORAGE_STORM_SECONDS` (20; ten minutes by hand). `STORAGE_STORM_SEED` gives the choices of an
earlier run again, though not its timing.
"""

from __future__ import annotations

import asyncio
import faulthandler
import gc
import inspect
import os
import random
import signal
import socket
import socketserver
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import psycopg
import psycopg_pool
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import tuple_row

from agent_storage import (
    Conflict,
    NotFound,
    OutcomeUnknown,
    Repository,
    Retryable,
    StatementTimeout,
    Storage,
    StorageError,
    Unavailable,
    sql,
    sync,
)
from agent_storage.database.pool import Database
from agent_storage.statements.records import Input, Jsonb, JsonObject, Record
from agent_storage.types import NewProvider

# Read when the module is loaded: tests themselves see no setting of the shell.
SECONDS = float(os.environ.get("STORAGE_STORM_SECONDS") or 20)
SEED = int(os.environ.get("STORAGE_STORM_SEED") or random.SystemRandom().randrange(10**6))
#: The table is compared with the ledger, and made anew, after each round.
ROUND = 5.0
TASKS = 200
#: When a call that should have ended has hung, in seconds. A call may wait for a connection and then for its statement,
#: twice each, on a machine that is busy with other things.
PATIENCE = 90.0
#: The longest that the chaos holds a lock, in seconds.
HOLD = 0.15
#: Statements that one connection may have prepared: far more than there are here, far fewer than leaving them would.
MOST_PREPARED = 150

TABLE = """
    DROP TABLE IF EXISTS storm;
    CREATE TABLE storm (
        id uuid PRIMARY KEY DEFAULT uuid_v7(),
        tag text NOT NULL UNIQUE,
        worker integer NOT NULL,
        value integer NOT NULL,
        data jsonb NOT NULL DEFAULT '{}',
        labels text[] NOT NULL DEFAULT '{}',
        created_at timestamptz NOT NULL DEFAULT now(),
        updated_at timestamptz NOT NULL DEFAULT now()
    );
    CREATE INDEX ON storm (worker);
    CREATE TRIGGER set_timestamp BEFORE UPDATE ON storm FOR EACH ROW EXECUTE FUNCTION trigger_set_timestamp();
    CREATE OR REPLACE FUNCTION storm_slow_commit() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN PERFORM pg_sleep(0.002); RETURN NULL; END $$;
    -- The commit of every tenth row takes long enough to be hit.
    CREATE CONSTRAINT TRIGGER slow_commit AFTER INSERT OR UPDATE ON storm DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW WHEN (NEW.tag LIKE '%7') EXECUTE FUNCTION storm_slow_commit();
"""


class NewWrite(Input):
    tag: str
    worker: int
    value: int
    data: Jsonb[JsonObject] = {}
    labels: list[str] = []


class Write(Record, NewWrite):
    pass


class Writes(Repository[Write, NewWrite]):
    table = "storm"
    natural_key = ("tag",)

    @sql("UPDATE {table} SET labels = labels || %(label)s::text WHERE id = %(id)s RETURNING {columns}")
    async def label(self, id: UUID, label: str) -> Write:
        """The row with one more label: running it twice leaves two."""
        ...

    @sql("SELECT count(*)::integer FROM pg_prepared_statements", repeatable=True)
    async def prepared(self) -> int:
        """How many statements the connection that runs this has prepared."""
        ...


class SyncWrites(sync.Repository[Write, NewWrite]):
    table = "storm"
    natural_key = ("tag",)

    @sync.sql("UPDATE {table} SET labels = labels || %(label)s::text WHERE id = %(id)s RETURNING {columns}")
    def label(self, id: UUID, label: str) -> Write:
        """The same."""
        ...

    @sync.sql("SELECT count(*)::integer FROM pg_prepared_statements", repeatable=True)
    def prepared(self) -> int:
        """The same."""
        ...


# ---- one workload for both faces ----


async def done(value: Any) -> Any:
    """What a call of either face gives."""
    return await value if inspect.isawaitable(value) else value


@asynccontextmanager
async def entered(manager: Any) -> AsyncIterator[Any]:
    """A block of either face."""
    if hasattr(manager, "__aenter__"):
        async with manager as inside:
            yield inside
    else:
        with manager as inside:
            yield inside


async def taken(rows: Any, most: int | None, between: Callable[[], Awaitable[Any]]) -> list[Write]:
    """The rows of a stream of either face, not more than `most`."""
    found: list[Write] = []
    if hasattr(rows, "__aiter__"):
        async for row in rows:
            found.append(row)
            if len(found) == most:
                break
            await between()
    else:
        for row in rows:
            found.append(row)
            if len(found) == most:
                break
            await between()
    return found


def driven(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """What a coroutine returns that never waits, as those of the sync face."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError("the sync face waited for an event loop")


@dataclass
class Path:
    """A way to the database: a storage of either face, and what it was opened with."""

    name: str
    storage: Any
    #: The most connections that its pool may have, and all together.
    pool: int
    connections: int
    repository: Any = Writes
    #: Whether its connections are cut. Then what a caller cannot know may still come true.
    wire: Wire | None = None
    #: The caller's own pool, which does not look at a connection before it gives it out.
    own_pool: psycopg_pool.AsyncConnectionPool[Any] | None = None

    @property
    def application(self) -> str:
        return f"storm {self.name}"

    def writes(self, runner: Any = None) -> Any:
        return self.repository(self.storage if runner is None else runner)


class Wire(socketserver.ThreadingTCPServer):
    """A way to the server that can be cut: the server still does what it has been sent, and nobody gets its answer."""

    daemon_threads = True

    def __init__(self, conninfo: str) -> None:
        super().__init__(("127.0.0.1", 0), Relay)
        self._to = {name: str(value) for name, value in conninfo_to_dict(conninfo).items()}
        self.clients: set[socket.socket] = set()
        self.loses_answer = False
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    def connected(self) -> socket.socket:
        """A connection to PostgreSQL."""
        host, port = self._to.get("host", "localhost"), self._to.get("port", "5432")
        if not host.startswith("/"):
            return socket.create_connection((host, int(port)))
        found = socket.socket(socket.AF_UNIX)
        found.connect(f"{host}/.s.PGSQL.{port}")
        return found

    def cut(self) -> None:
        """Cut one connection, or the next one on which an answer comes."""
        if random.random() < 0.3:
            for client in random.sample(list(self.clients), min(1, len(self.clients))):
                _shut(client)
        else:
            self.loses_answer = True

    def loses(self) -> bool:
        """Whether the answer that has come is lost."""
        lost, self.loses_answer = self.loses_answer, False
        return lost

    def close(self) -> None:
        self.shutdown()
        self.server_close()


class Relay(socketserver.BaseRequestHandler):
    """Both directions of one connection."""

    def handle(self) -> None:
        wire: Any = self.server
        with wire.connected() as postgres:
            wire.clients.add(self.request)
            answers = threading.Thread(target=_pump, args=(postgres, self.request, wire.loses), daemon=True)
            answers.start()
            _pump(self.request, postgres)
            answers.join()
            wire.clients.discard(self.request)


def _pump(source: socket.socket, target: socket.socket, loses: Callable[[], bool] | None = None) -> None:
    with suppress(OSError):
        while (data := source.recv(65536)) and not (loses and loses()):
            target.sendall(data)
    _shut(target)


def _shut(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


# ---- what callers were told ----


class Undone(Exception):
    """Raised in a block to undo it."""


#: A change as it can be seen in the table: a row with its tag and value, a label of a row, a key of a row's document.
Effect = tuple[str, str, Any]


@dataclass(eq=False)
class Unit:
    """What belongs together, all or nothing, and what its caller was told of it."""

    what: str
    effects: list[Effect]
    told: str = "not asked"
    #: Errors that this unit is made to raise; then it must not succeed.
    refused_with: tuple[type[Exception], ...] = ()
    #: Where it is a savepoint, the transaction around it.
    within: Unit | None = None
    #: What somebody else saw after the caller was told that the call was given up: this must never change.
    seen: bool | None = None
    #: The deletion of its only row.
    deletion: Unit | None = None

    @property
    def kept(self) -> bool | None:
        """Whether it has to be there; None where the caller could not know."""
        return {"acknowledged": True, "kept": True, "not kept": False, "not asked": False}.get(self.told)


@dataclass(eq=False)
class Own:
    """A row that one worker alone changes, and the values that it may have after all that its worker was told."""

    id: UUID
    tag: str
    possible: set[int] = field(default_factory=lambda: {0})
    #: Values that the server may still have been sent when the connection was cut.
    under_way: set[int] = field(default_factory=set)


class Storm:
    """What all workers share in one round."""

    def __init__(self, number: int, paths: list[Path]) -> None:
        self.number = number
        self.paths = paths
        self.over = False
        self.units: list[Unit] = []
        self.owns: list[Own] = []
        #: Rows that are there for the rest of the round.
        self.known: list[Write] = []
        self.faults: list[str] = []
        self.doing: dict[int, tuple[float, str]] = {}

    def fault(self, text: str) -> None:
        """Something that must not happen."""
        self.faults.append(f"round {self.number}: {text}")
        if len(self.faults) > 20:
            self.over = True


class Worker:
    """Calls the storage, one call after the other, and keeps what it was told."""

    def __init__(self, storm: Storm, number: int, own: Own, *, threads: bool = False) -> None:
        self.storm = storm
        self.number = number
        self.own = own
        self.random = random.Random(f"{SEED} {storm.number} {number}")
        self.counts: Counter[str] = Counter()
        self.longest = 0.0
        self.paths = [path for path in storm.paths if (path.repository is SyncWrites) == threads]
        self.threads = threads
        self._made = 0
        self._set = 0
        self._deletable: list[tuple[Unit, UUID]] = []
        #: The tags of rows that are there for the rest of the round.
        self._acknowledged: list[str] = []

    async def work(self) -> None:
        """Until the round is over."""
        weights = {self._create: 18, self._create_many: 2, self._crowd: 4, self._label: 8, self._patch: 3}
        weights |= {self._set_value: 12, self._transaction: 8, self._nested: 6, self._batch: 10, self._run: 3}
        weights |= {self._get: 16, self._missing: 5, self._stream: 3, self._delete: 4}
        while not self.storm.over:
            (operation,) = self.random.choices(*zip(*weights.items(), strict=True))
            path = self.random.choice([*self.paths, self.paths[0], self.paths[0]])  # the shared connections most often
            what = f"{operation.__name__.strip('_')} on {path.name}"
            self.storm.doing[self.number] = time.monotonic(), what
            try:
                await operation(path)
            except BaseException as error:
                self.storm.fault(f"{what} let out {error!r}\n{traceback.format_exc()}")
                if not isinstance(error, Exception):
                    raise
            self.longest = max(self.longest, time.monotonic() - self.storm.doing.pop(self.number)[0])
            await self._pause()

    async def _pause(self) -> None:
        if self.threads:
            time.sleep(0.001)
        else:
            await asyncio.sleep(0)

    # ---- asking ----

    def _new(self) -> NewWrite:
        self._made += 1
        tag = f"{self.storm.number}-{self.number}-{self._made}"
        value = self.random.randrange(2**31)
        return NewWrite(tag=tag, worker=self.number, value=value, data={"tag": tag, "value": value})

    def _mark(self) -> str:
        self._made += 1
        return f"{self.number}-{self._made}"

    def _unit(self, what: str, path: Path, news: list[NewWrite], *others: Effect, within: Unit | None = None) -> Unit:
        unit = Unit(f"{what} on {path.name}", [*(("row", new.tag, new.value) for new in news), *others], within=within)
        self.storm.units.append(unit)
        return unit

    async def _ask(self, unit: Unit, work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        """What `work` gives; None when it fails or is given up. The ledger is told."""
        result = None
        try:
            result = await self._disturbed(work)
            unit.told = "acknowledged"
            if unit.refused_with:
                self.storm.fault(f"{unit.what} was accepted, though it had to be refused")
        except StorageError as error:
            unit.told = error.outcome
            self.counts[type(error).__name__] += 1
            self._judge(unit, error)
        except Undone:
            unit.told = "not kept"
        except (TimeoutError, asyncio.CancelledError):
            unit.told = "cancelled"
        self.counts[unit.told] += 1
        return result

    def _judge(self, unit: Unit, error: StorageError) -> None:
        disturbed = isinstance(error, (Unavailable, Retryable, StatementTimeout))
        if not (disturbed or isinstance(error, unit.refused_with)):
            self.storm.fault(f"{unit.what} raised {error!r}, caused by {error.__cause__!r}")
        if isinstance(error, OutcomeUnknown) != (error.outcome == "unknown"):
            self.storm.fault(f"{unit.what} raised {error!r} with the outcome {error.outcome!r}")

    async def _disturbed(self, work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        """`work`, which may be given up in one of several ways."""
        chance = self.random.random()
        if self.threads or chance < 0.7:
            return await work()
        if chance < 0.85:
            async with asyncio.timeout(self._moment()):
                return await work()
        task = asyncio.create_task(work())
        loop = asyncio.get_running_loop()
        for _ in range(self.random.choice((1, 1, 1, 2, 3))):
            loop.call_later(self._moment(), task.cancel)
        await asyncio.wait([task])
        return task.result()

    def _moment(self) -> float:
        return self.random.choice((0.001, 0.005, 0.02, 0.1)) * self.random.random()

    async def _look(self, unit: Unit, asked_on: Path) -> None:
        """See whether a call that was given up has done its work: from now on this must not change."""
        tags = [tag for kind, tag, _ in unit.effects if kind == "row"]
        if unit.told != "cancelled" or not tags or asked_on.wire or self.random.random() < 0.5:
            return
        path = self.random.choice(self.paths)
        with suppress(Unavailable, Retryable, StatementTimeout):
            found = await done(path.writes().count({"tag__in": tags}))
            self.counts["looked after"] += 1
            if found not in (0, len(tags)):
                self.storm.fault(f"{unit.what} was given up, and {found} of its {len(tags)} rows were there")
            unit.seen = found > 0

    # ---- the answers ----

    def _check(self, row: Any, new: NewWrite) -> None:
        """Whether a row is the one that was asked for."""
        if (row.tag, row.worker, row.value, row.data) != (new.tag, new.worker, new.value, new.data):
            self.storm.fault(f"{new!r} was asked for, and {row!r} was given")

    def _check_own(self, row: Any) -> None:
        if (row.id, row.tag) != (self.own.id, self.own.tag):
            self.storm.fault(f"the row {self.own.tag} was asked for, and {row!r} was given")

    def _keep(self, unit: Unit, row: Write, *, deletable: bool = False) -> None:
        if unit.told != "acknowledged":
            return
        if deletable and self.random.random() < 0.3:
            self._deletable.append((unit, row.id))
        else:
            self.storm.known.append(row)
            self._acknowledged.append(row.tag)

    # ---- what a worker does ----

    async def _create(self, path: Path) -> None:
        new = self._new()
        method = self.random.choice(("create", "create", "create", "upsert"))
        unit = self._unit(method, path, [new])
        row = await self._ask(unit, lambda: done(getattr(path.writes(), method)(new)))
        if row is not None:
            self._check(row, new)
            self._keep(unit, row, deletable=True)
        await self._look(unit, path)

    async def _create_many(self, path: Path) -> None:
        number = 1200 if self.random.random() < 0.05 else self.random.randint(2, 60)
        news = [self._new() for _ in range(number)]
        unit = self._unit(f"create_many of {number}", path, news)
        rows = await self._ask(unit, lambda: done(path.writes().create_many(news)))
        if rows is not None:
            for row, new in zip(rows, news, strict=True):
                self._check(row, new)
            self._keep(unit, rows[-1])
        await self._look(unit, path)

    async def _crowd(self, path: Path) -> None:
        """Several calls at once."""
        if self.threads:
            return
        news = [self._new() for _ in range(self.random.choice((2, 3, 4, 5, 60)))]  # also more than connections take
        units = [self._unit("create in a crowd", path, [new]) for new in news]

        async def one(unit: Unit, new: NewWrite) -> None:
            row = await self._ask(unit, lambda: done(path.writes().create(new)))
            if row is not None:
                self._check(row, new)

        await asyncio.gather(*map(one, units, news), self._get(path), self._missing(path), self._get(path))

    async def _label(self, path: Path) -> None:
        label = self._mark()
        unit = self._unit("label", path, [], ("label", self.own.tag, label))
        row = await self._ask(unit, lambda: done(path.writes().label(self.own.id, label)))
        if row is not None:
            self._check_own(row)
            if row.labels[-1] != label:
                self.storm.fault(f"the label {label} was added, and {row.labels[-1]!r} is the last")

    async def _patch(self, path: Path) -> None:
        key = self._mark()
        unit = self._unit("patch", path, [], ("key", self.own.tag, key))
        row = await self._ask(unit, lambda: done(path.writes().patch(self.own.id, data={key: True})))
        if row is not None:
            self._check_own(row)
            if key not in row.data:
                self.storm.fault(f"the key {key} was merged, and it is not there")

    async def _set_value(self, path: Path) -> None:
        """Set a value and look at it, elsewhere: no earlier call that was given up may change it any more."""
        self._set += 1
        value, unit = self._set, Unit(f"update on {path.name}", [])
        row = await self._ask(unit, lambda: done(path.writes().update(self.own.id, value=value)))
        if row is not None:
            self._check_own(row)
            if row.value != value:
                self.storm.fault(f"{unit.what} set {value} and was given {row.value}")
        if unit.kept:
            self.own.possible = {value}
        elif unit.kept is None:
            (self.own.under_way if path.wire else self.own.possible).add(value)
        if self.random.random() < 0.5:
            await self._look_at_own(self.random.choice(self.paths))

    async def _look_at_own(self, path: Path) -> None:
        row = await self._ask(Unit(f"require on {path.name}", []), lambda: done(path.writes().require(self.own.id)))
        if row is not None:
            self._check_own(row)
            if row.value not in self.own.possible | self.own.under_way:
                self.storm.fault(f"{self.own.tag} has the value {row.value}; possible: {self.own.possible}")
            self.own.possible = {row.value}

    async def _transaction(self, path: Path) -> None:
        news = [self._new() for _ in range(4)]
        label, undo = self._mark(), self.random.random() < 0.15
        unit = self._unit("transaction", path, news, ("label", self.own.tag, label))
        tags = [new.tag for new in news]

        async def work() -> None:
            async with entered(path.storage.transaction()) as tx:
                writes = path.writes(tx)
                for new in news[:2]:
                    self._check(await done(writes.create(new)), new)
                async with entered(tx.batch()) as batch:
                    made = [batch.add(path.writes(batch).create, new) for new in news[2:]]
                for later, new in zip(made, news[2:], strict=True):
                    self._check(later.result, new)
                async with entered(writes.stream({"tag__in": tags}, "tag")) as rows:
                    first = await taken(rows, self.random.choice((1, None)), self._pause)
                    self._check_own(await done(writes.label(self.own.id, label)))
                if first[0].tag != min(tags):
                    self.storm.fault(f"{unit.what} streamed {first[0]!r}")
                if undo:
                    raise Undone

        await self._ask(unit, work)
        await self._look(unit, path)

    async def _nested(self, path: Path) -> None:
        """A savepoint whose statements are given up, or which is undone; the transaction goes on."""
        outside, inside = [self._new() for _ in range(2)], [self._new() for _ in range(3)]
        outer = self._unit("transaction with a savepoint", path, outside)
        inner = self._unit("savepoint", path, inside, within=outer)
        undo = self.random.random() < 0.4

        async def block(tx: Any) -> None:
            async with entered(tx.transaction()) as nested:
                for new in inside:
                    self._check(await done(path.writes(nested).create(new)), new)
                if undo:
                    raise Undone

        async def work() -> None:
            async with entered(path.storage.transaction()) as tx:
                self._check(await done(path.writes(tx).create(outside[0])), outside[0])
                inner.told = "cancelled"
                try:
                    if self.threads or self.random.random() < 0.5:
                        await block(tx)
                    else:
                        async with asyncio.timeout(self._moment()):
                            await block(tx)
                    inner.told = "acknowledged"
                except Undone:
                    inner.told = "not kept"
                except TimeoutError as error:
                    if isinstance(error, StorageError):
                        raise
                self._check(await done(path.writes(tx).create(outside[1])), outside[1])

        await self._ask(outer, work)
        await self._look(outer, path)

    async def _batch(self, path: Path) -> None:
        news = [self._new() for _ in range(5)]
        kind = self.random.choice(("certain", "certain", "uncertain", "duplicate", "missing"))
        others: list[Effect] = []
        if kind == "uncertain":
            news, label = news[:3], self._mark()
            others.append(("label", self.own.tag, label))
        unit = self._unit(f"{kind} batch", path, news, *others)
        if kind == "duplicate":
            unit.refused_with = (Conflict,)
        elif kind == "missing":
            unit.refused_with = (NotFound,)

        async def work() -> tuple[list[Any], Any]:
            async with entered(path.storage.batch()) as batch:
                writes = path.writes(batch)
                made = [batch.add(writes.create, new) for new in news]
                own = None
                if kind == "uncertain":
                    own = batch.add(writes.label, self.own.id, label)
                    batch.add(writes.get, self.own.id)
                elif kind == "duplicate":
                    batch.add(writes.create, self.random.choice(news))
                elif kind == "missing":
                    batch.add(writes.label, uuid4(), "x")
            return made, own

        answer = await self._ask(unit, work)
        if answer is not None and not unit.refused_with:
            made, own = answer
            for later, new in zip(made, news, strict=True):
                self._check(later.result, new)
            if own is not None:
                self._check_own(own.result)
            self._keep(unit, made[0].result)
        await self._look(unit, path)

    async def _run(self, path: Path) -> None:
        """A transaction that is run again when it may be."""
        news, label = [self._new() for _ in range(2)], self._mark()
        unit = self._unit("run", path, news, ("label", self.own.tag, label))

        async def work(tx: Any) -> None:
            for new in news:
                self._check(await done(path.writes(tx).create(new)), new)
            self._check_own(await done(path.writes(tx).label(self.own.id, label)))

        given = (lambda tx: driven(work(tx))) if self.threads else work
        await self._ask(unit, lambda: done(path.storage.run(given)))
        await self._look(unit, path)

    async def _get(self, path: Path) -> None:
        """A row by its id, which was acknowledged: it is there, and it is this row that is given."""
        if not self.storm.known:
            return
        known = self.random.choice(self.storm.known)
        found = await self._ask(Unit(f"get on {path.name}", []), lambda: self._got(path, known.id))
        if found is not None and found != [known]:
            self.storm.fault(f"{known!r} was asked for on {path.name}, and {found!r} was given")

    async def _got(self, path: Path, id: UUID) -> list[Write | None]:
        return [await done(path.writes().get(id))]

    async def _missing(self, path: Path) -> None:
        """A row that is not there: the error names it."""
        missing = uuid4()
        unit = Unit(f"require on {path.name}", [], refused_with=(NotFound,))

        async def work() -> None:
            try:
                await done(path.writes().require(missing))
            except NotFound as error:
                if str(missing) not in str(error):
                    self.storm.fault(f"the missing row {missing} was asked for, and the error is {error!r}")
                raise

        await self._ask(unit, work)

    async def _stream(self, path: Path) -> None:
        """All that this worker made, or the beginning of it."""
        whole = self.random.random() < 0.5
        mine = set(self._acknowledged)

        async def work() -> list[Write]:
            async with entered(path.writes().stream({"worker": self.number}, "tag")) as rows:
                return await taken(rows, None if whole else 3, self._pause)

        rows = await self._ask(Unit(f"stream on {path.name}", []), work)
        if rows is None:
            return
        tags = [row.tag for row in rows]
        if any(row.worker != self.number for row in rows) or len(set(tags)) < len(tags):
            self.storm.fault(f"the stream of worker {self.number} on {path.name} gave {tags}")
        if whole and not mine <= set(tags):
            self.storm.fault(f"a stream on {path.name} left out {mine - set(tags)}")

    async def _delete(self, path: Path) -> None:
        """A row of this worker's, which is there: a deletion that says it was not has run twice."""
        if not self._deletable:
            return
        unit, of = self._deletable.pop()
        unit.deletion = Unit(f"delete on {path.name}", [])
        gone = await self._ask(unit.deletion, lambda: done(path.writes().delete(of)))
        if gone is False:
            self.storm.fault(f"{unit.deletion.what} of {unit.effects} found nothing")


# ---- the chaos ----


class Chaos:
    """What disturbs the workers of one round."""

    def __init__(self, storm: Storm, conninfo: str, *, locks: bool) -> None:
        self.storm = storm
        self.conninfo = conninfo
        self.locks = locks
        self.random = random.Random(f"{SEED} {storm.number} chaos")
        self.counts: Counter[str] = Counter()

    def on_the_server(self) -> None:
        """Kill, cancel, lock and change; in a thread of its own."""
        actions = [self._kill, self._cancel, self._cut, self._cut]
        if self.locks:
            actions += [self._lock_table, self._lock_rows, self._change_type, self._change_columns]
        with psycopg.connect(self.conninfo, autocommit=True) as connection:
            connection.execute("SET lock_timeout = '300ms'; SET statement_timeout = '10s'")
            while not self.storm.over:
                action = self.random.choice(actions)
                try:
                    action(connection)
                    self.counts[action.__name__.strip("_")] += 1
                except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected, psycopg.errors.QueryCanceled):
                    self.counts["too late"] += 1
                except psycopg.Error as error:
                    self.storm.fault(f"{action.__name__} failed: {error!r}")
                    return
                time.sleep(self.random.uniform(0, 0.2))

    def _victim(self, connection: psycopg.Connection, what: str) -> None:
        connection.execute(
            f"SELECT {what} FROM (SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'storm %'"
            f" ORDER BY random() LIMIT {self.random.choice((1, 1, 1, 5))}) AS victim"
        )

    def _kill(self, connection: psycopg.Connection) -> None:
        self._victim(connection, "pg_terminate_backend(pid, 2000)")

    def _cancel(self, connection: psycopg.Connection) -> None:
        self._victim(connection, "pg_cancel_backend(pid)")

    def _cut(self, _: psycopg.Connection) -> None:
        for path in self.storm.paths:
            if path.wire is not None:
                path.wire.cut()

    def _hold(self, connection: psycopg.Connection, lock: str) -> None:
        with connection.transaction(force_rollback=True):
            connection.execute(lock)
            time.sleep(self.random.uniform(0, HOLD))

    def _lock_table(self, connection: psycopg.Connection) -> None:
        self._hold(connection, "LOCK TABLE storm IN ACCESS EXCLUSIVE MODE")

    def _lock_rows(self, connection: psycopg.Connection) -> None:
        rows = "SELECT id FROM storm WHERE tag LIKE 'own-%' ORDER BY random() LIMIT 20"
        self._hold(connection, f"SELECT FROM storm WHERE id IN ({rows}) FOR UPDATE")

    def _change_type(self, connection: psycopg.Connection) -> None:
        kind = self.random.choice(("integer", "bigint"))
        connection.execute(f"ALTER TABLE storm ALTER COLUMN value TYPE {kind}")

    def _change_columns(self, connection: psycopg.Connection) -> None:
        change = self.random.choice(("ADD COLUMN IF NOT EXISTS extra text", "DROP COLUMN IF EXISTS extra"))
        connection.execute(f"ALTER TABLE storm {change}")

    async def in_the_process(self) -> None:
        """Block the event loop, fork, and take connections' prepared statements away."""
        actions = [self._block, self._block, self._discard, self._discard]
        if hasattr(os, "fork"):
            actions.append(self._fork)
        while not self.storm.over:
            action = self.random.choice(actions)
            await action()
            self.counts[action.__name__.strip("_")] += 1
            await asyncio.sleep(self.random.uniform(0, 0.2))

    async def _block(self) -> None:
        time.sleep(0.06)

    async def _discard(self) -> None:
        path = self.random.choice([path for path in self.storm.paths if path.repository is Writes])
        text = self.random.choice(("DEALLOCATE ALL", "DISCARD ALL", "DISCARD PLANS"))
        with suppress(psycopg.Error, StorageError):
            async with path.storage.database.connection() as connection:
                await connection.execute(text)

    async def _fork(self) -> None:
        child = os.fork()
        if child == 0:
            status = 99
            try:
                status = _in_child(self.storm.paths)
            finally:
                os._exit(status)
        until = time.monotonic() + PATIENCE / 2
        while True:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                if status:
                    self.storm.fault(f"a forked child ended with {os.waitstatus_to_exitcode(status)}")
                return
            if time.monotonic() > until:
                os.kill(child, 9)
                os.waitpid(child, 0)
                self.storm.fault("a forked child hangs")
                return
            await asyncio.sleep(0.01)


def _in_child(paths: list[Path]) -> int:
    """What a forked child does with its parent's storages: nothing must work, nothing must reach the parent."""

    def refused(error: BaseException) -> bool:
        return isinstance(error, StorageError) and "before fork()" in str(error)

    async def use(path: Path, part: Callable[[], Coroutine[Any, Any, Any]]) -> bool:
        try:
            await part()
        except StorageError as error:
            return refused(error)
        return False

    async def in_a_transaction(path: Path) -> None:
        async with entered(path.storage.transaction()) as tx:
            await done(path.writes(tx).prepared())

    async def all_paths() -> int:
        for number, path in enumerate(paths):
            if not await use(path, lambda path=path: done(path.writes().get(uuid4()))):
                return 10 + number
            if not await use(path, lambda path=path: in_a_transaction(path)):
                return 20 + number
            await done(path.storage.close())
        return 0

    return asyncio.run(all_paths())


# ---- the table beside the ledger ----


def effects_in(connection: psycopg.Connection[Any], storm: Storm) -> Counter[Effect]:
    """Every change that the table shows."""
    found: Counter[Effect] = Counter()
    owns = {own.tag: own for own in storm.owns}
    for tag, value, data, labels in connection.execute("SELECT tag, value, data, labels FROM storm"):
        own = owns.get(tag)
        if own is None:
            found["row", tag, value] += 1
            if data != {"tag": tag, "value": value} or labels:
                storm.fault(f"the row {tag} holds {data} and {labels}")
        else:
            found.update(("label", tag, label) for label in labels)
            found.update(("key", tag, key) for key in data)
            if value not in own.possible | own.under_way:
                storm.fault(f"{tag} has the value {value} in the end; possible: {own.possible}")
    return found


def compare(storm: Storm, found: Counter[Effect]) -> None:
    """Every unit is there or not, as its caller was told, and there is nothing else."""
    there = {unit: _there(storm, unit, found) for unit in storm.units}
    for unit in storm.units:
        shown = f"{unit.what}, told {unit.told}: {unit.effects[:6]}"
        # A savepoint shares its transaction's fate.
        wanted = unit.kept if unit.within is None else there[unit.within] and unit.kept
        if unit.deletion is not None and unit.kept:
            wanted = None if unit.deletion.kept is None else not unit.deletion.kept
        if wanted is not None and there[unit] != wanted:
            storm.fault(f"{shown} is {'' if there[unit] else 'not '}there")
        if unit.seen is not None and there[unit] != unit.seen:
            storm.fault(
                f"{shown} was {'' if unit.seen else 'not '}there when its caller looked, and now it is otherwise"
            )
    extra = found - Counter(effect for unit in storm.units for effect in unit.effects)
    if extra:
        storm.fault(f"nobody wrote {list(extra)[:6]}, or once too often")


def _there(storm: Storm, unit: Unit, found: Counter[Effect]) -> bool:
    number = sum(effect in found for effect in unit.effects)
    if number not in (0, len(unit.effects)):
        storm.fault(
            f"{unit.what}, told {unit.told}: {number} of its {len(unit.effects)} changes are there: {unit.effects[:6]}"
        )
    return number > 0


# ---- the whole ----


async def opened(stack: AsyncExitStack, conninfo: str) -> list[Path]:
    """Every way to the database, open until `stack` ends."""
    wire = Wire(conninfo)
    stack.callback(wire.close)

    def url(name: str) -> str:
        through = {"host": "127.0.0.1", "port": wire.server_address[1]} if name == "cut" else {}
        return make_conninfo(conninfo, application_name=f"storm {name}", **through)

    paths: list[Path] = []
    for name, repository, pool_max, settings in (
        ("multiplexed", Writes, 8, {"multiplex": 2}),
        ("prepared", Writes, 8, {"multiplex": 0}),
        ("unprepared", Writes, 6, {"prepare": False}),
        ("cut", Writes, 4, {"multiplex": 1}),
        ("sync", SyncWrites, 4, {}),
        ("sync unprepared", SyncWrites, 2, {"prepare": False}),
    ):
        face: Any = Storage if repository is Writes else sync.Storage
        storage = face(url(name), pool_max=pool_max, **settings)
        await done(storage.connect())
        stack.push_async_callback(_close, storage, name)
        number = pool_max + settings.get("multiplex", 0)
        paths.append(Path(name, storage, pool_max, number, repository, wire if name == "cut" else None))
    pool = psycopg_pool.AsyncConnectionPool(url("own pool"), min_size=1, max_size=4, open=False)
    await pool.open()
    stack.push_async_callback(pool.close)
    paths.append(Path("own pool", Storage("postgresql://")._on(Database.over(pool)), 4, 4, own_pool=pool))
    return paths


async def _close(storage: Any, name: str) -> None:
    async with asyncio.timeout(PATIENCE):
        await done(storage.close())


def made_anew(connection: psycopg.Connection[Any], number: int, workers: int) -> list[Own]:
    """An empty table, but for a row of each worker's own."""
    connection.execute("SET lock_timeout = '30s'")  # nobody may have been left in a transaction
    connection.execute(TABLE)
    rows = connection.execute(
        "INSERT INTO storm (tag, worker, value) SELECT 'own-' || n, n, 0 FROM generate_series(0, %s) n"
        " RETURNING id, tag",
        (workers - 1,),
    )
    return [Own(*row) for row in rows]


async def round_of(number: int, seconds: float, paths: list[Path], conninfo: str, totals: Counter[str]) -> list[str]:
    """One round; its faults."""
    storm = Storm(number, paths)
    threads_per_path = 2
    sync_paths = sum(path.repository is SyncWrites for path in paths)
    with psycopg.connect(conninfo, autocommit=True, row_factory=tuple_row) as connection:
        storm.owns = made_anew(connection, number, TASKS + threads_per_path * sync_paths)
        workers = [Worker(storm, at, own, threads=at >= TASKS) for at, own in enumerate(storm.owns)]
        chaos = Chaos(storm, conninfo, locks=number % 2 == 0)
        tasks = [asyncio.create_task(worker.work(), name=f"worker {worker.number}") for worker in workers[:TASKS]]
        tasks.append(asyncio.create_task(chaos.in_the_process(), name="chaos in the process"))
        works = [lambda worker=worker: driven(worker.work()) for worker in workers[TASKS:]]
        threads = [threading.Thread(target=work, daemon=True) for work in (*works, chaos.on_the_server)]
        for thread in threads:
            thread.start()
        await asyncio.sleep(seconds)
        storm.over = True
        await _joined(storm, tasks, threads)
        if not storm.faults:
            compare(storm, effects_in(connection, storm))
            await quiet(storm, connection)
    for counter in (*(worker.counts for worker in workers), chaos.counts):
        totals.update(counter)
    totals["longest ms"] = max(totals["longest ms"], *(round(1000 * worker.longest) for worker in workers))
    return storm.faults


async def _joined(storm: Storm, tasks: list[asyncio.Task[None]], threads: list[threading.Thread]) -> None:
    """Wait until all have ended; those that do not are faults."""
    ended, hanging = await asyncio.wait(tasks, timeout=PATIENCE)
    deadline = time.monotonic() + PATIENCE
    for thread in threads:
        await asyncio.to_thread(thread.join, max(0.0, deadline - time.monotonic()))
    for task in ended:
        if not task.cancelled() and (error := task.exception()) is not None:
            storm.fault(f"{task.get_name()} ended with {error!r}")
    now = time.monotonic()
    if hanging or any(thread.is_alive() for thread in threads):
        for number, (since, what) in storm.doing.items():
            storm.fault(f"worker {number} hangs since {now - since:.0f} s: {what}")
        faulthandler.dump_traceback(file=sys.__stderr__)
        for task in hanging:
            task.print_stack(limit=40, file=sys.__stderr__)
            task.cancel()


async def quiet(storm: Storm, connection: psycopg.Connection[Any]) -> None:
    """After the storm: no session is left in a transaction, no more connections than configured, and all works."""
    for path in storm.paths:
        if path.own_pool is not None:
            await path.own_pool.check()
        if path.wire is not None:
            path.wire.loses_answer = False
        try:
            await _works(path)
            await _all_connections(path)
        except Exception as error:
            storm.fault(f"after the storm {path.name} raised {error!r}\n{traceback.format_exc()}")
        most = await _most_prepared(path)
        if most > MOST_PREPARED:
            storm.fault(f"a connection of {path.name} has {most} prepared statements")
    deadline = time.monotonic() + 10  # the server takes a moment to end a session
    while left := _left(connection, storm.paths):
        if time.monotonic() > deadline:
            storm.fault(f"this is left on the server: {left}")
            break
        await asyncio.sleep(0.02)


def _left(connection: psycopg.Connection[Any], paths: list[Path]) -> list[Any]:
    """Sessions that are at work or in a transaction, and paths with more connections than they may have."""
    sessions = connection.execute(
        "SELECT application_name, state, query FROM pg_stat_activity WHERE application_name LIKE 'storm %'"
    ).fetchall()
    number = Counter(application for application, _, _ in sessions)
    too_many = [(path.name, number[path.application]) for path in paths if number[path.application] > path.connections]
    return too_many + [session for session in sessions if session[1] != "idle"]


async def _works(path: Path) -> None:
    """Each kind of call."""
    writes = path.writes()
    news = [NewWrite(tag=f"after-{path.name}-{uuid4()}", worker=-1, value=n) for n in range(1010)]
    made = await done(writes.create(news[0]))
    assert await done(writes.require(made.id)) == made

    async def work(tx: Any) -> None:
        await done(path.writes(tx).create(news[1]))

    await done(path.storage.run((lambda tx: driven(work(tx))) if path.repository is SyncWrites else work))
    async with entered(path.storage.batch()) as batch:
        later = batch.add(path.writes(batch).create, news[2])
    assert later.result.tag == news[2].tag
    rows = await done(writes.create_many(news[3:]))
    assert [row.tag for row in rows] == [new.tag for new in news[3:]]
    async with entered(writes.stream({"tag__like": f"after-{path.name}-%"})) as rows:
        assert len(await taken(rows, None, _at_once)) == len(news)


async def _all_connections(path: Path) -> None:
    """As many connections as it may have can be had at a time: none is lost."""
    async with AsyncExitStack() as stack:
        for _ in range(path.pool):
            await stack.enter_async_context(entered(path.storage.database.connection()))


async def _at_once() -> None:
    pass


async def _most_prepared(path: Path) -> int:
    """The most statements that one of the path's connections has prepared. Calls at once reach all of them."""
    if path.repository is SyncWrites:
        return max([path.writes().prepared() for _ in range(8)])
    return max(await asyncio.gather(*(path.writes().prepared() for _ in range(80))))


@pytest.mark.skipif("STORAGE_TEST_PATH" in os.environ, reason="it takes every path anyway")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
async def test_in_a_storm_every_caller_is_told_the_truth(migrated: str, capsys: pytest.CaptureFixture[str]) -> None:
    totals: Counter[str] = Counter()
    faults: list[str] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: faults.append(f"the event loop got {context}"))
    before = asyncio.all_tasks()
    with capsys.disabled():
        errors = os.dup(2)
    # Where not even the event loop turns any more.
    faulthandler.dump_traceback_later(SECONDS + 5 * PATIENCE, exit=True, file=errors)
    started = time.monotonic()
    number = 0
    try:
        async with AsyncExitStack() as stack:
            paths = await opened(stack, migrated)
            while not faults and (left := SECONDS - (time.monotonic() - started)) > 0.5:
                number += 1
                faults += await round_of(number, min(ROUND, left), paths, migrated, totals)
            await asyncio.sleep(0)
        gc.collect()  # finds exceptions that nobody has taken
        deadline = time.monotonic() + 10  # an iterator that was dropped is closed by a task of the event loop's own
        while any(not task.done() for task in asyncio.all_tasks() - before) and time.monotonic() < deadline:
            await asyncio.sleep(0)
        if left := [task for task in asyncio.all_tasks() - before if not task.done()]:
            faults.append(f"tasks are left: {left}")
    finally:
        faulthandler.cancel_dump_traceback_later()
        os.close(errors)
        loop.set_exception_handler(None)
        line = ", ".join(f"{count:,} {what}" for what, count in totals.most_common())
        seconds = time.monotonic() - started
        with capsys.disabled():
            sys.stdout.write(f"\nstorm {SEED}: {number} rounds in {seconds:.0f} s; {line}\n")
    assert not faults, f"seed {SEED}\n" + "\n".join(faults[:20])


# ---- what storms have found ----


@pytest.fixture
async def narrow(migrated: str) -> AsyncIterator[Storage]:
    """A storage of one connection."""
    async with Storage(migrated, multiplex=0, pool_max=1, pool_timeout=5) as storage:
        yield storage


def provider(name: str) -> NewProvider:
    return NewProvider(name=name, kind="custom")


async def until(connection: psycopg.Connection[Any], question: str) -> None:
    """Ask until the answer is yes."""
    async with asyncio.timeout(PATIENCE):
        while not connection.execute(question).fetchone()[0]:  # type: ignore[index]
            await asyncio.sleep(0.005)


async def backend_of(storage: Storage, tx: Any = None) -> int:
    """The server process of the storage's connection, which is `tx`'s where there is a transaction."""
    if tx is not None:
        return tx.runner.connection.info.backend_pid
    async with storage.database.connection() as connection:
        return connection.info.backend_pid


@contextmanager
def frozen(backend: int) -> Iterator[None]:
    """A server process stands still for a moment: it is so busy elsewhere that it has not read what is sent."""
    try:
        os.kill(backend, signal.SIGSTOP)
    except (ProcessLookupError, PermissionError):
        pytest.skip("the server runs elsewhere")
    goes_on = asyncio.get_running_loop().call_later(0.3, os.kill, backend, signal.SIGCONT)
    try:
        yield
    finally:
        goes_on.cancel()
        with suppress(ProcessLookupError):
            os.kill(backend, signal.SIGCONT)


WAITS = "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)"


@pytest.mark.parametrize("change", ["DEALLOCATE ALL", "ALTER TABLE providers ALTER COLUMN name TYPE varchar"])
async def test_a_statement_whose_first_run_was_given_up_is_prepared_again_when_it_has_to_be(
    narrow: Storage, migrated: str, change: Any
) -> None:
    row = await narrow.providers.create(provider("before"))
    with psycopg.connect(migrated, autocommit=True) as other, other.transaction():
        other.execute("SELECT FROM providers FOR UPDATE")
        task = asyncio.create_task(narrow.providers.update(row.id, name="given up"))
        await until(other, WAITS)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    async with narrow.database.connection() as connection:
        await connection.execute(change)
    assert (await narrow.providers.update(row.id, name="after")).name == "after"


async def test_a_savepoint_that_is_given_up_while_it_is_released_leaves_its_transaction_usable(narrow: Storage) -> None:
    async with narrow.transaction() as tx:
        await tx.providers.create(provider("before"))
        with suppress(TimeoutError), ExitStack() as stack:
            async with asyncio.timeout(None) as limit, tx.transaction():
                stack.enter_context(frozen(await backend_of(narrow, tx)))
                limit.reschedule(0)  # expires when the task waits for the next time, which is for RELEASE
        await tx.providers.create(provider("after"))
    assert await narrow.providers.count() == 2


async def test_a_connection_whose_call_is_given_up_while_it_goes_back_is_not_lost(
    narrow: Storage, migrated: str
) -> None:
    with psycopg.connect(migrated, autocommit=True) as other:
        pool: Any = narrow.database._pool
        with other.transaction():
            other.execute("LOCK TABLE providers IN SHARE MODE")
            task = asyncio.create_task(narrow.providers.create(provider("first")))
            await until(other, WAITS)
            await pool._lock.acquire()  # somebody else is busy with the pool
        await until(other, "SELECT EXISTS (SELECT FROM providers WHERE name = 'first')")
        while not pool._lock._waiters:
            await asyncio.sleep(0)
        task.cancel()
        pool._lock.release()
        with suppress(asyncio.CancelledError):
            await task
    await narrow.providers.create(provider("second"))


async def test_a_call_that_is_cancelled_twice_is_done_or_will_never_be(narrow: Storage, migrated: str) -> None:
    await narrow.providers.create(provider("so that the statement is prepared"))
    backend = await backend_of(narrow)
    with frozen(backend), psycopg.connect(migrated, autocommit=True) as other:
        task = asyncio.create_task(narrow.providers.create(provider("ghost")))
        for _ in range(3):
            await asyncio.sleep(0)
            task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        there = other.execute("SELECT count(*) FROM providers").fetchone()
        os.kill(backend, signal.SIGCONT)
        if await backend_of(narrow) != backend:  # the server reads what was sent, and then that nobody is there
            await until(other, f"SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = {backend})")
        assert other.execute("SELECT count(*) FROM providers").fetchone() == there


async def test_an_answer_that_came_before_the_connection_was_lost_is_given_to_its_caller(migrated: str) -> None:
    kill = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
    async with Storage(migrated, multiplex=1) as storage:
        with psycopg.connect(migrated, autocommit=True) as other:
            other.execute("INSERT INTO providers (name, kind) VALUES ('taken', 'custom')")
            with pytest.raises(Conflict):  # the statement is prepared, but has given no row yet
                await storage.providers.create(provider("taken"))
            task = asyncio.create_task(storage.providers.create(provider("new")))
            await asyncio.sleep(0)
            deadline = time.monotonic() + PATIENCE
            while other.execute("SELECT FROM providers WHERE name = 'new'").rowcount == 0:
                assert time.monotonic() < deadline
                time.sleep(0.01)  # the event loop stands still meanwhile
            other.execute(f"{kill} AND datname = current_database()")

            async def find_the_connection_dead() -> None:
                time.sleep(0.005)
                await storage.providers.count()

            # The next turn of the event loop reads the answer; before the caller gets it, this one has its turn.
            others: list[asyncio.Task[None]] = []
            loop = asyncio.get_running_loop()
            loop.call_soon(lambda: others.append(asyncio.create_task(find_the_connection_dead())))
            assert (await task).name == "new"
            await asyncio.gather(*others)


async def test_a_connection_of_a_pool_of_ones_own_is_not_lost_whenever_its_call_is_given_up(migrated: str) -> None:
    pool = psycopg_pool.AsyncConnectionPool(migrated, min_size=1, max_size=1, timeout=5, open=False)
    async with pool:
        storage = Storage("postgresql://")._on(Database.over(pool))

        async def use() -> None:
            async with storage.database.connection():
                time.sleep(0.05)

        await use()
        for turns in range(6):
            time.sleep(0.05)  # psycopg lets others have their turn where the event loop was busy
            task = asyncio.create_task(use())
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            assert await storage.providers.count() == 0
