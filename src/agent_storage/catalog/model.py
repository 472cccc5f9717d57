"""What a snapshot holds, and what a comparison finds.

Everything in a database is an `Entry` with named `Property` values. An entry brings the SQL that makes it and the SQL
that removes it, a property the SQL that sets it and the SQL that takes it back; all of it was quoted by the server. So
a comparison never has to invent a statement: it takes them from the side that knows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, cast

import orjson

Severity = Literal["drift", "info"]

# Told to people, never counted as drift: they do not change what a statement means.
INFORMATION = frozenset({"owner"})


@dataclass(frozen=True, slots=True)
class Property:
    """One value of an entry; a property that has its default is absent.

    `set` makes it so where it is absent, `change` where there is another value (without one, `set` serves), `reset`
    returns to the default. `inline` says that the entry's CREATE already makes it so.
    """

    value: str
    set: str | None = None
    change: str | None = None
    reset: str | None = None
    inline: bool = False


@dataclass(frozen=True, slots=True)
class Entry:
    """An object of the database.

    `parents` are keys of entries without which it cannot be; `inline` says that a parent's CREATE makes this one too.
    `requires` are keys that its definition refers to. `position` is its place among its siblings. `label` is the name
    without schema and table, `rename` what stands before and after the old name in the statement that changes it.
    """

    kind: str
    name: str
    create: str | None
    drop: str | None
    properties: Mapping[str, Property]
    label: str = ""
    rename: tuple[str, str] | None = None
    table: str | None = None
    parents: tuple[str, ...] = ()
    requires: tuple[str, ...] = ()
    position: int = 0
    inline: bool = False

    @property
    def key(self) -> str:
        """Unique in a catalog."""
        return f"{self.kind} {self.name}"

    @property
    def values(self) -> dict[str, str]:
        """What counts when two schemas are held against each other."""
        return {name: found.value for name, found in self.properties.items() if name not in INFORMATION}


@dataclass(frozen=True, eq=False)
class Catalog:
    """A schema as it was at one moment; equal to another that has the same objects with the same values.

    Oids, the order in which objects were made, column order and owners have no part in equality.
    """

    server_version: int
    entries: tuple[Entry, ...]
    unmodelled: list[str] = field(default_factory=list[str])

    @cached_property
    def by_key(self) -> dict[str, Entry]:
        """The entries by their keys."""
        return {entry.key: entry for entry in self.entries}

    @cached_property
    def _schema(self) -> tuple[dict[str, dict[str, str]], list[str]]:
        return {entry.key: entry.values for entry in self.entries}, self.unmodelled

    def __eq__(self, other: object) -> bool:
        return self._schema == other._schema if isinstance(other, Catalog) else NotImplemented

    def __hash__(self) -> int:
        return hash(tuple(entry.key for entry in self.entries))

    def to_json(self) -> str:
        """The catalog as JSON text; the same schema read again gives the same text."""
        value = {"server_version": self.server_version, "entries": self.entries, "unmodelled": self.unmodelled}
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()

    @classmethod
    def from_json(cls, text: str | bytes) -> Catalog:
        """The catalog that `to_json` wrote."""
        value = cast("dict[str, Any]", orjson.loads(text))
        return cls(value["server_version"], tuple(map(_entry, value["entries"])), value["unmodelled"])


def _entry(value: dict[str, Any]) -> Entry:
    value["properties"] = {name: Property(**found) for name, found in value["properties"].items()}
    value["parents"], value["requires"] = tuple(value["parents"]), tuple(value["requires"])
    value["rename"] = tuple(value["rename"]) if value["rename"] else None
    return Entry(**value)


@dataclass(frozen=True, slots=True)
class Finding:
    """One difference, or one thing that is wrong on its own (an INVALID index).

    `object` is the qualified name as SQL writes it, `table` the qualified table that it belongs to. `property` is the
    name of what differs, or `missing` or `unexpected`. `sql` makes the actual database like the expected one; what
    loses rows or values stands in it behind `-- data loss: `. Findings come in the order in which their SQL applies.
    """

    kind: str
    object: str
    property: str
    expected: str | None
    actual: str | None
    severity: Severity = "drift"
    sql: str | None = None
    table: str | None = None
