"""The base of every contender: its name, its requirements, and the timing of calls of its methods."""

# pyright: reportMissingImports=false
# Who is compared with need not be installed.

from __future__ import annotations

import asyncio
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from typing import Any, ClassVar

from psycopg.conninfo import conninfo_to_dict

from ..figures import percentile
from ..workloads import AT_ONCE, New, Slow, Work

#: The methods that one caller uses; `mixed` is what many do at once, `uneven` the same with slow calls in between.
ALONE = frozenset({"insert", "get", "newest", "many", "stream", "update", "turn"})


class Contender(ABC):
    """One way to reach the database. Calls are made one after the other, in this thread."""

    name: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ()
    methods: ClassVar[frozenset[str]] = ALONE
    #: Its work is done in another process.
    elsewhere: ClassVar[bool] = False

    def __init__(self, conninfo: str) -> None:
        self.conninfo = conninfo
        #: The 99th percentile of the last round, in seconds, where many tasks worked at once.
        self.p99: float | None = None
        #: The processor time of the last round, in seconds, where another process did it and says so.
        self.cpu: float | None = None

    @classmethod
    def missing(cls) -> str | None:
        """The name of a module that is not installed."""
        return next((name for name in cls.needs if find_spec(name) is None), None)

    @abstractmethod
    def open(self) -> None:
        """Connect."""

    @abstractmethod
    def close(self) -> None:
        """Disconnect."""

    def time(self, work: Work, arguments: Sequence[tuple[Any, ...]]) -> float:
        """Seconds for all calls together."""
        method = getattr(self, work.method)
        started = time.perf_counter()
        for given in arguments:
            method(*given)
        return time.perf_counter() - started


class AsyncContender(Contender):
    """A contender on a separate event loop, which is uvloop's if `uvloop` is true."""

    uvloop: ClassVar[bool] = False

    def __init__(self, conninfo: str) -> None:
        super().__init__(conninfo)
        self.runner = asyncio.Runner(loop_factory=self._loop)

    def _loop(self) -> asyncio.AbstractEventLoop:
        if not self.uvloop:
            return asyncio.new_event_loop()
        import uvloop

        return uvloop.new_event_loop()

    @abstractmethod
    async def start(self) -> None:
        """Connect."""

    @abstractmethod
    async def stop(self) -> None:
        """Disconnect."""

    @abstractmethod
    async def get(self, id: Any) -> object:
        """A row by its key."""

    @abstractmethod
    async def insert(self, new: New) -> object:
        """A new row."""

    async def slow(self, seconds: float) -> object:
        """A statement that takes so long, for those whose `methods` hold `uneven`."""
        raise NotImplementedError

    def open(self) -> None:
        self.runner.run(self.start())

    def close(self) -> None:
        self.runner.run(self.stop())
        self.runner.close()

    def time(self, work: Work, arguments: Sequence[tuple[Any, ...]]) -> float:
        timed = (
            self._together(arguments, work.tasks) if work.method in AT_ONCE else self._in_turn(work.method, arguments)
        )
        return self.runner.run(timed)

    async def _in_turn(self, name: str, arguments: Sequence[tuple[Any, ...]]) -> float:
        method = getattr(self, name)
        started = time.perf_counter()
        for given in arguments:
            await method(*given)
        return time.perf_counter() - started

    async def _together(self, arguments: Sequence[tuple[Any, ...]], tasks: int) -> float:
        """The tasks take from one list: a row to be inserted, the id of one to get, or how long to be slow.

        The time of slow calls themselves is left out of the percentile: how do the others fare beside them?
        """
        left: Iterator[tuple[Any, ...]] = iter(arguments)
        took: list[float] = []

        async def task() -> None:
            for (given,) in left:
                begun = time.perf_counter()
                if isinstance(given, Slow):
                    await self.slow(given.seconds)
                    continue
                await (self.insert(given) if isinstance(given, New) else self.get(given))
                took.append(time.perf_counter() - begun)

        started = time.perf_counter()
        await asyncio.gather(*(task() for _ in range(tasks)))
        seconds = time.perf_counter() - started
        self.p99 = percentile(took, 0.99)
        return seconds


def address(conninfo: str) -> dict[str, Any]:
    """The parts of a connection string, in asyncpg's names."""
    part = conninfo_to_dict(conninfo)
    found = {"host": part.get("host"), "user": part.get("user"), "database": part.get("dbname")}
    return {**found, "port": int(part.get("port") or 5432), "password": part.get("password")}


def environment(conninfo: str) -> dict[str, str]:
    """This process's environment, with the parts of a connection string in PostgreSQL's own variables."""
    part = conninfo_to_dict(conninfo)
    keys = {"host": "PGHOST", "port": "PGPORT", "user": "PGUSER", "dbname": "PGDATABASE", "password": "PGPASSWORD"}
    return {**os.environ, **{name: str(part[key]) for key, name in keys.items() if part.get(key)}}
