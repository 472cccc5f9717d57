"""Split a patch into the document to merge and the keys to remove from the result."""

from __future__ import annotations

from enum import Enum
from typing import Any, Final, cast

from agent_storage.errors import InvalidValue
from agent_storage.statements.records import Column, Document, JsonObject, bare, columns
from agent_storage.statements.text import MAX_NESTING


class Remove(Enum):
    """The type of `REMOVE`."""

    REMOVE = "REMOVE"

    def __repr__(self) -> str:
        return self.name


#: In a patch, the value of a key that is removed. None writes JSON's null.
REMOVE: Final = Remove.REMOVE


def split(patch: JsonObject, depth: int = 0) -> tuple[JsonObject, JsonObject]:
    """Return the patch without removed keys, and the removed keys as a tree, whose leaves are true.

    Only objects are searched. A marker in a list is left, and refused as what is no JSON.
    """
    merged: JsonObject = {}
    removed: JsonObject = {}
    for key, value in patch.items():
        if value is REMOVE:
            removed[key] = True
        elif isinstance(value, dict) and depth < MAX_NESTING:
            merged[key], below = split(cast(JsonObject, value), depth + 1)
            if below:
                removed[key] = below
        else:
            merged[key] = value
    return merged, removed


def check_removed(column: Column, removed: JsonObject, *, table: str) -> None:
    """Raise `InvalidValue` if a removed key is a field that the column's `Document` requires."""
    _check(column.python_type, removed, f"{table}.{column.name}", table, column.name)


def _check(model: Any, removed: JsonObject, place: str, table: str, column: str) -> None:
    if not (isinstance(model, type) and issubclass(model, Document)):
        return
    for key, below in removed.items():
        if key not in model.model_fields:
            continue
        if below is True and model.model_fields[key].is_required():
            raise InvalidValue(f"{place}.{key} cannot be removed: the document requires it", table=table, column=column)
        if below is not True:
            _check(bare(columns(model)[key].annotation), below, f"{place}.{key}", table, column)
