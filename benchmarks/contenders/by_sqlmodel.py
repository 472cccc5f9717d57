"""SQLModel: a class that is a table and a pydantic model at once, a session of SQLAlchemy's ORM for each call."""

# pyright: reportMissingImports=false
# Who is compared with need not be installed.

from __future__ import annotations

from datetime import datetime
from functools import cache
from typing import Any, ClassVar
from uuid import UUID

from psycopg.conninfo import conninfo_to_dict

from ..workloads import New
from .base import Contender


@cache
def model() -> Any:
    """The table's class, made when SQLModel is known to be there."""
    from sqlalchemy import FetchedValue
    from sqlalchemy.dialects.postgresql import JSONB, TIMESTAMP
    from sqlmodel import Field, SQLModel

    def made_by_server(**more: Any) -> Any:
        return Field(default=None, sa_column_kwargs={"server_default": FetchedValue()}, **more)

    class BenchRow(SQLModel, table=True):  # pyright: ignore[reportGeneralTypeIssues, reportCallIssue]
        __tablename__ = "bench_rows"
        id: UUID | None = made_by_server(primary_key=True)
        owner: UUID
        body: str
        data: dict[str, Any] = Field(sa_type=JSONB)
        created_at: datetime | None = made_by_server(sa_type=TIMESTAMP(timezone=True))
        updated_at: datetime | None = made_by_server(sa_type=TIMESTAMP(timezone=True))

    return BenchRow


def values(new: New) -> dict[str, Any]:
    return {"owner": new.owner, "body": new.body, "data": new.data}


class SqlModel(Contender):
    """A session for each call; the server's values come with RETURNING, so that nothing is refreshed."""

    name: ClassVar[str] = "SQLModel"
    needs = ("sqlmodel",)

    def open(self) -> None:
        from sqlmodel import Session, create_engine

        self.engine = create_engine("postgresql+psycopg://", connect_args=conninfo_to_dict(self.conninfo))
        self.session: Any = lambda: Session(self.engine, expire_on_commit=False)
        self.row = model()

    def close(self) -> None:
        self.engine.dispose()

    def insert(self, new: New) -> object:
        with self.session() as session:
            row = self.row(**values(new))
            session.add(row)
            session.commit()
            return row

    def get(self, id: UUID) -> object:
        with self.session() as session:
            return session.get(self.row, id)

    def newest(self, owner: UUID) -> object:
        from sqlmodel import select

        query = select(self.row).where(self.row.owner == owner).order_by(self.row.id.desc()).limit(100)
        with self.session() as session:
            return session.exec(query).all()

    def many(self, new: list[New]) -> object:
        from sqlmodel import insert

        query = insert(self.row).returning(self.row)
        with self.session() as session:
            found = session.scalars(query, [values(one) for one in new]).all()
            session.commit()
            return found

    def turn(self, new: list[New]) -> object:
        with self.session() as session:
            rows = [self.row(**values(one)) for one in new]
            session.add_all(rows)
            session.commit()
            return rows

    def stream(self) -> int:
        from sqlmodel import select

        query = select(self.row).order_by(self.row.id).execution_options(yield_per=1000)
        with self.session() as session:
            return sum(1 for _row in session.exec(query))

    def update(self, id: UUID, body: str) -> object:
        from sqlmodel import update

        query = update(self.row).where(self.row.id == id).values(body=body).returning(self.row)
        with self.session() as session:
            row = session.scalars(query).one()
            session.commit()
            return row
