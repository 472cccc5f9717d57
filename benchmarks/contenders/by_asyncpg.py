"""asyncpg with orjson, each record made a pydantic model: on one connection, and over its pool for many tasks."""

# pyright: reportMissingImports=false
# Who is compared with need not be installed.

from __future__ import annotations

from typing import Any, ClassVar
from uuid import UUID

import orjson

from ..workloads import CONNECTIONS, New, Row
from .base import AsyncContender, address

COLUMNS = "id, owner, body, data, created_at, updated_at"
INSERT = f"INSERT INTO bench_rows (owner, body, data) VALUES ($1, $2, $3) RETURNING {COLUMNS}"
GET = f"SELECT {COLUMNS} FROM bench_rows WHERE id = $1"
NEWEST = f"SELECT {COLUMNS} FROM bench_rows WHERE owner = $1 ORDER BY id DESC LIMIT 100"
STREAM = f"SELECT {COLUMNS} FROM bench_rows ORDER BY id"
SLOW = "SELECT true FROM pg_sleep($1)"
UPDATE = f"UPDATE bench_rows SET body = $1 WHERE id = $2 RETURNING {COLUMNS}"


def dumped(value: object) -> str:
    return orjson.dumps(value).decode()


async def speak_json(connection: Any) -> None:
    await connection.set_type_codec("jsonb", encoder=dumped, decoder=orjson.loads, schema="pg_catalog")


def model(record: Any) -> Row:
    return Row(**record)


def as_it_is(record: Any) -> Any:
    return record


class OneConnection(AsyncContender):
    """One connection for all calls."""

    name: ClassVar[str] = "asyncpg + pydantic"
    needs = ("asyncpg",)
    made: ClassVar[Any] = staticmethod(model)

    async def start(self) -> None:
        import asyncpg

        self.connection: Any = await asyncpg.connect(**address(self.conninfo))
        await speak_json(self.connection)

    async def stop(self) -> None:
        await self.connection.close()

    async def insert(self, new: New) -> object:
        return self.made(await self.connection.fetchrow(INSERT, new.owner, new.body, new.data))

    async def get(self, id: UUID) -> object:
        return self.made(await self.connection.fetchrow(GET, id))

    async def newest(self, owner: UUID) -> object:
        return [self.made(row) for row in await self.connection.fetch(NEWEST, owner)]

    async def many(self, new: list[New]) -> object:
        given = [(one.owner, one.body, one.data) for one in new]
        async with self.connection.transaction():
            return [self.made(row) for row in await self.connection.fetchmany(INSERT, given)]

    async def turn(self, new: list[New]) -> object:
        async with self.connection.transaction():
            return [await self.insert(one) for one in new]

    async def stream(self) -> int:
        count = 0
        async with self.connection.transaction():
            async for row in self.connection.cursor(STREAM, prefetch=1000):
                self.made(row)
                count += 1
        return count

    async def update(self, id: UUID, body: str) -> object:
        return self.made(await self.connection.fetchrow(UPDATE, body, id))


class OneConnectionUvloop(OneConnection):
    """The same on uvloop."""

    name: ClassVar[str] = "asyncpg + pydantic, uvloop"
    needs = ("asyncpg", "uvloop")
    uvloop = True


class Raw(OneConnection):
    """Its own records, as it gives them."""

    name: ClassVar[str] = "asyncpg raw"
    made = staticmethod(as_it_is)


class Pooled(OneConnection):
    """Its pool, which resets a connection that comes back."""

    name: ClassVar[str] = "asyncpg pool + pydantic"
    methods = frozenset({"mixed", "uneven"})

    async def start(self) -> None:
        import asyncpg

        where = address(self.conninfo)
        self.connection = await asyncpg.create_pool(
            **where, min_size=CONNECTIONS, max_size=CONNECTIONS, init=speak_json
        )

    async def slow(self, seconds: float) -> object:
        return await self.connection.fetchval(SLOW, seconds)


class PooledUvloop(Pooled):
    """Its pool on uvloop."""

    name: ClassVar[str] = "asyncpg pool + pydantic, uvloop"
    needs = ("asyncpg", "uvloop")
    uvloop = True
