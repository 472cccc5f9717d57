"""Filters and order composed into SQL, from an allow-list: the fields of the record.

Every name is checked against the record before any SQL exists; values only ever travel as parameters. Equal filters
(the same fields and operators, in any order) give one text, so PostgreSQL prepares it once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property, lru_cache
from typing import Any, LiteralString, NamedTuple, cast, get_args, get_origin

from pydantic import BaseModel

from agent_storage.errors import InvalidValue
from agent_storage.statements.codec import Codec, check, encode
from agent_storage.statements.declaration import quoted
from agent_storage.statements.records import Column, Timestamp, bare, columns, plain
from agent_storage.statements.text import JsonText, encode_json
from agent_storage.statements.where import By, FieldFilter, Group, Not, Order, Where

_COMPARISONS = {"eq": "=", "ne": "<>", "lt": "<", "lte": "<=", "gt": ">", "gte": ">="}
_OPERATORS = (*_COMPARISONS, "in", "not_in", "like", "ilike", "is_null", "contains", "overlaps")


#: The most conditions of a filter, and its deepest nesting: the text of each form is kept and prepared.
_MOST, _DEEPEST = 100, 20


@dataclass(frozen=True)
class Condition:
    """A column or a place in its document, and an operator. Path and value are apart: equal forms share their SQL.

    A repository may give `sql` instead, a whole condition, in which `{}` is the parameter, if there is one.
    """

    column: str
    nested: bool
    operator: str
    sql: LiteralString = ""

    @property
    def key(self) -> tuple[Any, ...]:
        """The sort key among the members of a group."""
        return (0, self.column, self.nested, self.operator)


@dataclass(frozen=True)
class Joined:
    """Conditions joined by `and` or `or`, or the negation (`not`) of one."""

    by: str
    members: tuple[Form, ...]

    @cached_property
    def key(self) -> tuple[Any, ...]:
        """The sort key among the members of a group."""
        return (1, self.by, *(member.key for member in self.members))


#: A filter without its values.
Form = Condition | Joined
#: A filter's form, and its parameters in the order in which its SQL names them.
Parsed = tuple[Form, list[Any]]
#: The forms that match every row, and none.
EVERY, NONE = Joined("and", ()), Joined("or", ())


class OrderKey(NamedTuple):
    """A field of an order."""

    name: str
    descending: bool
    nulls_first: bool


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

    def parse(self, where: Where | None, codec: Codec) -> Parsed:
        """Return the form of `where` and its parameters. The form does not depend on the order of the conditions."""
        parsed = self._parse({} if where is None else where, codec, 0)
        if sum(1 for _ in named(parsed[0])) > _MOST:
            raise InvalidValue(
                f"{self.table}: a filter has at most {_MOST} conditions; compare many values by `in`", table=self.table
            )
        return parsed

    def _parse(self, where: Where, codec: Codec, depth: int) -> Parsed:
        if depth > _DEEPEST:
            raise InvalidValue(f"{self.table}: a filter is nested at most {_DEEPEST} deep", table=self.table)
        if isinstance(where, Mapping):
            return _joined("and", [self._named(key, value, codec) for key, value in where.items()])
        if isinstance(where, FieldFilter):
            name, *path = where.path
            if not where.operators:
                raise self._refused(name, "field() takes an operator, as in eq=…", name)
            return _joined("and", [self._condition(name, path, *one, codec) for one in where.operators])
        if isinstance(where, Group):
            parts = [self._parse(member, codec, depth + 1) for member in where.members]
            if where.joined == "or" and any(form == EVERY for form, _ in parts):
                raise InvalidValue(f"{self.table}: any_of takes no empty filter, which matches all", table=self.table)
            return _joined(where.joined, parts)
        if isinstance(where, Not):  # pyright: ignore[reportUnnecessaryIsInstance]  # callers without a type checker
            form, values = self._parse(where.member, codec, depth + 1)
            if form in (EVERY, NONE):
                raise InvalidValue(f"{self.table}: not_ takes no empty filter", table=self.table)
            return Joined("not", (form,)), values
        raise InvalidValue(
            f"{self.table}: a filter is a mapping, any_of, all_of, not_ or field, not {type(where).__name__}",
            table=self.table,
        )

    def _named(self, key: str, value: Any, codec: Codec) -> Parsed:
        """A condition as mappings name it."""
        name, *rest = str(key).split("__")
        column = self.column(name)
        operator = rest.pop() if rest and rest[-1] in _OPERATORS else "eq"
        if rest and not column.json:
            known = ", ".join(_OPERATORS)
            raise self._refused(key, f"unknown operator {rest[-1][:60]!r}; operators are: {known}", name)
        return self._condition(name, rest, operator, value, codec)

    def _condition(self, name: str, path: list[str], operator: str, value: Any, codec: Codec) -> Parsed:
        column = self.column(name)
        if operator not in _OPERATORS:
            raise self._refused(name, f"unknown operator {operator[:60]!r}", name)
        if path and not column.json:
            raise self._refused(name, "is no JSON document and takes no path", name)
        paths = [check(_PATH, path, table=self.table)] if path else []
        if value is None and operator in ("eq", "ne"):
            operator, value = "is_null", operator == "eq"
        if operator == "is_null":
            if not isinstance(value, bool):
                raise self._refused(name, "is_null takes True or False", name)
            return Condition(name, bool(path), "is_null" if value else "not_null"), paths
        given = self._in_json if column.json else self._value
        return Condition(name, bool(path), operator), [*paths, given(column, operator, value, codec)]

    def _in_json(self, column: Column, operator: str, value: Any, codec: Codec) -> Any:
        """The parameter for a JSON document or a place inside it."""
        if operator in ("like", "ilike"):
            return check(_TEXT, value, table=self.table)
        if operator == "overlaps":
            raise self._refused(column.name, "overlaps compares arrays, not JSON documents", column.name)
        if operator in ("in", "not_in"):
            return [self._json(column, item, codec) for item in _sequence(value, operator, self.table)]
        if operator in ("lt", "lte", "gt", "gte") and isinstance(value, (dict, list)):
            raise self._refused(column.name, f"{operator} compares numbers, texts and booleans", column.name)
        return self._json(column, value, codec)

    def _json(self, column: Column, value: Any, codec: Codec) -> JsonText:
        if value is None:
            raise self._refused(column.name, "cannot be compared with None; use is_null", column.name)
        document = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
        return encode_json(document, limit=codec.json_limit)

    def _value(self, column: Column, operator: str, value: Any, codec: Codec) -> Any:
        """The parameter for a column that is no document, of the column's type."""
        array = get_origin(column.python_type) is list
        if column.encrypted:
            raise self._refused(column.name, "is encrypted; only is_null applies", column.name)
        if operator in ("like", "ilike"):
            if not is_text(column):
                raise self._refused(column.name, f"{operator} applies to text", column.name)
            return check(_TEXT, value, table=self.table)
        if operator in ("contains", "overlaps") and not array:
            raise self._refused(column.name, f"{operator} applies to arrays and JSON documents", column.name)
        if operator in ("in", "not_in"):
            items = _sequence(value, operator, self.table)
            return [encode(column, self._compared(column, item), codec, table=self.table) for item in items]
        return encode(column, self._compared(column, value), codec, table=self.table)

    def _compared(self, column: Column, value: Any) -> Any:
        if value is None:
            raise self._refused(column.name, "cannot be compared with None; use is_null", column.name)
        return check(comparable(column), value, table=self.table)

    def _refused(self, key: str, why: str, column: str) -> InvalidValue:
        return InvalidValue(f"{self.table}: the filter {str(key)[:80]!r}: {why}", table=self.table, column=column)

    def order(self, order_by: Order) -> tuple[OrderKey, ...]:
        """Return the order, made total by the id."""
        given = [order_by] if isinstance(order_by, (str, By)) else list(order_by)
        keys = [self._order_key(one) for one in given]
        if "id" not in (key.name for key in keys):
            descending = keys[-1].descending if keys else False
            keys.append(OrderKey("id", descending, nulls_first=descending))
        return tuple(keys)

    def _order_key(self, by: str | By) -> OrderKey:
        if not isinstance(by, By):
            by = By(str(by).removeprefix("-"), descending=str(by).startswith("-"), nulls=None)
        column = self.sortable(by.field, "ordered")
        if by.nulls not in (None, "first", "last"):
            raise InvalidValue(f"{self.table}: nulls come first or last", table=self.table, column=by.field)
        # PostgreSQL's own places, unless another one was asked for and there may be nulls.
        nulls_first = by.nulls == "first" if by.nulls and column.nullable else by.descending
        return OrderKey(column.name, bool(by.descending), nulls_first)

    def sortable(self, name: str, use: str) -> Column:
        """Return the column `name`. Raises `InvalidValue` unless its values have an order."""
        column = self.column(str(name))
        if column.json or column.encrypted or get_origin(column.python_type) is list:
            raise InvalidValue(f"{self.table} cannot be {use} by {name}", table=self.table, column=name)
        return column


