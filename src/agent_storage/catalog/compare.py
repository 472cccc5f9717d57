"""Compare two catalogs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace

from agent_storage.catalog.model import INFORMATION, Catalog, Difference, Entry, Severity
from agent_storage.catalog.renames import align
from agent_storage.catalog.repair import HOLDS_DATA, Repair

# The meaning of an absent property, where it has a name.
_ABSENT = {
    "valid": "valid",
    "enabled": "enabled",
    "enforcing triggers": "enabled",
    "not null": "no",
    "unique": "no",
    "clustered": "no",
    "populated": "yes",
    "persistence": "permanent",
    "access method": "heap",
    "replica identity": "DEFAULT",
    "row security": "disabled",
    "row security for the owner": "not forced",
}
# Faulty, even if expected.
_FAULTY = {"valid": ("INVALID", "NOT VALID"), "enabled": ("disabled",), "enforcing triggers": ("disabled",)}
# An object that another one creates is not reported besides it: a NOT NULL constraint besides the column's "not null",
# an index besides its constraint, inherited objects besides the attachment of a partition.
_PARTS = frozenset({"constraint", "index", "sequence", "trigger"})
_BRING_PARTS = frozenset({"not null", "identity", "definition"})
# These are dropped before anything is created, because their names may be needed. Objects with data, and those that
# others refer to, are dropped last.
_LIGHT = frozenset(
    {"trigger", "rule", "policy", "view", "materialized view", "constraint", "index", "statistics", "domain constraint"}
)
# ALTER TABLE applies these to all tables that inherit the column.
_RECURSING = frozenset({"type", "collation", "not null", "generated", "default"})
_MAKES_DATA = re.compile(r"^(CREATE SEQUENCE |ALTER TABLE .*? ADD COLUMN )", re.MULTILINE)
_INHERITING = ("partition of ", "inherits ")
_FIRST_WITH_NAMED_NOT_NULL = 180000
# Since 16 the columns of a view on a single table are shown without the table's name.
_FIRST_WITH_BARE_COLUMNS = 160000
_QUALIFIER = re.compile(r"(?:\w+|\"[^\"]+\")\.(?=[\w\"])")

# Phases of the list: light removals, changes and creations, other removals, information. Renames precede all.
_Ordered = tuple[int, int, Difference]
_LIGHT_REMOVAL, _CHANGE, _REMOVAL, _FAULTY_IN_BOTH, _INFORMATION = range(5)
_LAST = 1_000_000


def compare(expected: Catalog, actual: Catalog) -> list[Difference]:
    """Return the differences of `actual` from `expected`, in the order in which their statements apply.

    Includes faulty objects on which both agree, as `info`: INVALID indexes, constraints NOT VALID, disabled triggers. A
    rename is one difference, and the old names that constraints and indexes of the table keep are another. Several
    differences of an object may have the same statements: run each text once. No connection is used.
    """
    renames, aligned = align(expected, actual)
    found = _Comparison(expected, aligned).in_order()
    return [*renames, *found, *_versions(expected, actual), *_unread(expected, actual)]


class _Comparison:
    def __init__(self, expected: Catalog, actual: Catalog) -> None:
        self.expected = expected
        self.actual = actual
        self.repair = Repair(expected, actual)
        versions = (expected.server_version, actual.server_version)
        self.same_not_null = not min(versions) < _FIRST_WITH_NAMED_NOT_NULL <= max(versions)
        self.same_views = not min(versions) < _FIRST_WITH_BARE_COLUMNS <= max(versions)
        self.changed = {entry.key: self._differing(entry) for entry in expected.entries}

    def in_order(self) -> list[Difference]:
        """Return the differences, in an order in which their statements can run."""
        found = [self._once(difference) for _, _, difference in sorted(self._differences(), key=lambda item: item[:2])]
        owners = [difference for difference in found if difference.property == "owner"]
        return [*(difference for difference in found if difference.property != "owner"), *_by_owner(owners)]

    def _once(self, difference: Difference) -> Difference:
        """Return the difference with SQL that does not create an object again that another repair has created."""
        key = f"{difference.kind} {difference.object}"
        if difference.property != "missing" or key not in self.repair.remade:
            return difference
        if difference.kind in HOLDS_DATA:
            return replace(difference, sql=_unless_there(difference.sql))
        return replace(difference, sql=f"{self.expected.by_key[key].drop}\n{difference.sql}")

    def _differences(self) -> Iterator[_Ordered]:
        for entry in self.expected.entries:
            place = self.repair.wanted.sequence[entry.key]
            if entry.key in self.actual.by_key:
                yield from self._changes(entry, self.actual.by_key[entry.key], place)
            else:
                yield from self._missing(entry, place)
        for entry in self.actual.entries:
            if entry.key not in self.expected.by_key:
                yield from self._unexpected(entry)
        yield from self._order()

    def _differing(self, wanted: Entry) -> list[str]:
        present = self.actual.by_key.get(wanted.key)
        if present is None:
            return []
        names = dict.fromkeys((*wanted.properties, *present.properties))
        return [name for name in names if _value(wanted, name) != _value(present, name)]

    def _missing(self, entry: Entry, place: int) -> Iterator[_Ordered]:
        whole = self.repair.whole(entry)
        if entry.create is None and not entry.inline:
            yield from self._changes(entry, _nothing(entry), place)
        elif whole is not entry and not self.repair.waits(entry, whole):
            return
        elif entry.create and not self._brought(entry):
            yield _CHANGE, place, _difference(entry, "missing", _summary(entry), None, sql=self.repair.make(entry))

    def _unexpected(self, entry: Entry) -> Iterator[_Ordered]:
        if entry.drop is None and not entry.inline:
            yield from self._changes(_nothing(entry), entry, 0)
        elif entry.drop and not self._brought(entry):
            if any(key not in self.expected.by_key for key in entry.parents):
                return
            phase = _LIGHT_REMOVAL if entry.kind in _LIGHT else _REMOVAL
            place = -self.repair.present.sequence[entry.key]
            yield phase, place, _difference(entry, "unexpected", None, _summary(entry), sql=self.repair.remove(entry))

    def _brought(self, entry: Entry) -> bool:
        """Return whether another difference creates or drops it."""
        if entry.kind not in _PARTS:
            return False
        if entry.kind == "constraint" and entry.inline and not self.same_not_null:
            return True
        if self._moves(entry):
            return True
        parents = (self.changed.get(key, ()) for key in entry.parents)
        return entry.inline and any(not _BRING_PARTS.isdisjoint(names) for names in parents)

    def _moves(self, entry: Entry) -> bool:
        """Return whether its table is attached or detached as a partition or child, which settles inherited objects."""
        names = self.changed.get(f"table {entry.table}", ())
        return any(name.startswith(_INHERITING) for name in names)

    def _changes(self, wanted: Entry, present: Entry, place: int) -> Iterator[_Ordered]:
        names = dict.fromkeys((*wanted.properties, *present.properties))
        # Resets to the default come first: an identity is rejected while the column has a default.
        for name in sorted(names, key=lambda name: name in wanted.properties):
            before, after = _value(present, name), _value(wanted, name)
            if before != after:
                if not self._settled(wanted, name):
                    difference = self._change(wanted, present, name)
                    yield (_REMOVAL, _LAST, difference) if _comes_last(difference) else (_CHANGE, place, difference)
            elif before in _FAULTY.get(name, ()):
                sql = present.properties[name].reset
                yield _FAULTY_IN_BOTH, place, _difference(wanted, name, _ABSENT[name], before, "info", sql)

    def _change(self, wanted: Entry, present: Entry, name: str) -> Difference:
        before, after = _value(present, name), _value(wanted, name)
        severity: Severity = "info" if name in INFORMATION else "drift"
        sql = self.repair.settle(wanted, present, name)
        if after in _FAULTY.get(name, ()) and wanted.kind == "index":
            # The expected index is invalid, so the actual one is better.
            severity, sql = "info", None
        elif name == "populated" and after == "no":
            # Populated since it was declared, as intended.
            severity = "info"
        return _difference(wanted, name, after or _ABSENT.get(name), before or _ABSENT.get(name), severity, sql)

    def _settled(self, wanted: Entry, name: str) -> bool:
        """Return whether the repair of another difference includes this one."""
        if name == f"grant to {_value(self.actual.by_key.get(wanted.key, wanted), 'owner')}":
            # There the role owns the object and has the privileges of the owner.
            return True
        if wanted.kind == "index" and (name in ("unique", "definition") or name.startswith("partition of ")):
            return self._moves(wanted)
        if name == "definition" and wanted.kind in ("view", "materialized view") and not self.same_views:
            return _unqualified(wanted, name) == _unqualified(self.actual.by_key.get(wanted.key, wanted), name)
        if wanted.kind != "column":
            return False
        if name in ("type", "collation") and "definition" in self.changed.get(wanted.parents[0], ()):
            return True
        return name in _RECURSING and any(self._same_change(wanted, key, name) for key in wanted.parents[1:])

    def _same_change(self, wanted: Entry, parent: str, name: str) -> bool:
        """Return whether the parent's column must change in the same way; ALTER TABLE then changes its children too."""
        column, present = self.expected.by_key.get(parent), self.actual.by_key.get(wanted.key, wanted)
        same = column is not None and parent in present.parents and _value(column, name) == _value(wanted, name)
        return same and name in self.changed.get(parent, ())

    def _order(self) -> Iterator[_Ordered]:
        """Yield differences in the order of common columns, as information."""
        places: dict[str, list[tuple[int, int, str]]] = {}
        for entry in self.expected.entries:
            other = self.actual.by_key.get(entry.key)
            if other is not None and entry.kind in ("column", "attribute"):
                places.setdefault(entry.parents[0], []).append((entry.position, other.position, entry.label))
        for key, columns in places.items():
            wanted = [label for _, _, label in sorted(columns)]
            present = [label for _, label in sorted((place, label) for _, place, label in columns)]
            if wanted != present and "definition" not in self.changed[key]:
                whole = self.expected.by_key[key]
                yield _INFORMATION, 0, _difference(whole, "column order", ", ".join(wanted), ", ".join(present), "info")


