"""Tortoise ORM on asyncpg, with its pool; what its models fill in themselves (id, moments) is made by the client."""

# pyright: reportMissingImports=false
# Who is compared with need not be installed.

from __future__ import annotations

import sys
from functools import cache
from typing import Any, ClassVar
from uuid import UUID

from ..workloads import CONNECTIONS, New
from .base import AsyncContender, address


@cache
def model() -> Any:
    """The model, made when Tortoise is known to be there; it looks for models among a module's names."""
    from tortoise import fields
    from tortoise.models import Model

    class BenchRow(Model):
        id = fields.UUIDField(primary_key=True)
        owner = fields.UUIDField()
        body = fields.TextField()
        data: Any = fields.JSONField()
        created_at = fields.DatetimeField(auto_now_add=True)
        updated_at = fields.DatetimeField(auto_now=True)

        class Meta:
            table = "bench_rows"

    setattr(sys.modules[__name__], BenchRow.__name__, BenchRow)
    return BenchRow


class Tortoise(AsyncContender):
    """It does not stream: `async for` reads all rows first. An update does not return its row, which is read after."""

    name: ClassVar[str] = "Tortoise ORM"
    needs = ("tortoise", "asyncpg")
    methods = frozenset({"insert", "get", "newest", "many", "update", "turn", "mixed"})

    async def start(self) -> None:
        import tortoise

        self.row = model()
        credentials = {**address(self.conninfo), "minsize": CONNECTIONS, "maxsize": CONNECTIONS}
        await tortoise.Tortoise.init(
            config={
                "connections": {"default": {"engine": "tortoise.backends.asyncpg", "credentials": credentials}},
                "apps": {"benchmarks": {"models": [__name__], "default_connection": "default"}},
            }
        )
        await self.row.exists()  # it connects with its first query

    async def stop(self) -> None:
        import tortoise

        await tortoise.Tortoise.close_connections()

    async def insert(self, new: New) -> object:
        return await self.row.create(owner=new.owner, body=new.body, data=new.data)

    async def get(self, id: UUID) -> object:
        return await self.row.get(id=id)

    async def newest(self, owner: UUID) -> object:
        return await self.row.filter(owner=owner).order_by("-id").limit(100)

    async def many(self, new: list[New]) -> object:
        rows = [self.row(owner=one.owner, body=one.body, data=one.data) for one in new]
        await self.row.bulk_create(rows)
        return rows

    async def turn(self, new: list[New]) -> object:
        from tortoise.transactions import in_transaction

        async with in_transaction() as connection:
            return [
                await self.row.create(using_db=connection, owner=one.owner, body=one.body, data=one.data) for one in new
            ]

    async def update(self, id: UUID, body: str) -> object:
        await self.row.filter(id=id).update(body=body)
        return await self.row.get(id=id)
