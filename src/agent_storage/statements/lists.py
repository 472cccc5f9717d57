"""The results of lists: `Found`, `Page`, and the limit that every list takes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

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


def check_limit(limit: Any, table: str, *, least: int = 1, most: int = MAX_LIMIT) -> int:
    """Return `limit`. Raises `InvalidValue` if it is not from `least` to `most`."""
    if not isinstance(limit, int) or isinstance(limit, bool) or not least <= limit <= most:
        raise InvalidValue(f"{table}: limit must be from {least} to {most}", table=table, column="limit")
    return limit
