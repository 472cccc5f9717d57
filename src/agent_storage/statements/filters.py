"""Filters and order composed into SQL, from an allow-list: the fields of the record.

Every name is checked against the record before any SQL exists; values only ever travel as parameters. Equal filters
(the same fields and operators, in any order) give one text, so PostgreSQL prepares it once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any, cast, get_args, get_origin

from agent_storage.errors import InvalidValue
from agent_storage.statements.codec import Codec, check, encode
from agent_storage.statements.declaration import quoted
from agent_storage.statements.records import Column, Timestamp, bare, columns, plain
from agent_storage.statements.text import encode_json

#: A filter: `{"status": "running", "priority__gte": 3, "data__git_state__ref": "main"}`.
Where = Mapping[str, Any]
#: An order: a field, `-field` for descending, or several.
Order = str | Sequence[str]

_COMPARISONS = {"eq": "=", "ne": "<>", "lt": "<", "lte": "<=", "gt": ">", "gte": ">="}
_OPERATORS = (*_COMPARISONS, "in", "not_in", "like", "ilike", "is_null", "contains", "overlaps")


@dataclass(frozen=True)
class Condition:
    """A column or a place in its document, and an operator; the value is apart, so equal conditions share their SQL."""

    column: str
    path: tuple[str, ...]
    operator: str


@dataclass(frozen=True)
class Fields:
    """The record's fields as a query may name them."""

    table: str
    columns: Mapping[str, Column]

    @classmethod
    def of(cls, table: str, record: Any) -> Fields:
        """Return the fields of a record class."""
        return cls(table, columns(record))

    def column(self, name: str) -> Column:
        """Return the column `name`. Raises `InvalidValue` that lists the known ones."""
        if name not in self.columns:
            known = ", ".join(self.columns)
            raise InvalidValue(f"{self.table} has no field {name[:60]!r}; fields are: {known}", table=self.table)
        return self.columns[name]

    def conditions(self, where: Where, codec: Codec) -> list[tuple[Condition, list[Any]]]:
        """Return `where` as conditions and their parameters, in an order that does not depend on the caller's."""
        parsed = [self._condition(key, value, codec) for key, value in where.items()]
        return sorted(parsed, key=lambda item: (item[0].column, item[0].path, item[0].operator))

    def _condition(self, key: str, value: Any, codec: Codec) -> tuple[Condition, list[Any]]:
        name, *rest = str(key).split("__")
        column = self.column(name)
        operator = rest.pop() if rest and rest[-1] in _OPERATORS else "eq"
        if rest and not column.json:
            known = ", ".join(_OPERATORS)
            raise self._refused(key, f"unknown operator {rest[-1][:60]!r}; operators are: {known}", name)
        if value is None and operator in ("eq", "ne"):
            operator, value = "is_null", operator == "eq"
        if operator == "is_null":
            if not isinstance(value, bool):
                raise self._refused(key, "is_null takes True or False", name)
            operator = "is_null" if value else "not_null"
            return Condition(name, tuple(rest), operator), ([rest] if rest else [])
        parameter = self._in_document(operator, value, codec) if rest else self._value(column, operator, value, codec)
        return Condition(name, tuple(rest), operator), [*([rest] if rest else []), parameter]

    def _in_document(self, operator: str, value: Any, codec: Codec) -> Any:
        """The parameter for a place inside a JSON document."""
        if operator in ("like", "ilike"):
            return check(_TEXT, value, table=self.table)
        if operator in ("in", "not_in"):
            return [encode_json(item, limit=codec.json_limit) for item in _sequence(value, operator, self.table)]
        if operator == "overlaps":
            raise InvalidValue(f"{self.table}: overlaps compares arrays, not JSON documents", table=self.table)
        return encode_json(value, limit=codec.json_limit)

    def _value(self, column: Column, operator: str, value: Any, codec: Codec) -> Any:
        """The parameter for a whole column, of the column's type."""
        array = get_origin(column.python_type) is list and not column.json
        if column.encrypted:
            raise self._refused(column.name, "is encrypted; only is_null applies", column.name)
        if operator in ("like", "ilike"):
            if not is_text(column):
                raise self._refused(column.name, f"{operator} applies to text", column.name)
            return check(_TEXT, value, table=self.table)
        if operator in ("contains", "overlaps") and not (array or (column.json and operator == "contains")):
            raise self._refused(column.name, f"{operator} applies to arrays and JSON documents", column.name)
        if operator in ("in", "not_in"):
            items = _sequence(value, operator, self.table)
            return [encode(column, self._compared(column, item), codec, table=self.table) for item in items]
        if column.json:
            return encode_json(value, limit=codec.json_limit)
        return encode(column, self._compared(column, value), codec, table=self.table)

    def _compared(self, column: Column, value: Any) -> Any:
        if value is None:
            raise self._refused(column.name, "cannot be compared with None; use is_null", column.name)
        return check(comparable(column), value, table=self.table)

    def _refused(self, key: str, why: str, column: str) -> InvalidValue:
        return InvalidValue(f"{self.table}: the filter {str(key)[:80]!r}: {why}", table=self.table, column=column)

    def order(self, order_by: Order) -> tuple[tuple[str, bool], ...]:
        """Return the order as (field, descending) pairs, made total by the id."""
        names = [order_by] if isinstance(order_by, str) else list(order_by)
        pairs = [(str(name).removeprefix("-"), str(name).startswith("-")) for name in names]
        for name, _ in pairs:
            column = self.column(name)
            if column.json or column.encrypted or get_origin(column.python_type) is list:
                raise InvalidValue(f"{self.table} cannot be ordered by {name}", table=self.table, column=name)
        if "id" not in (name for name, _ in pairs):
            pairs.append(("id", pairs[-1][1] if pairs else False))
        return tuple(pairs)