_PATH = Column("path", list[str], nullable=False, storage=None)
_TEXT = Column("pattern", str, nullable=False, storage=None)


@lru_cache(maxsize=1024)
def comparable(column: Column) -> Column:
    """Return `column` for comparisons: its bare type, so that no length rule of new values refuses a search.

    A moment keeps its rule. Without a time zone it would be compared in the session's.
    """
    kind = bare(column.annotation)
    kind = plain(kind) if get_origin(kind) is list else kind
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


def _joined(by: str, parts: list[Parsed]) -> Parsed:
    """Join filters. Without those that decide nothing; a filter that decides all is the result."""
    every, none = (EVERY, NONE) if by == "and" else (NONE, EVERY)
    kept = [part for part in parts if part[0] != every]
    if any(form == none for form, _ in kept):
        return none, []
    if len(kept) == 1 and isinstance(kept[0][0], Joined):
        return kept[0]
    kept.sort(key=lambda part: part[0].key)
    return Joined(by, tuple(form for form, _ in kept)), [value for _, values in kept for value in values]


def named(form: Form) -> Iterator[str]:
    """Return the columns of all conditions."""
    if isinstance(form, Condition):
        yield form.column
    else:
        for member in form.members:
            yield from named(member)


def predicate(form: Form, columns_: Mapping[str, Column], first: int = 1) -> tuple[str, int]:
    """Return the SQL of a filter, numbered from `first`, and the next free number.

    The SQL has no WHERE, and is empty for a filter that matches every row.
    """
    if isinstance(form, Condition):
        return _condition_sql(form, columns_[form.column], first)
    if form == NONE:
        return "false", first
    parts: list[str] = []
    number = first
    for member in form.members:
        text, number = predicate(member, columns_, number)
        parts.append(f"({text})" if isinstance(member, Joined) and member.by != "not" else text)
    if form.by == "not":
        return f"({parts[0]}) IS NOT TRUE", number
    return f" {form.by.upper()} ".join(parts), number


