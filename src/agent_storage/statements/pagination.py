"""Keyset pagination: the order as SQL, the condition "after the cursor", and the cursors."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import Any

import orjson

from agent_storage.errors import InvalidValue
from agent_storage.statements.codec import check
from agent_storage.statements.declaration import quoted
from agent_storage.statements.filters import Fields, as_stored
from agent_storage.statements.text import escape, unescape


def order_sql(order: Sequence[tuple[str, bool]]) -> str:
    """Return the ORDER BY list. Nulls stay where PostgreSQL puts them: last ascending, first descending."""
    return ", ".join(f"{quoted(name)}{' DESC' if descending else ''}" for name, descending in order)


def after_sql(order: Sequence[tuple[str, bool]], nulls: Sequence[bool], fields: Fields, first: int) -> tuple[str, int]:
    """Return the condition "after the row of the cursor" in `order`. `nulls`: which values of the cursor are null.

    A row comparison, which an index serves in one descent, where all fields are NOT NULL and go one way; else the
    same spelt out. Null values take no parameter.
    """
    if (
        not any(nulls)
        and not any(fields.columns[name].nullable for name, _ in order)
        and len({descending for _, descending in order}) == 1
    ):
        numbers = ", ".join(f"${first + index}" for index in range(len(order)))
        names = ", ".join(quoted(name) for name, _ in order)
        return f"({names}) {'<' if order[0][1] else '>'} ({numbers})", first + len(order)
    alternatives: list[str] = []
    equal: list[str] = []
    number = first
    for (name, descending), null in zip(order, nulls, strict=True):
        column, value = quoted(name), f"${number}"
        if behind := _behind(column, value, descending=descending, null=null, nullable=fields.columns[name].nullable):
            alternatives.append("(" + " AND ".join([*equal, behind]) + ")")
        equal.append(f"{column} IS NULL" if null else f"{column} = {value}")
        number += not null
    return "(" + " OR ".join(alternatives) + ")", number


def _behind(column: str, value: str, *, descending: bool, null: bool, nullable: bool) -> str | None:
    if null:
        return f"{column} IS NOT NULL" if descending else None
    if descending:
        return f"{column} < {value}"
    return f"({column} > {value} OR {column} IS NULL)" if nullable else f"{column} > {value}"


def write_cursor(order: Sequence[tuple[str, bool]], row: Any, table: str) -> str:
    """Return an opaque cursor after `row`, which includes its table and order."""
    values = [getattr(row, name) for name, _ in order]
    values = [escape(value) if isinstance(value, str) else value for value in values]
    raw = orjson.dumps([table, _signature(order), values], default=str)
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def read_cursor(cursor: str, order: Sequence[tuple[str, bool]], fields: Fields) -> list[Any]:
    """Return the checked values of a cursor.

    Raises `InvalidValue` for one that is damaged or of another order or table.
    """
    try:
        raw = base64.b64decode(str(cursor).encode() + b"=" * (-len(str(cursor)) % 4), altchars=b"-_", validate=True)
        table, signature, values = orjson.loads(raw)
        matches = table == fields.table and signature == _signature(order) and len(values) == len(order)
    except (ValueError, TypeError, binascii.Error, UnicodeError):
        raise InvalidValue(f"{fields.table}: the cursor is damaged; start again without one") from None
    if not matches:
        raise InvalidValue(f"{fields.table}: the cursor belongs to another table or order; start again without one")
    return [_cursor_value(fields, name, value) for (name, _), value in zip(order, values, strict=True)]


def _cursor_value(fields: Fields, name: str, value: Any) -> Any:
    """The value of a cursor. It may break the rules of its field, as the row that it was read from."""
    if value is None:
        return None
    column = as_stored(fields.columns[name])
    return check(column, unescape(value) if isinstance(value, str) else value, table=fields.table)


def _signature(order: Sequence[tuple[str, bool]]) -> str:
    return ",".join(f"{'-' if descending else ''}{name}" for name, descending in order)
