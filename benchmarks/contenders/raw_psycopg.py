"""psycopg as it is: one autocommit connection, usual formats and preparing, three kinds of rows; async over a pool."""

from __future__ import annotations

from typing import Any, ClassVar
from uuid import UUID

import psycopg
import psycopg_pool
from psycopg.rows import class_row, dict_row, tuple_row
from psycopg.types.json import Jsonb

from ..workloads import CONNECTIONS, New, Row
from .base import AsyncContender, Contender

COLUMNS = "id, owner, body, data, created_at, updated_at"
INSERT = f"INSERT INTO bench_rows (owner, body, data) VALUES (%s, %s, %s) RETURNING {COLUMNS}"
GET = f"SELECT {COLUMNS} FROM bench_rows WHERE id = %s"
NEWEST = f"SELECT {COLUMNS} FROM bench_rows WHERE owner = %s ORDER BY id DESC LIMIT 100"
STREAM = f"SELECT {COLUMNS} FROM bench_rows ORDER BY id"
UPDATE = f"UPDATE bench_rows SET body = %s WHERE id = %s RETURNING {COLUMNS}"

ALONE = "INSERT INTO bench_rows (owner, body, data) SELECT %s, 'Message ' || n, %s FROM generate_series(1, %s) n"
SLOW = "SELECT true FROM pg_sleep(%s)"


def values(new: New) -> tuple[Any, ...]:
    return new.owner, new.body, Jsonb(new.data)


class Tuples(Contender):
    """Rows as tuples."""

    name: ClassVar[str] = "psycopg tuple"
    factory: ClassVar[Any] = staticmethod(tuple_row)

    def open(self) -> None:
        self.connection = psycopg.connect(self.conninfo, autocommit=True, row_factory=type(self).factory)

    def close(self) -> None:
        self.connection.close()

    def insert(self, new: New) -> object:
        return self.connection.execute(INSERT, values(new)).fetchone()

    def get(self, id: UUID) -> object:
        return self.connection.execute(GET, (id,)).fetchone()

    def newest(self, owner: UUID) -> object:
        return self.connection.execute(NEWEST, (owner,)).fetchall()

    def many(self, new: list[New]) -> object:
        found: list[Any] = []
        with self.connection.transaction(), self.connection.cursor() as cursor:
            cursor.executemany(INSERT, [values(one) for one in new], returning=True)
            for result in cursor.results():
                found += result.fetchall()
        return found

    def turn(self, new: list[New]) -> object:
        with self.connection.transaction():
            return [self.insert(one) for one in new]

    def stream(self) -> int:
        with self.connection.cursor() as cursor:
            return sum(1 for _row in cursor.stream(STREAM, size=1000))

    def update(self, id: UUID, body: str) -> object:
        return self.connection.execute(UPDATE, (body, id)).fetchone()


class Dicts(Tuples):
    """Rows as dicts: what the others are compared with."""

    name: ClassVar[str] = "psycopg dict_row"
    factory = staticmethod(dict_row)


class Models(Tuples):
    """Rows as pydantic models."""

    name: ClassVar[str] = "psycopg class_row"
    factory = staticmethod(class_row(Row))


class PipelinedDicts(Dicts):
    """Rows as dicts, a transaction's statements in psycopg's pipeline mode: three round trips, its fewest.

    The other way round, with the transaction inside the pipeline, it waits more often; so does reading inside it.
    """

    name: ClassVar[str] = "psycopg pipeline, dict_row"
    methods = frozenset({"turn"})

    def turn(self, new: list[New]) -> object:
        with self.connection.transaction():
            with self.connection.pipeline():
                cursors = [self.connection.execute(INSERT, values(one)) for one in new]
            return [cursor.fetchone() for cursor in cursors]


class ServerAlone(Tuples):
    """The server makes the rows itself, and nothing comes back: the least that storing them costs."""

    name: ClassVar[str] = "server alone"
    methods = frozenset({"many"})
    elsewhere = True

    def many(self, new: list[New]) -> object:
        return self.connection.execute(ALONE, (new[0].owner, Jsonb(new[0].data), len(new)))


class PooledDicts(AsyncContender):
    """Rows as dicts on asyncio, over psycopg_pool, as many tasks would use it."""

    name: ClassVar[str] = "psycopg async pool, dict_row"
    methods = frozenset({"insert", "get", "newest", "update", "mixed", "uneven", "turn"})

    async def start(self) -> None:
        arguments = {"autocommit": True, "row_factory": dict_row}
        self.pool: psycopg_pool.AsyncConnectionPool[Any] = psycopg_pool.AsyncConnectionPool(
            self.conninfo, min_size=CONNECTIONS, max_size=CONNECTIONS, kwargs=arguments, open=False
        )
        await self.pool.open(wait=True)

    async def stop(self) -> None:
        await self.pool.close()

    async def _one(self, text: Any, given: tuple[Any, ...]) -> object:
        async with self.pool.connection() as connection:
            return await (await connection.execute(text, given)).fetchone()

    async def insert(self, new: New) -> object:
        return await self._one(INSERT, values(new))

    async def turn(self, new: list[New]) -> object:
        async with self.pool.connection() as connection, connection.transaction():
            return [await (await connection.execute(INSERT, values(one))).fetchone() for one in new]

    async def get(self, id: UUID) -> object:
        return await self._one(GET, (id,))

    async def slow(self, seconds: float) -> object:
        return await self._one(SLOW, (seconds,))

    async def update(self, id: UUID, body: str) -> object:
        return await self._one(UPDATE, (body, id))

    async def newest(self, owner: UUID) -> object:
        async with self.pool.connection() as connection:
            return await (await connection.execute(NEWEST, (owner,))).fetchall()
