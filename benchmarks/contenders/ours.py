"""This package, both faces: a repository declared on the benchmark's table, over the storage's own pool."""

from __future__ import annotations

from typing import ClassVar
from uuid import UUID

import agent_storage
from agent_storage import Repository, sql, sync
from agent_storage.statements.records import Input, Jsonb, JsonObject, Record
from agent_storage.sync.repository import Repository as SyncRepository
from agent_storage.sync.repository import sql as sync_sql

from ..workloads import CONNECTIONS, New
from .base import ALONE, AsyncContender, Contender


class NewBenchRow(Input):
    """Fields to create a row."""

    owner: UUID
    body: str
    data: Jsonb[JsonObject]


class BenchRow(Record, NewBenchRow):
    """A row."""


class BenchRows(Repository[BenchRow, NewBenchRow]):
    """The benchmark's rows."""

    table = "bench_rows"

    @sql("SELECT {columns} FROM {table} WHERE owner = %(owner)s ORDER BY id DESC LIMIT 100", repeatable=True)
    async def newest(self, owner: UUID) -> list[BenchRow]:
        """The newest 100 of an owner."""
        ...

    @sql("SELECT true FROM pg_sleep(%(seconds)s)", repeatable=True)
    async def slow(self, seconds: float) -> bool:
        """A statement that takes its time."""
        ...


class SyncBenchRows(SyncRepository[BenchRow, NewBenchRow]):
    """The benchmark's rows, without await."""

    table = "bench_rows"

    @sync_sql("SELECT {columns} FROM {table} WHERE owner = %(owner)s ORDER BY id DESC LIMIT 100", repeatable=True)
    def newest(self, owner: UUID) -> list[BenchRow]:
        """The newest 100 of an owner."""
        ...


def given(new: New) -> NewBenchRow:
    return NewBenchRow(owner=new.owner, body=new.body, data=new.data)


class Ours(AsyncContender):
    """The async face on asyncio's loop."""

    name: ClassVar[str] = "agent-storage async"
    methods = ALONE | {"mixed", "uneven"}

    async def start(self) -> None:
        self.storage = agent_storage.Storage(self.conninfo, pool_max=CONNECTIONS)
        await self.storage.connect()
        self.rows = BenchRows(self.storage)

    async def stop(self) -> None:
        await self.storage.close()

    async def insert(self, new: New) -> object:
        return await self.rows.create(given(new))

    async def get(self, id: UUID) -> object:
        return await self.rows.get(id)

    async def newest(self, owner: UUID) -> object:
        return await self.rows.newest(owner)

    async def slow(self, seconds: float) -> object:
        return await self.rows.slow(seconds)

    async def many(self, new: list[New]) -> object:
        return await self.rows.create_many([given(one) for one in new])

    async def turn(self, new: list[New]) -> object:
        async with self.storage.batch() as batch:
            rows = BenchRows(batch)
            made = [batch.add(rows.create, given(one)) for one in new]
        return [one.result for one in made]

    async def stream(self) -> int:
        count = 0
        async with self.rows.stream() as rows:
            async for _row in rows:
                count += 1
        return count

    async def update(self, id: UUID, body: str) -> object:
        return await self.rows.update(id, body=body)


class OursTransaction(Ours):
    """A turn in a transaction, a statement at a time: what a batch saves."""

    name: ClassVar[str] = "agent-storage async, transaction"
    methods = frozenset({"turn"})

    async def turn(self, new: list[New]) -> object:
        async with self.storage.transaction() as tx:
            rows = BenchRows(tx)
            return [await rows.create(given(one)) for one in new]


class OursUvloop(Ours):
    """The async face on uvloop."""

    name: ClassVar[str] = "agent-storage async, uvloop"
    needs = ("uvloop",)
    uvloop = True


class OursSync(Contender):
    """The sync face."""

    name: ClassVar[str] = "agent-storage sync"

    def open(self) -> None:
        self.storage = sync.Storage(self.conninfo, pool_max=CONNECTIONS)
        self.storage.connect()
        self.rows = SyncBenchRows(self.storage)

    def close(self) -> None:
        self.storage.close()

    def insert(self, new: New) -> object:
        return self.rows.create(given(new))

    def get(self, id: UUID) -> object:
        return self.rows.get(id)

    def newest(self, owner: UUID) -> object:
        return self.rows.newest(owner)

    def many(self, new: list[New]) -> object:
        return self.rows.create_many([given(one) for one in new])

    def turn(self, new: list[New]) -> object:
        with self.storage.batch() as batch:
            rows = SyncBenchRows(batch)
            made = [batch.add(rows.create, given(one)) for one in new]
        return [one.result for one in made]

    def stream(self) -> int:
        with self.rows.stream() as rows:
            return sum(1 for _row in rows)

    def update(self, id: UUID, body: str) -> object:
        return self.rows.update(id, body=body)
