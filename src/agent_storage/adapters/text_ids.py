"""Ids that are any text, on tables whose ids are UUIDs.

A text that is a UUID is used as it is; another one maps to a UUIDv5. So that it can be given back as it came, the row
remembers the text under one reserved key of one of its JSON columns, for its own id and for the ids that it refers to.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import itemgetter
from typing import Any, TypeVar, cast
from uuid import UUID

from agent_storage.errors import InvalidValue
from agent_storage.statements.ids import uuid7
from agent_storage.statements.records import JsonObject, Record

R = TypeVar("R", bound=Record)

#: The namespace of the UUIDv5s. It never changes: stored ids depend on it.
NAMESPACE = UUID("6f0a6c1e-2f57-5d0b-9c4e-0b8f5a1d7e93")
#: The key that a row's JSON column keeps texts under; callers never see it.
RESERVED = "_ids"

# Inside the reserved object: a UUIDv7 of when the row was made; a value that the caller stored under the reserved key,
# so that none of it is lost or misread; and the caller's JSON itself, where that is no object. The first also differs
# when the same item is saved again, which the interface refuses, while `create` returns the row.
_MADE, _OWN, _VALUE = "$made", "$own", "$value"

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


def row_id(text: str) -> UUID:
    """Return the UUID of the row that a text names.

    Equal texts give equal UUIDs. Raises `InvalidValue` for an empty text.
    """
    if not isinstance(text, str) or not text:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidValue("an id must be a text that is not empty", column="id")
    if _UUID.fullmatch(text):
        return UUID(text)
    # Not uuid.uuid5(): it cannot take lone surrogates, which model output holds now and then.
    digest = hashlib.sha1(NAMESPACE.bytes + text.encode("utf-8", "surrogatepass"), usedforsecurity=False).digest()
    return UUID(bytes=digest[:16], version=5)


def to_row(
    values: Mapping[str, Any], kept_in: str, references: Iterable[str], *, ordered: bool = True
) -> dict[str, Any]:
    """Return `values` with UUIDs for the texts of `references`.

    A text that its UUID does not reproduce is added to the JSON of `kept_in`; with `ordered` also a UUIDv7 for the
    order of creation.
    """
    row = dict(values)
    kept: JsonObject = {}
    for name in references:
        text = row[name]
        if text is None:
            continue
        row[name] = row_id(text)
        if str(row[name]) != text:
            kept[name] = text
    if ordered and "id" in row:
        kept[_MADE] = str(uuid7())
    row[kept_in] = _with_kept(row[kept_in], kept)
    return row


def from_row(row: Record, kept_in: str, references: Iterable[str]) -> dict[str, Any]:
    """Return the fields of a row as the caller gave them: texts for UUIDs, and without what was added."""
    values = {name: getattr(row, name) for name in type(row).model_fields}
    document, kept = _split(values[kept_in])
    values[kept_in] = document
    for name in references:
        if values[name] is not None:
            values[name] = _text(values[name], kept.get(name))
    return values


def replaced(stored: JsonObject, given: JsonObject) -> JsonObject:
    """Return the JSON that replaces `stored`: the JSON of the caller, and the texts that the row remembers."""
    return _with_kept(given, _split(stored)[1])


def in_order(rows: Sequence[R], kept_in: str, *, newest_first: bool = False) -> list[R]:
    """Return rows in the order of their creation.

    Rows of one transaction have the same `created_at`. They are ordered by the UUIDv7 that is stored with them.
    """

    def moment(row: R) -> tuple[Any, str]:
        made = _split(getattr(row, kept_in))[1].get(_MADE)
        return row.created_at, made if isinstance(made, str) else str(row.id)

    keyed = [(moment(row), row) for row in rows]
    first: Callable[[tuple[tuple[Any, str], R]], Any] = itemgetter(0)
    return [row for _, row in sorted(keyed, key=first, reverse=newest_first)]


def _text(id: UUID, kept: object) -> str:
    """Return the stored text, unless the reference was changed without the facade."""
    return kept if isinstance(kept, str) and kept and row_id(kept) == id else str(id)


def _with_kept(document: Any, kept: JsonObject) -> Any:
    if not isinstance(document, dict):
        return {RESERVED: {**kept, _VALUE: document}} if kept else document
    document = cast(JsonObject, document)
    if RESERVED in document:
        kept = {**kept, _OWN: document[RESERVED]}
    return {**document, RESERVED: kept} if kept else document


def _split(document: Any) -> tuple[Any, JsonObject]:
    """Return the document of the caller, and the data stored beside it."""
    stored: JsonObject = cast(JsonObject, document) if isinstance(document, dict) else {}
    found = stored.get(RESERVED)
    if not isinstance(found, dict):  # not ours: a row that was not written by the facade
        return cast(Any, document), {}
    kept = dict(cast(JsonObject, found))
    if _VALUE in kept:
        return kept.pop(_VALUE), kept
    rest = {name: value for name, value in stored.items() if name != RESERVED}
    return ({**rest, RESERVED: kept.pop(_OWN)} if _OWN in kept else rest), kept
