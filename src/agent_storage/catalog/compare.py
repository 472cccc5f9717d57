"""Two catalogs held against each other."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace

from agent_storage.catalog.model import INFORMATION, Catalog, Entry, Finding, Severity
from agent_storage.catalog.renames import align
from agent_storage.catalog.repair import HOLDS_DATA, Repair

# What an absent property means, where that has a name.
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
# Wrong on their own, whatever was expected.
_WRONG = {"valid": ("INVALID", "NOT VALID"), "enabled": ("disabled",), "enforcing triggers": ("disabled",)}
# A part that its whole brings along is not told besides the whole: a NOT NULL constraint besides the column's
# "not null", an index besides its constraint, what a partition inherits besides its being one.
_PARTS = frozenset({"constraint", "index", "sequence", "trigger"})
_BRING_PARTS = frozenset({"not null", "identity", "definition"})
# These go before anything is made, for a name may have to be free; what holds data or is referred to goes last.
_LIGHT = frozenset(
    {"trigger", "rule", "policy", "view", "materialized view", "constraint", "index", "statistics", "domain constraint"}
)
# ALTER TABLE does these to all that inherit the column.
_RECURSING = frozenset({"type", "collation", "not null", "generated", "default"})
_MAKES_DATA = re.compile(r"^(CREATE SEQUENCE |ALTER TABLE .*? ADD COLUMN )", re.MULTILINE)
_INHERITING = ("partition of ", "inherits ")
_FIRST_WITH_NAMED_NOT_NULL = 180000
# Since 16 the columns of a view on a single table are shown without the table's name.
_FIRST_WITH_BARE_COLUMNS = 160000
_QUALIFIER = re.compile(r"(?:\w+|\"[^\"]+\")\.(?=[\w\"])")

# Phases of the list: light removals, changes and creations, other removals, information. Renames go before all.
_Ordered = tuple[int, int, Finding]
_LIGHT_REMOVAL, _CHANGE, _REMOVAL, _WRONG_ANYWAY, _TOLD = range(5)
_LAST = 1_000_000


def compare(expected: Catalog, actual: Catalog) -> list[Finding]:
    """What makes `actual` differ from `expected`, in the order in which the statements apply.

    Also what is wrong although both agree: INVALID indexes, constraints NOT VALID, disabled triggers (as `info`). What
    was renamed is one finding, and the names that a table's belongings keep from before are one more. Several findings
    of an object may carry the same statements: run each text once. No connection is used.
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

    def in_order(self) -> list[Finding]:
        """The findings, each where its statements can be run."""
        found = [self._once(finding) for _, _, finding in sorted(self._findings(), key=lambda item: item[:2])]
        owners = [finding for finding in found if finding.property == "owner"]
        return [*(finding for finding in found if finding.property != "owner"), *_by_owner(owners)]

    def _once(self, finding: Finding) -> Finding:
        """A trigger that is missing is made together with a view that is made anew; then it must not be there twice."""
        key = f"{finding.kind} {finding.object}"
        if finding.property != "missing" or key not in self.repair.remade:
            return finding
        if finding.kind in HOLDS_DATA:
            return replace(finding, sql=_unless_there(finding.sql))
        return replace(finding, sql=f"{self.expected.by_key[key].drop}\n{finding.sql}")

    def _findings(self) -> Iterator[_Ordered]:
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
            yield _CHANGE, place, _finding(entry, "missing", _summary(entry), None, sql=self.repair.make(entry))

    def _unexpected(self, entry: Entry) -> Iterator[_Ordered]:
        if entry.drop is None and not entry.inline:
            yield from self._changes(_nothing(entry), entry, 0)
        elif entry.drop and not self._brought(entry):
            if any(key not in self.expected.by_key for key in entry.parents):
                return
            phase = _LIGHT_REMOVAL if entry.kind in _LIGHT else _REMOVAL
            place = -self.repair.present.sequence[entry.key]
            yield phase, place, _finding(entry, "unexpected", None, _summary(entry), sql=self.repair.remove(entry))

    def _brought(self, entry: Entry) -> bool:
        """Whether another finding brings or takes it along."""
        if entry.kind not in _PARTS:
            return False
        if entry.kind == "constraint" and entry.inline and not self.same_not_null:
            return True
        if self._moves(entry):
            return True
        parents = (self.changed.get(key, ()) for key in entry.parents)
        return entry.inline and any(not _BRING_PARTS.isdisjoint(names) for names in parents)

    def _moves(self, entry: Entry) -> bool:
        """Whether its table becomes or ceases to be a partition or heir: that settles what is inherited."""
        names = self.changed.get(f"table {entry.table}", ())
        return any(name.startswith(_INHERITING) for name in names)

    def _changes(self, wanted: Entry, present: Entry, place: int) -> Iterator[_Ordered]:
        names = dict.fromkeys((*wanted.properties, *present.properties))
        # What goes back to its default goes first: an identity is refused while the default is there.
        for name in sorted(names, key=lambda name: name in wanted.properties):
            before, after = _value(present, name), _value(wanted, name)
            if before != after:
                if not self._settled(wanted, name):
                    finding = self._change(wanted, present, name)
                    yield (_REMOVAL, _LAST, finding) if _comes_last(finding) else (_CHANGE, place, finding)
            elif before in _WRONG.get(name, ()):
                sql = present.properties[name].reset
                yield _WRONG_ANYWAY, place, _finding(wanted, name, _ABSENT[name], before, "info", sql)

    def _change(self, wanted: Entry, present: Entry, name: str) -> Finding:
        before, after = _value(present, name), _value(wanted, name)
        severity: Severity = "info" if name in INFORMATION else "drift"
        sql = self.repair.settle(wanted, present, name)
        if after in _WRONG.get(name, ()) and wanted.kind == "index":
            # Nobody wants an invalid index; the one that is there is the better one.
            severity, sql = "info", None
        elif name == "populated" and after == "no":
            # Filled since it was declared: that is what it is for.
            severity = "info"
        return _finding(wanted, name, after or _ABSENT.get(name), before or _ABSENT.get(name), severity, sql)

    def _settled(self, wanted: Entry, name: str) -> bool:
        """Whether it is no difference of its own, or another finding's repair reaches it."""
        if name == f"grant to {_value(self.actual.by_key.get(wanted.key, wanted), 'owner')}":
            # There it owns the object: what it may do is what its owner may.
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
        """Whether the parent's column has to change in the same way; ALTER TABLE then changes its heirs too."""
        column, present = self.expected.by_key.get(parent), self.actual.by_key.get(wanted.key, wanted)
        same = column is not None and parent in present.parents and _value(column, name) == _value(wanted, name)
        return same and name in self.changed.get(parent, ())

    def _order(self) -> Iterator[_Ordered]:
        """The order of columns that both have: told, not counted."""
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
                yield _TOLD, 0, _finding(whole, "column order", ", ".join(wanted), ", ".join(present), "info")


