"""Filters, orders and pages as SQL of SQLite and MySQL. `statements.filters` checks the names in them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, cast
from uuid import UUID

from agent_storage.errors import InvalidValue
from agent_storage.statements.codec import Codec
from agent_storage.statements.filters import EVERY, NONE, Condition, Fields, Form, OrderKey, named
from agent_storage.statements.text import JsonText, escape
from agent_storage.statements.where import Where

#: A piece of SQL with `?` for its values.
Sql = tuple[str, list[Any]]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_OPERATORS = {"eq": "=", "ne": "<>", "lt": "<", "lte": "<=", "gt": ">", "gte": ">="}


def stored(value: Any) -> Any:
    """Return a value as both engines store it: ids as text, times as microseconds, text escaped."""
    match value:
        case int() if not -(2**63) <= value < 2**63:
            raise InvalidValue("checkpoints: a number that was given has more than 64 bits", table="checkpoints")
        case JsonText():
            return value.decode()
        case str():
            return escape(value)
        case datetime():
            return (value - _EPOCH) // _MICROSECOND
        case UUID():
            return str(value)
        case list():
            return [stored(item) for item in cast(list[Any], value)]
        case _:
            return value


def moment(microseconds: int) -> datetime:
    """Return a stored time."""
    return _EPOCH + timedelta(microseconds=microseconds)


class Filters:
    """The filters of a table, as SQL of an engine."""

    def __init__(self, fields: Fields, codec: Codec, patterns: Mapping[str, str]) -> None:
        self.fields = fields
        self._codec = codec
        self._patterns = patterns

    def where(self, where: Where | None) -> Sql:
        """Return the condition. Raises `InvalidValue` for an unknown field or operator, and for a document."""
        form, values = self.fields.parse(where, self._codec)
        if document := next((name for name in named(form) if self.fields.columns[name].json), None):
            raise InvalidValue(
                f"{self.fields.table}: only PostgreSQL filters by the {document}; filter by another field",
                table=self.fields.table,
                column=document,
            )
        remaining = iter(values)
        return self._predicate(form, remaining)

    def _predicate(self, form: Form, values: Iterator[Any]) -> Sql:
        if isinstance(form, Condition):
            return self._condition(form, values)
        if form in (EVERY, NONE):
            return ("1 = 1" if form == EVERY else "1 = 0"), []
        parts = [self._predicate(member, values) for member in form.members]
        text = f" {form.by.upper()} ".join(f"({part})" for part, _ in parts)
        return (f"({text}) IS NOT TRUE" if form.by == "not" else text), [one for _, given in parts for one in given]

    def _condition(self, condition: Condition, values: Iterator[Any]) -> Sql:
        column, operator = condition.column, condition.operator
        if operator in ("is_null", "not_null"):
            return f"{column} IS {'NOT ' if operator == 'not_null' else ''}NULL", []
        value = stored(next(values))
        if operator in ("in", "not_in"):
            if not value:
                return ("1 = 0" if operator == "in" else "1 = 1"), []
            marks = ", ".join("?" for _ in value)
            return f"{column} {operator.replace('_', ' ').upper()} ({marks})", list(value)
        if operator in self._patterns:
            return self._patterns[operator].format(column=column, value="?"), [value]
        return f"{column} {_OPERATORS[operator]} ?", [value]

    def after(self, order: Sequence[OrderKey], row: Sequence[Any]) -> Sql:
        """Return the condition that a row comes after `row`, whose values are those of `order`."""
        values = [stored(value) for value in row]
        alternatives: list[str] = []
        given: list[Any] = []
        equal: list[str] = []
        equals: list[Any] = []
        for key, value in zip(order, values, strict=True):
            if after := self._after(key, null=value is None):
                alternatives.append("(" + " AND ".join([*equal, after]) + ")")
                given += [*equals, *([] if value is None else [value])]
            equal.append(f"{key.name} IS NULL" if value is None else f"{key.name} = ?")
            equals += [] if value is None else [value]
        text = "(" + " OR ".join(alternatives) + ")"
        first = order[0]
        if self.fields.columns[first.name].nullable:
            return text, given
        # Implied by the rest: a range of the index, which neither engine finds in the alternatives.
        return f"{first.name} {'<=' if first.descending else '>='} ? AND {text}", [values[0], *given]

    def _after(self, key: OrderKey, *, null: bool) -> str | None:
        if null:
            return f"{key.name} IS NOT NULL" if key.nulls_first else None
        after = f"{key.name} {'<' if key.descending else '>'} ?"
        return (
            f"({after} OR {key.name} IS NULL)"
            if self.fields.columns[key.name].nullable and not key.nulls_first
            else after
        )

    def order(self, order: Sequence[OrderKey]) -> str:
        """Return the ORDER BY list. Both engines sort nulls as the least value, PostgreSQL as the greatest."""
        parts: list[str] = []
        for key in order:
            if self.fields.columns[key.name].nullable:
                parts.append(f"{key.name} IS NULL{' DESC' if key.nulls_first else ''}")
            parts.append(f"{key.name}{' DESC' if key.descending else ''}")
        return ", ".join(parts)
