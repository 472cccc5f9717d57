"""The rows of checkpoints in SQLite and MySQL: how values are loaded and compared, and their order in an INSERT."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, cast
from uuid import UUID

from agent_storage.adapters.checkpoints.engines.filters import moment
from agent_storage.statements.codec import check
from agent_storage.statements.records import Column, Timestamp
from agent_storage.statements.text import decode_json, unescape
from agent_storage.tables.checkpoints.checkpoints.record import NewCheckpoint

TABLE = "checkpoints"

#: The conversions of stored values by column; others are used as they are.
_LOADED: dict[str, Callable[[Any], Any]] = {
    **dict.fromkeys(("id", "parent_id"), UUID),
    **dict.fromkeys(("agent_id", "session_id", "agent_type", "name", "owner"), unescape),
    **dict.fromkeys(("captured_at", "created_at", "updated_at", "newest"), moment),
    "state": lambda text: decode_json(text.encode()),
    "bytes": int,  # MySQL's sum of integers is a decimal
}
_MOMENT = Column("at", Timestamp, nullable=True, storage=None)


def loaded(names: Sequence[str], row: Sequence[Any]) -> list[Any]:
    """Return the values of a row whose first columns are `names`."""
    return [
        value if value is None or name not in _LOADED else _LOADED[name](value)
        for name, value in zip(names, row, strict=False)
    ]


def at_checked(at: datetime | None) -> datetime | None:
    """Return the moment. Raises `InvalidValue` for one without a time zone."""
    return None if at is None else check(_MOMENT, at, table=TABLE)


def alike(one: Any, other: Any) -> bool:
    """Return whether JSON documents are equal. To Python, `True` is 1."""
    if isinstance(one, dict) and isinstance(other, dict):
        fields, others = cast("dict[str, Any]", one), cast("dict[str, Any]", other)
        return fields.keys() == others.keys() and all(alike(fields[key], others[key]) for key in fields)
    if isinstance(one, list) and isinstance(other, list):
        items = cast("list[Any]", one), cast("list[Any]", other)
        return len(items[0]) == len(items[1]) and all(map(alike, *items))
    return one == other and isinstance(one, bool) == isinstance(other, bool)


def parents_first(
    pairs: Sequence[tuple[NewCheckpoint, dict[str, Any]]],
) -> list[tuple[NewCheckpoint, dict[str, Any]]]:
    """Return the rows in the order of ids, so that calls do not deadlock, each after its parent."""
    waiting = {row["id"]: (new, row) for new, row in sorted(pairs, key=lambda pair: pair[1]["id"])}
    ordered: list[tuple[NewCheckpoint, dict[str, Any]]] = []
    for id_ in list(waiting):
        line: list[tuple[NewCheckpoint, dict[str, Any]]] = []
        above = id_
        while above in waiting:
            line.append(waiting.pop(above))
            above = line[-1][1]["parent_id"]
        ordered += reversed(line)
    return ordered
