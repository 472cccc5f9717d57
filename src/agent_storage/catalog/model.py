"""The contents of a snapshot, and the results of a comparison.

Every object of a database is an `Entry` with named `Property` values. An entry has the SQL that creates it and the SQL
that drops it, a property the SQL that sets it and the SQL that resets it, all quoted by the server. So a comparison
composes its statements from those of the entries.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, cast

import orjson

Severity = Literal["drift", "info"]

# Reported, but not drift: they do not change the meaning of a statement.
INFORMATION = frozenset({"owner"})


@dataclass(frozen=True, slots=True)
class Property:
    """One value of an entry. A property that has its default is absent.

    `set` is the statement where it is absent, `change` where it has another value (`set` if None), `reset` returns to
    the default. `inline`: the CREATE of the entry sets it already.
    """

    value: str
    set: str | None = None
    change: str | None = None
    reset: str | None = None
    inline: bool = False


@dataclass(frozen=True, slots=True)
class Entry:
    """An object of the database.

    `parents` are the keys of entries without which it cannot exist. `inline`: the CREATE of a parent creates this one
    too. `requires` are the keys to which its definition refers. `position` is its place among its siblings. `label` is
    the name without schema and table, `rename` the text before and after the old name in the statement that renames it.
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
        """The values that are compared."""
        return {name: found.value for name, found in self.properties.items() if name not in INFORMATION}


@dataclass(frozen=True, eq=False)
class Catalog:
    """A schema at one moment. Equal to another with the same objects and values.

    Oids, the order in which objects were created, column order and owners are not compared.
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
        """Return the catalog as JSON text. The same schema gives the same text."""
        value = {"server_version": self.server_version, "entries": self.entries, "unmodelled": self.unmodelled}
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()

    @classmethod
    def from_json(cls, text: str | bytes) -> Catalog:
        """Return the catalog that `to_json` wrote."""
        value = cast("dict[str, Any]", orjson.loads(text))
        return cls(value["server_version"], tuple(map(_entry, value["entries"])), value["unmodelled"])


def _entry(value: dict[str, Any]) -> Entry:
    value["properties"] = {name: Property(**found) for name, found in value["properties"].items()}
    value["parents"], value["requires"] = tuple(value["parents"]), tuple(value["requires"])
    value["rename"] = tuple(value["rename"]) if value["rename"] else None
    return Entry(**value)


@dataclass(frozen=True, slots=True)
class Difference:
    """One difference, or an object that is faulty in both (an INVALID index).

    `object` is the qualified name as SQL writes it, `table` the qualified name of its table. `property` is the name of
    the property that differs, or `missing` or `unexpected`. `sql` makes the actual database like the expected one;
    statements in it that discard rows or values are commented out with `-- data loss: `.
    """

    kind: str
    object: str
    property: str
    expected: str | None
    actual: str | None
    severity: Severity = "drift"
    sql: str | None = None
    table: str | None = None
