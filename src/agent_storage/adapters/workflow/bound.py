"""The base of the parts of the facade: their repositories, and making, listing, changing or removing a row."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any, TypedDict, TypeVar, cast
from uuid import UUID

from agent_storage.adapters.text_ids import replaced, row_id
from agent_storage.adapters.workflow.records import Item
from agent_storage.errors import InvalidValue, NotFound, StorageError
from agent_storage.repository import Repository
from agent_storage.statements.records import Input, JsonObject
from agent_storage.statements.where import Order
from agent_storage.storage import Storage

I = TypeVar("I", bound=Item)  # noqa: E741  # an item


class Query(TypedDict, total=False):
    """The keywords of every list: filters as of `Repository.find`, with ids as texts; order; page."""

    where: Mapping[str, Any]
    order_by: Order
    limit: int
    offset: int


class Bound:
    """Something bound to a storage, or to one transaction of it."""

    def __init__(self, tables: Storage) -> None:
        self._tables = tables

    async def _get(self, rows: Repository[Any, Any], item: type[I], id: str) -> I | None:
        row = await rows.get(row_id(id))
        return None if row is None else item.read(row)

    async def _insert(self, rows: Repository[Any, Any], item: I, new: type[Input]) -> I:
        return item.read(await rows.create(item.to_new(new)))

    async def _list(
        self, rows: Repository[Any, Any], item: type[I], of: JsonObject, query: Query, order: Order = "created_at"
    ) -> list[I]:
        """Return the items of a list; `of` are its filters besides those of the query.

        In the default order, rows of one transaction come in the order of their creation.
        """
        given = item.filters(query.get("where") or {})
        if twice := sorted(given.keys() & of.keys()):
            raise InvalidValue(f"{rows.table}: {twice[0]} is given twice", table=rows.table, column=twice[0])
        by, limit, offset = query.get("order_by", order), query.get("limit", 100), query.get("offset", 0)
        found = await rows.find({**given, **of}, by, limit, offset)
        if "order_by" in query or order not in ("created_at", "-created_at"):
            return [item.read(row) for row in found]
        return item.read_all(found, newest_first=order == "-created_at")

    async def _update(self, rows: Repository[Any, Any], item: type[I], id: str, changes: JsonObject) -> I:
        """Change fields of the item and return it. The stored ids are written once, so reading them is safe."""
        given = changes.get(item.kept_in)
        with called(id) as key:
            if isinstance(given, dict):
                stored = getattr(await rows.require(key), item.kept_in)
                changes = {**changes, item.kept_in: replaced(stored, cast(JsonObject, given))}
            return item.read(await rows.update(key, **changes))

    async def _delete(self, rows: Repository[Any, Any], id: str) -> None:
        if not await rows.delete(row_id(id)):
            raise NotFound(f"{rows.table} has no row {_shown(id)}", table=rows.table)


@contextmanager
def called(id: str) -> Generator[UUID]:
    """Yield the UUID of a row; an error that leaves the block names the row by the caller's id."""
    key = row_id(id)
    try:
        yield key
    except NotFound as error:
        raise NotFound(f"{error.table} has no row {_shown(id)}", table=error.table) from error
    except StorageError as error:
        error.args = (str(error).replace(str(key), _shown(id)), *error.args[1:])
        raise


def _shown(id: str) -> str:
    return repr(id if len(id) <= 80 else id[:79] + "…")


def where(**filters: Any) -> JsonObject:
    """Return the filters that are given."""
    return {name: value for name, value in filters.items() if value is not None}


def where_id(id: str | None) -> Any:
    """Return the filter for an id, or None when none is given."""
    return None if id is None else row_id(id)
