"""The relations between entries, and the order of statements within a catalog."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from functools import cached_property

from agent_storage.catalog.model import Catalog, Entry

# The order of independent entries. A function's body may name any table, so tables come first. A default that calls a
# function requires it, so that function precedes the table.
_KINDS = (
    "schema",
    "extension",
    "collation",
    "server",
    "enum",
    "type",
    "attribute",
    "range",
    "domain",
    "domain constraint",
    "text search dictionary",
    "text search configuration",
    "sequence",
    "table",
    "foreign table",
    "column",
    "constraint",
    "index",
    "statistics",
    "view",
    "materialized view",
    "function",
    "procedure",
    "aggregate",
    "operator",
    "cast",
    "trigger",
    "rule",
    "policy",
    "event trigger",
    "publication",
    "default privileges",
)
_RANK = {kind: rank for rank, kind in enumerate(_KINDS)}


def _first(entry: Entry) -> tuple[int, int, str]:
    return _RANK[entry.kind], entry.position, entry.name


class Graph:
    """The relations between the entries of one catalog."""

    def __init__(self, catalog: Catalog) -> None:
        self.entries = catalog.by_key

    @cached_property
    def _children(self) -> dict[str, list[Entry]]:
        found: dict[str, list[Entry]] = {}
        for entry in self.entries.values():
            for parent in entry.parents:
                found.setdefault(parent, []).append(entry)
        return found

    @cached_property
    def _users(self) -> dict[str, list[Entry]]:
        found: dict[str, list[Entry]] = {}
        for entry in self.entries.values():
            for used in entry.requires:
                found.setdefault(used, []).append(entry)
        return found

    @cached_property
    def sequence(self) -> dict[str, int]:
        """The position of every key in an order in which all can be created."""
        places: dict[str, int] = {}
        waiting: set[str] = set()

        def visit(entry: Entry) -> None:
            if entry.key in waiting:
                return
            waiting.add(entry.key)
            # A table is created with its columns, so their requirements precede the table.
            parts = [part for part in self._children.get(entry.key, ()) if part.kind in ("column", "attribute")]
            needed = {*entry.parents, *entry.requires}.union(*(part.requires for part in parts))
            for key in sorted(needed & self.entries.keys()):
                visit(self.entries[key])
            places[entry.key] = len(places)

        for entry in sorted(self.entries.values(), key=_first):
            visit(entry)
        return places

    def in_order(self, entries: Iterable[Entry]) -> list[Entry]:
        """Return the entries in an order in which they can be created."""
        return sorted(entries, key=lambda entry: self.sequence[entry.key])

    def descendants(self, entry: Entry) -> Iterator[Entry]:
        """Yield the entries that cannot exist without it: a table's columns, constraints, indexes, triggers."""
        for child in self._children.get(entry.key, ()):
            yield child
            yield from self.descendants(child)

    def dependents(self, roots: Collection[Entry]) -> list[Entry]:
        """Return the entries that refer to a root, directly or indirectly, except the descendants of the roots."""
        own = {root.key for root in roots}.union(*({child.key for child in self.descendants(r)} for r in roots))
        found: dict[str, Entry] = {}
        open_ = sorted(own)
        while open_:
            for user in self._users.get(open_.pop(), ()):
                if user.key not in own and user.key not in found:
                    found[user.key] = user
                    open_ += [user.key, *(child.key for child in self.descendants(user))]
        return self.in_order(found.values())