def _condition_sql(condition: Condition, column: Column, number: int) -> tuple[str, int]:
    if condition.sql:
        return condition.sql.replace("{}", f"${number}"), number + condition.sql.count("{}")
    subject, path = quoted(condition.column), "'{}'"
    if condition.nested:
        path = f"${number}::text[]"
        number += 1
    as_text = f"({subject} #>> {path})" if column.json else subject
    if condition.nested:
        subject = f"({subject} #> {path})"
    operator = condition.operator
    if operator in ("is_null", "not_null"):
        return f"{as_text} IS {'NOT ' if operator == 'not_null' else ''}NULL", number
    value = f"${number}"
    if column.json:
        return _json_sql(operator, subject, as_text, value), number + 1
    return _PLAIN[operator].format(subject, value), number + 1


def _json_sql(operator: str, subject: str, as_text: str, value: str) -> str:
    """Compare like with like, since jsonb orders values of different types too. JSON's null is a null."""
    match operator:
        case "like" | "ilike":
            return f"(jsonb_typeof({subject}) = 'string' AND {_PLAIN[operator].format(as_text, value)})"
        case "in" | "not_in":
            value = f"{value}::jsonb[]"
        case _:
            value = f"{value}::jsonb"
    if operator in ("ne", "not_in"):
        subject = f"nullif({subject}, 'null')"
    text = _PLAIN[operator].format(subject, value)
    alike = f"jsonb_typeof({subject}) = jsonb_typeof({value})"
    return f"({alike} AND {text})" if operator in ("lt", "lte", "gt", "gte") else text


_PLAIN = {
    **{name: f"{{}} {symbol} {{}}" for name, symbol in _COMPARISONS.items()},
    "in": "{} = ANY({})", "not_in": "{} <> ALL({})", "contains": "{} @> {}", "overlaps": "{} && {}",
    "like": "{} LIKE {}", "ilike": "{} ILIKE {}",
}  # fmt: skip