_TEXT = Column("pattern", str, nullable=False, storage=None)


@lru_cache(maxsize=1024)
def comparable(column: Column) -> Column:
    """Return `column` for comparisons: its bare type, so that no length rule of new values refuses a search.

    A moment keeps its rule. Without a time zone it would be compared in the session's.
    """
    kind = bare(column.annotation)
    return Column(column.name, Timestamp if kind is datetime else kind, nullable=False, storage=column.storage)


@lru_cache(maxsize=1024)
def as_stored(column: Column) -> Column:
    """Return `column` for a stored value, which may be a choice that this code does not know."""
    kind = plain(bare(column.annotation))
    return Column(column.name, Timestamp if kind is datetime else kind, nullable=False, storage=column.storage)


def is_text(column: Column) -> bool:
    """Return whether the column is text in PostgreSQL."""
    kind = column.python_type
    return column.storage is None and (kind is str or all(isinstance(part, str) for part in get_args(kind) or (0,)))


def _sequence(value: object, operator: str, table: str) -> list[Any]:
    if isinstance(value, (list, tuple, set, frozenset)):
        return list(cast(Sequence[Any], value))
    raise InvalidValue(f"{table}: {operator} takes a list", table=table)


def predicate(conditions: Sequence[Condition], columns_: Mapping[str, Column], first: int = 1) -> tuple[str, int]:
    """Return the SQL of `conditions`, numbered from `first`, and the next free number.

    The SQL has no WHERE, and is empty without conditions.
    """
    parts: list[str] = []
    number = first
    for condition in conditions:
        text, number = _condition_sql(condition, columns_[condition.column], number)
        parts.append(text)
    return " AND ".join(parts), number


def _condition_sql(condition: Condition, column: Column, number: int) -> tuple[str, int]:
    subject = quoted(condition.column)
    cast = ""
    if condition.path:
        as_text = condition.operator in ("like", "ilike", "is_null", "not_null")
        subject = f"({subject} {'#>>' if as_text else '#>'} ${number}::text[])"
        number += 1
    if column.json and condition.operator not in ("like", "ilike"):
        cast = "::jsonb[]" if condition.operator in ("in", "not_in") else "::jsonb"
    if condition.operator in ("is_null", "not_null"):
        return f"{subject} IS {'NOT ' if condition.operator == 'not_null' else ''}NULL", number
    value = f"${number}{cast}"
    match condition.operator:
        case "in":
            text = f"{subject} = ANY({value})"
        case "not_in":
            text = f"{subject} <> ALL({value})"
        case "contains":
            text = f"{subject} @> {value}"
        case "overlaps":
            text = f"{subject} && {value}"
        case "like" | "ilike":
            text = f"{subject} {condition.operator.upper()} {value}"
        case operator:
            text = f"{subject} {_COMPARISONS[operator]} {value}"
    return text, number + 1
