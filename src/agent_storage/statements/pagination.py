"""Keyset pagination: the order as SQL, the condition "after the cursor", and the cursors."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from math import isfinite
from typing import Any

import orjson

from agent_storage.errors import InvalidValue
from agent_storage.statements.codec import check
from agent_storage.statements.declaration import quoted
from agent_storage.statements.filters import Fields, OrderKey, as_stored
from agent_storage.statements.text import escape, unescape


def order_sql(order: Sequence[OrderKey]) -> str:
    """Return the ORDER BY list. It names the place of nulls where it is not PostgreSQL's: last, descending first."""
    return ", ".join(f"{quoted(key.name)}{' DESC' if key.descending else ''}{_nulls(key).upper()}" for key in order)


def _nulls(key: OrderKey) -> str:
    return "" if key.nulls_first == key.descending else f" nulls {'first' if key.nulls_first else 'last'}"


def after_sql(order: Sequence[OrderKey], nulls: Sequence[bool], fields: Fields, first: int) -> tuple[str, int]:
    """Return the condition "after the row of the cursor" in `order`. `nulls`: which values of the cursor are null.

    A row comparison, which an index serves in one descent, where all fields are NOT NULL and go one way; else the
    same spelt out. Null values take no parameter.
    """
    if (
        not any(nulls)
        and not any(fields.columns[key.name].nullable for key in order)
        and len({key.descending for key in order}) == 1
    ):
        numbers = ", ".join(f"${first + index}" for index in range(len(order)))
        names = ", ".join(quoted(key.name) for key in order)
        return f"({names}) {'<' if order[0].descending else '>'} ({numbers})", first + len(order)
    alternatives: list[str] = []
    equal: list[str] = []
    number = first
    for key, null in zip(order, nulls, strict=True):
        column, value = quoted(key.name), f"${number}"
        if after := _after(key, column, value, null=null, nullable=fields.columns[key.name].nullable):
            alternatives.append("(" + " AND ".join([*equal, after]) + ")")
        equal.append(f"{column} IS NULL" if null else f"{column} = {value}")
        number += not null
    return "(" + " OR ".join(alternatives) + ")", number


def _after(key: OrderKey, column: str, value: str, *, null: bool, nullable: bool) -> str | None:
    """The condition that a row comes after the cursor by this key alone; None where no row does."""
    if null:
        return f"{column} IS NOT NULL" if key.nulls_first else None
    after = f"{column} {'<' if key.descending else '>'} {value}"
    return f"({after} OR {column} IS NULL)" if nullable and not key.nulls_first else after


def write_cursor(order: Sequence[OrderKey], row: Any, table: str) -> str:
    """Return an opaque cursor after `row`, which includes its table and order."""
    values = [_written(getattr(row, key.name)) for key in order]
    raw = orjson.dumps([table, _signature(order), values], default=str)
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _written(value: Any) -> Any:
    if isinstance(value, float) and not isfinite(value):
        return str(value)  # JSON has no NaN, and would make it null
    return escape(value) if isinstance(value, str) else value


def read_cursor(cursor: str, order: Sequence[OrderKey], fields: Fields) -> list[Any]:
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
    return [_cursor_value(fields, name, value) for (name, *_), value in zip(order, values, strict=True)]


def _cursor_value(fields: Fields, name: str, value: Any) -> Any:
    """The value of a cursor. It may break the rules of its field, as the row that it was read from."""
    if value is None:
        return None
    column = as_stored(fields.columns[name])
    return check(column, unescape(value) if isinstance(value, str) else value, table=fields.table)


def _signature(order: Sequence[OrderKey]) -> str:
    return ",".join(f"{'-' if key.descending else ''}{key.name}{_nulls(key)}" for key in order)
