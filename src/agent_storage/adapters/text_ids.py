"""Ids of other systems are any text; ours are UUIDs. A UUID is used as it is, other text maps to a UUIDv5.

The text itself is kept in one reserved key of the row's JSON document, for the row's own id and for those it refers to,
so that every id is given back as it came.
"""

from __future__ import annotations

import time
from typing import Any, cast
from uuid import UUID, uuid5

from agent_storage.errors import InvalidValue
from agent_storage.records import JsonObject

#: The reserved key.
KEY = "_ids"
_NAMESPACE = UUID("0f7b2a4e-6c1d-5a35-9e58-3d1c86f2b7aa")


def to_uuid(text: str) -> UUID:
    """The row's id for any text. Raises `InvalidValue` for an empty one."""
    if not text:
        raise InvalidValue("an id must not be empty", column="id")
    try:
        return UUID(text)
    except ValueError:
        return uuid5(_NAMESPACE, text.encode("utf-8", "surrogatepass").hex())


def to_uuid_or_none(text: str | None) -> UUID | None:
    """The row's id, or None."""
    return None if text is None else to_uuid(text)


def with_ids(document: JsonObject, **texts: str | None) -> JsonObject:
    """`document` with the texts of its ids, and when it was saved. Raises `InvalidValue` for the reserved key."""
    if KEY in document:
        raise InvalidValue(f"the key {KEY} is reserved", column=KEY)
    kept = {name: text for name, text in texts.items() if text is not None and text != str(to_uuid(text))}
    return {**document, KEY: {**kept, "at": time.time_ns()}}


def text_of(document: JsonObject, name: str, value: UUID | None) -> str | None:
    """The id as it came: its text, else the UUID's."""
    return None if value is None else str(_kept(document).get(name, value))


def saved_at(document: JsonObject) -> int:
    """When a row was saved, in nanoseconds: the order among rows of one transaction, whose times are all the same."""
    return int(_kept(document).get("at", 0))


def without_ids(document: JsonObject) -> JsonObject:
    """`document` as the caller knows it."""
    return {name: value for name, value in document.items() if name != KEY}


def _kept(document: JsonObject) -> dict[str, Any]:
    found = document.get(KEY)
    return cast(dict[str, Any], found) if isinstance(found, dict) else {}