def _unless_there(sql: str | None) -> str | None:
    return sql and _MAKES_DATA.sub(r"\g<0>IF NOT EXISTS ", sql, count=1)


def _comes_last(difference: Difference) -> bool:
    """Return whether it applies last: NOT NULL is dropped after a primary key, a child needs the parent's columns."""
    freed = difference.property == "not null" and difference.expected == _ABSENT["not null"]
    return freed or difference.property.startswith(_INHERITING)


def _value(entry: Entry, name: str) -> str | None:
    found = entry.properties.get(name)
    return found.value if found else None


def _unqualified(entry: Entry, name: str) -> str:
    return _QUALIFIER.sub("", _value(entry, name) or "")


def _nothing(entry: Entry) -> Entry:
    """Return the same object without properties."""
    return Entry(entry.kind, entry.name, None, None, {}, table=entry.table, parents=entry.parents)


def _summary(entry: Entry) -> str:
    for name in ("definition", "type", "labels", "body"):
        if name in entry.properties:
            return entry.properties[name].value
    return "present"


def _difference(
    entry: Entry,
    name: str,
    expected: str | None,
    actual: str | None,
    severity: Severity = "drift",
    sql: str | None = None,
) -> Difference:
    return Difference(entry.kind, entry.name, name, expected, actual, severity, sql, entry.table)


def _by_owner(differences: list[Difference]) -> Iterator[Difference]:
    """Merge the differences between two owners into one, instead of one for each object."""
    pairs = dict.fromkeys((difference.expected, difference.actual) for difference in differences)
    for pair in pairs:
        alike = [difference for difference in differences if (difference.expected, difference.actual) == pair]
        statements = "\n".join(difference.sql for difference in alike if difference.sql)
        one = alike[0] if len(alike) == 1 else Difference("role", str(pair[1]), "owner", *pair, "info", statements)
        yield one


def _versions(expected: Catalog, actual: Catalog) -> Iterable[Difference]:
    wanted, present = (str(catalog.server_version // 10000) for catalog in (expected, actual))
    if wanted != present:
        # The same view or expression may be written differently by another major version.
        yield Difference("server", "server_version", "major version", wanted, present, "info")


def _unread(expected: Catalog, actual: Catalog) -> Iterable[Difference]:
    for name in sorted(set(expected.unmodelled) - set(actual.unmodelled)):
        yield Difference("unmodelled", name, "missing", "present", None)
    for name in sorted(set(actual.unmodelled) - set(expected.unmodelled)):
        yield Difference("unmodelled", name, "unexpected", None, "present")