def _unless_there(sql: str | None) -> str | None:
    return sql and _MAKES_DATA.sub(r"\g<0>IF NOT EXISTS ", sql, count=1)


def _comes_last(finding: Finding) -> bool:
    """A primary key goes before its columns' NOT NULL; a table becomes an heir when it has what the parent has."""
    freed = finding.property == "not null" and finding.expected == _ABSENT["not null"]
    return freed or finding.property.startswith(_INHERITING)


def _value(entry: Entry, name: str) -> str | None:
    found = entry.properties.get(name)
    return found.value if found else None


def _unqualified(entry: Entry, name: str) -> str:
    return _QUALIFIER.sub("", _value(entry, name) or "")


def _nothing(entry: Entry) -> Entry:
    """The same object without any property."""
    return Entry(entry.kind, entry.name, None, None, {}, table=entry.table, parents=entry.parents)


def _summary(entry: Entry) -> str:
    for name in ("definition", "type", "labels", "body"):
        if name in entry.properties:
            return entry.properties[name].value
    return "present"


def _finding(
    entry: Entry,
    name: str,
    expected: str | None,
    actual: str | None,
    severity: Severity = "drift",
    sql: str | None = None,
) -> Finding:
    return Finding(entry.kind, entry.name, name, expected, actual, severity, sql, entry.table)


def _by_owner(findings: list[Finding]) -> Iterator[Finding]:
    """A database that belongs to another role would otherwise be told object by object."""
    pairs = dict.fromkeys((finding.expected, finding.actual) for finding in findings)
    for pair in pairs:
        alike = [finding for finding in findings if (finding.expected, finding.actual) == pair]
        statements = "\n".join(finding.sql for finding in alike if finding.sql)
        one = alike[0] if len(alike) == 1 else Finding("role", str(pair[1]), "owner", *pair, "info", statements)
        yield one


def _versions(expected: Catalog, actual: Catalog) -> Iterable[Finding]:
    wanted, present = (str(catalog.server_version // 10000) for catalog in (expected, actual))
    if wanted != present:
        # The same view or expression may be written differently by another major version.
        yield Finding("server", "server_version", "major version", wanted, present, "info")


def _unread(expected: Catalog, actual: Catalog) -> Iterable[Finding]:
    for name in sorted(set(expected.unmodelled) - set(actual.unmodelled)):
        yield Finding("unmodelled", name, "missing", "present", None)
    for name in sorted(set(actual.unmodelled) - set(expected.unmodelled)):
        yield Finding("unmodelled", name, "unexpected", None, "present")
