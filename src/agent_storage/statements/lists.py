"""The results of lists: `Found`, `Page`; the limit and the filters that lists take."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, LiteralString, TypeVar, get_args

from agent_storage.errors import InvalidValue

R = TypeVar("R")

#: The highest limit of `find` and `page`.
MAX_LIMIT = 1000


class Found(list[R]):
    """The rows of a list. `more` is whether further rows match: the statement asks for one row beyond the limit.

    `total` is the number of all matching rows in the same snapshot, where it was requested.
    """

    more: bool = False
    total: int | None = None


class Counts(dict[R, int]):
    """The number of rows for each value, the most frequent first. `more` is whether there are further values."""

    more: bool = False


@dataclass(frozen=True)
class Page(Generic[R]):
    """A page by keyset, iterable and sized as its rows. `next_cursor` is None on the last page."""

    items: list[R]
    next_cursor: str | None
    total: int | None = None

    @property
    def more(self) -> bool:
        """Return whether a page follows."""
        return self.next_cursor is not None

    def __iter__(self) -> Iterator[R]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)


def within(limit: int, rows: list[R]) -> Found[R]:
    """Return the first `limit` of the rows; one row beyond it says that there are more."""
    found = Found(rows[:limit])
    found.more = len(rows) > limit
    return found


def given(**filters: Any) -> dict[str, Any]:
    """Return the filters that are not None."""
    return {name: value for name, value in filters.items() if value is not None}


def by_owner(
    rows: LiteralString, order: LiteralString = "id DESC", limit: LiteralString = "%(limit)s"
) -> LiteralString:
    """Return the text of a list of `rows` whose `owner` may be None, which is no filter.

    Two selects, of which one returns rows. `owner IS NULL OR …` would be one, but its generic plan uses one index for
    both.
    """
    end = f"ORDER BY {order} LIMIT {limit}"
    return f"({rows} AND %(owner)s::text IS NULL {end})\n UNION ALL\n({rows} AND owner = %(owner)s {end})"


def check_keys(by: Sequence[str], known: Any, table: str) -> frozenset[str]:
    """Return the keys to group by. Raises `InvalidValue` for one that is not among those of the `Literal` `known`."""
    keys = get_args(known)
    if unknown := [key for key in by if key not in keys]:
        raise InvalidValue(f"{table}: usage is not known by {unknown[0]!r}; keys are: {', '.join(keys)}", table=table)
    return frozenset(by)


def check_offset(offset: Any, cursor: str | None, table: str) -> int:
    """Return `offset`. Raises `InvalidValue` if it is negative, or given with a cursor."""
    if not isinstance(offset, int) or isinstance(offset, bool) or not 0 <= offset < 2**63:
        raise InvalidValue(f"{table}: offset must be 0 or more", table=table, column="offset")
    if offset and cursor is not None:
        raise InvalidValue(f"{table}: give an offset or a cursor", table=table, column="offset")
    return offset


def check_limit(limit: Any, table: str, *, least: int = 1, most: int = MAX_LIMIT) -> int:
    """Return `limit`. Raises `InvalidValue` if it is not from `least` to `most`."""
    if not isinstance(limit, int) or isinstance(limit, bool) or not least <= limit <= most:
        raise InvalidValue(f"{table}: limit must be from {least} to {most}", table=table, column="limit")
    return limit
