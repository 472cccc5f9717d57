"""Filters and orders as a caller writes them: mappings, `any_of`, `all_of`, `not_` and `field`; `asc` and `desc`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypedDict, Unpack

Nulls = Literal["first", "last"]


@dataclass(frozen=True)
class FieldFilter:
    """Conditions on a field, or on a place in its document."""

    path: tuple[str, ...]
    operators: tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class Group:
    """Filters joined by `and` or `or`."""

    joined: Literal["and", "or"]
    members: tuple[Where, ...]


@dataclass(frozen=True)
class Not:
    """The rows that a filter does not match."""

    member: Where


#: A filter: `{"status": "running", "priority__gte": 3, "data__git_state__ref": "main"}`, all of which must hold, or the
#: result of `any_of`, `all_of`, `not_` or `field`.
Where = Mapping[str, Any] | FieldFilter | Group | Not


@dataclass(frozen=True)
class By:
    """A field of an order."""

    field: str
    descending: bool
    nulls: Nulls | None


#: An order: a field, `-field` for descending, `asc(…)` or `desc(…)`, or several of these.
Order = str | By | Sequence[str | By]


class Operators(TypedDict, total=False):
    """The operators of `field`."""

    eq: Any
    ne: Any
    lt: Any
    lte: Any
    gt: Any
    gte: Any
    in_: Collection[Any]
    not_in: Collection[Any]
    like: str
    ilike: str
    is_null: bool
    contains: Any
    overlaps: Collection[Any]


def field(name: str, /, *path: str, **operators: Unpack[Operators]) -> FieldFilter:
    """Return the filter that all `operators` hold for a field, or for the place `path` in its JSON document.

    Keys are taken literally: `field("metadata", "a__b", eq=1)`.
    """
    return FieldFilter((name, *path), tuple((operator.rstrip("_"), value) for operator, value in operators.items()))


def any_of(*filters: Where) -> Group:
    """Return the filter that at least one of `filters` holds. Without any, it matches no row."""
    return Group("or", filters)


def all_of(*filters: Where) -> Group:
    """Return the filter that all `filters` hold."""
    return Group("and", filters)


def not_(filter: Where, /) -> Not:
    """Return the filter that matches every row that `filter` does not, rows with nulls too."""
    return Not(filter)


def asc(field: str, /, nulls: Nulls = "last") -> By:
    """Return the ascending order by a field."""
    return By(field, descending=False, nulls=nulls)


def desc(field: str, /, nulls: Nulls = "first") -> By:
    """Return the descending order by a field."""
    return By(field, descending=True, nulls=nulls)
