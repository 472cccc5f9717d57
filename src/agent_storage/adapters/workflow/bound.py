"""The base of the parts of the facade: their repositories, and changing or removing a row."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, TypeVar, cast
from uuid import UUID

from agent_storage import Repository, Storage
from agent_storage.adapters.text_ids import replaced, row_id
from agent_storage.adapters.workflow.records import Item
from agent_storage.errors import NotFound, StorageError
from agent_storage.statements.records import JsonObject

I = TypeVar("I", bound=Item)  # noqa: E741  # an item


class Bound:
    """Something bound to a storage, or to one transaction of it."""

    def __init__(self, tables: Storage) -> None:
        self._tables = tables

    async def _get(self, rows: Repository[Any, Any], item: type[I], id: str) -> I | None:
        row = await rows.get(row_id(id))
        return None if row is None else item.read(row)

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
