"""SQLAlchemy 2: the ORM with a session for each call, sync and async, and Core's mappings."""

# pyright: reportMissingImports=false
# Who is compared with need not be installed.

from __future__ import annotations

from functools import cache
from typing import Any, ClassVar
from uuid import UUID

from psycopg.conninfo import conninfo_to_dict

from ..workloads import CONNECTIONS, New
from .base import ALONE, AsyncContender, Contender, address


@cache
def mapped() -> Any:
    """The mapped class, made when SQLAlchemy is known to be there."""
    from sqlalchemy import FetchedValue, Text, Uuid
    from sqlalchemy.dialects.postgresql import JSONB, TIMESTAMP
    from sqlalchemy.orm import DeclarativeBase, mapped_column

    class Base(DeclarativeBase):
        pass

    class BenchRow(Base):
        __tablename__ = "bench_rows"
        id = mapped_column(Uuid, primary_key=True, server_default=FetchedValue())
        owner = mapped_column(Uuid)
        body = mapped_column(Text)
        data = mapped_column(JSONB)
        created_at = mapped_column(TIMESTAMP(timezone=True), server_default=FetchedValue())
        updated_at = mapped_column(TIMESTAMP(timezone=True), server_default=FetchedValue())

    return BenchRow


class Queries:
    """The statements, for a mapped class or its table."""

    def __init__(self, source: Any, columns: Any) -> None:
        self.source, self.columns = source, columns

    def insert(self) -> Any:
        from sqlalchemy import insert

        return insert(self.source).returning(self.source)

    def get(self, id: UUID) -> Any:
        from sqlalchemy import select

        return select(self.source).where(self.columns.id == id)

    def newest(self, owner: UUID) -> Any:
        from sqlalchemy import select

        return select(self.source).where(self.columns.owner == owner).order_by(self.columns.id.desc()).limit(100)

    def stream(self) -> Any:
        from sqlalchemy import select

        return select(self.source).order_by(self.columns.id).execution_options(yield_per=1000)

    def update(self, id: UUID, body: str) -> Any:
        from sqlalchemy import update

        return update(self.source).where(self.columns.id == id).values(body=body).returning(self.source)


def values(new: New) -> dict[str, Any]:
    return {"owner": new.owner, "body": new.body, "data": new.data}


class Orm(Contender):
    """The ORM on psycopg, a session for each call."""

    name: ClassVar[str] = "SQLAlchemy ORM"
    needs = ("sqlalchemy",)

    def open(self) -> None:
        from sqlalchemy import create_engine
        from sqlalchemy.orm import Session

        self.engine = create_engine("postgresql+psycopg://", connect_args=conninfo_to_dict(self.conninfo))
        self.session: Any = lambda: Session(self.engine, expire_on_commit=False)
        self.queries = Queries(mapped(), mapped())

    def close(self) -> None:
        self.engine.dispose()

    def insert(self, new: New) -> object:
        with self.session() as session:
            row = mapped()(**values(new))
            session.add(row)
            session.commit()
            return row

    def turn(self, new: list[New]) -> object:
        with self.session() as session:
            rows = [mapped()(**values(one)) for one in new]
            for row in rows:
                session.add(row)
                session.flush()
            session.commit()
            return rows

    def get(self, id: UUID) -> object:
        with self.session() as session:
            return session.get(mapped(), id)

    def newest(self, owner: UUID) -> object:
        with self.session() as session:
            return session.scalars(self.queries.newest(owner)).all()

    def many(self, new: list[New]) -> object:
        with self.session() as session:
            found = session.scalars(self.queries.insert(), [values(one) for one in new]).all()
            session.commit()
            return found

    def stream(self) -> int:
        with self.session() as session:
            return sum(1 for _row in session.scalars(self.queries.stream()))

    def update(self, id: UUID, body: str) -> object:
        with self.session() as session:
            row = session.scalars(self.queries.update(id, body)).one()
            session.commit()
            return row


class AddAll(Orm):
    """The ORM's unit of work, which most programs use for many rows too."""

    name: ClassVar[str] = "SQLAlchemy add_all"
    methods = frozenset({"many"})

    def many(self, new: list[New]) -> object:
        with self.session() as session:
            rows = [mapped()(**values(one)) for one in new]
            session.add_all(rows)
            session.commit()
            return rows


class AllAtOnce(Orm):
    """Every row in one list, as most programs read them."""

    name: ClassVar[str] = "SQLAlchemy all()"
    methods = frozenset({"stream"})

    def stream(self) -> int:
        with self.session() as session:
            return len(session.scalars(self.queries.stream().execution_options(yield_per=None)).all())


class Core(Contender):
    """Core on psycopg, rows as mappings, a connection of the pool for each call."""

    name: ClassVar[str] = "SQLAlchemy Core"
    needs = ("sqlalchemy",)
    methods = ALONE - {"turn"}

    def open(self) -> None:
        from sqlalchemy import create_engine

        self.engine = create_engine("postgresql+psycopg://", connect_args=conninfo_to_dict(self.conninfo))
        table = mapped().__table__
        self.queries = Queries(table, table.c)

    def close(self) -> None:
        self.engine.dispose()

    def _rows(self, query: Any, given: Any = None) -> Any:
        with self.engine.begin() as connection:
            return connection.execute(query, given).mappings().all()

    def insert(self, new: New) -> object:
        return self._rows(self.queries.insert(), values(new))[0]

    def get(self, id: UUID) -> object:
        return self._rows(self.queries.get(id))[0]

    def newest(self, owner: UUID) -> object:
        return self._rows(self.queries.newest(owner))

    def many(self, new: list[New]) -> object:
        return self._rows(self.queries.insert(), [values(one) for one in new])

    def stream(self) -> int:
        with self.engine.connect() as connection:
            return sum(1 for _row in connection.execute(self.queries.stream()).mappings())

    def update(self, id: UUID, body: str) -> object:
        return self._rows(self.queries.update(id, body))[0]


class AsyncOrm(AsyncContender):
    """The ORM on asyncpg, a session for each call."""

    name: ClassVar[str] = "SQLAlchemy ORM async"
    needs = ("sqlalchemy", "asyncpg", "greenlet")
    methods = frozenset({"insert", "get", "newest", "mixed", "turn"})

    async def start(self) -> None:
        from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

        where = address(self.conninfo)
        self.engine = create_async_engine(
            "postgresql+asyncpg://", connect_args=where, pool_size=CONNECTIONS, max_overflow=0
        )
        self.session: Any = lambda: AsyncSession(self.engine, expire_on_commit=False)
        self.queries = Queries(mapped(), mapped())

    async def stop(self) -> None:
        await self.engine.dispose()

    async def insert(self, new: New) -> object:
        async with self.session() as session:
            row = mapped()(**values(new))
            session.add(row)
            await session.commit()
            return row

    async def turn(self, new: list[New]) -> object:
        async with self.session() as session:
            rows = [mapped()(**values(one)) for one in new]
            for row in rows:
                session.add(row)
                await session.flush()
            await session.commit()
            return rows

    async def get(self, id: UUID) -> object:
        async with self.session() as session:
            return await session.get(mapped(), id)

    async def newest(self, owner: UUID) -> object:
        async with self.session() as session:
            return (await session.scalars(self.queries.newest(owner))).all()
