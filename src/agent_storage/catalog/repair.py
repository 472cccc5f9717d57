"""The SQL that makes the actual database like the expected one, composed of the statements of the entries."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import chain

from agent_storage.catalog import conversions
from agent_storage.catalog.conversions import loss
from agent_storage.catalog.model import Catalog, Entry
from agent_storage.catalog.order import Graph

# Dropping one of these discards data.
HOLDS_DATA = frozenset({"table", "column", "attribute", "sequence"})
# These prevent a change of a column's type. Constraints and indexes follow it automatically.
_IN_THE_WAY = frozenset({"view", "materialized view", "rule", "policy", "trigger", "function", "procedure"})
_TYPES = frozenset({"enum", "type", "range", "domain"})


class Repair:
    """Write repairs for the differences between two catalogs."""

    def __init__(self, expected: Catalog, actual: Catalog) -> None:
        self.expected = expected
        self.actual = actual
        # Keys of entries that another repair has recreated, which may settle their own differences.
        self.remade: set[str] = set()
        self.wanted = Graph(expected)
        self.present = Graph(actual)

    def make(self, entry: Entry) -> str | None:
        """Return the SQL that creates the entry, with its missing descendants."""
        return _text(_making(self._group(entry)))

    def remove(self, entry: Entry) -> str | None:
        """Return the SQL that drops the entry, commented out if it discards data."""
        if entry.drop is None:
            return _text(found.reset for found in entry.properties.values())
        return loss(entry.drop) if entry.kind in HOLDS_DATA else entry.drop

    def settle(self, wanted: Entry, present: Entry, name: str) -> str | None:
        """Return the SQL that sets one property to its expected value."""
        special = _SPECIAL.get((wanted.kind, name))
        if special is not None:
            return special(self, wanted, present)
        target, current = wanted.properties.get(name), present.properties.get(name)
        if target is None:
            statement = current.reset if current else None
        else:
            statement = target.change if current and target.change else target.set
        if name.startswith("grant to ") and statement:
            return _text([statement, *self._column_grants(wanted, name)])
        return statement or self.remake(wanted, present)

    def remake(self, wanted: Entry, present: Entry) -> str | None:
        """Return the SQL that drops and recreates the entry and everything that refers to it."""
        users = self.present.dependents([present])
        # A default that calls a function is dropped and set again; a column of a dropped type is dropped too.
        defaults = [] if present.kind in _TYPES else [user for user in users if _has_default(user)]
        users = [user for user in users if user not in defaults]
        group = self._group(wanted)
        self.remade.update(entry.key for entry in group)
        statements = [
            *(user.drop for user in reversed(users)),
            *(user.properties["default"].reset for user in defaults),
            present.drop,
            *_making(group),
            *(self._wanted_default(user) for user in defaults),
            *self._again(users),
        ]
        text = _text(statements)
        lost = any(gone.kind in HOLDS_DATA and not _derived(gone) for gone in (present, *users))
        return loss(text) if text and lost else text

    def whole(self, entry: Entry) -> Entry:
        """Return the entry whose CREATE includes this one: the outermost missing parent."""
        for key in entry.parents:
            if key in self.expected.by_key and key not in self.actual.by_key:
                return self.whole(self.expected.by_key[key])
        return entry

    def waits(self, entry: Entry, whole: Entry) -> bool:
        """Return whether it requires an object created after the whole: a foreign key's table, a function."""
        if entry.inline:
            return False
        needed = (self.expected.by_key[key] for key in entry.requires if key in self.expected.by_key)
        missing = {self.whole(other).key for other in needed if other.key not in self.actual.by_key}
        return any(self.wanted.sequence[key] > self.wanted.sequence[whole.key] for key in missing)

    def retype(self, wanted: Entry, present: Entry) -> str | None:
        """Return the SQL that changes a column's type and collation, recreating dependent views and rules."""
        statement = _set(wanted, "type")
        if statement is None:
            return None
        if not conversions.widens(present.properties["type"].value, wanted.properties["type"].value):
            statement = loss(statement)
        users = [user for user in self.present.dependents([present]) if user.kind in _IN_THE_WAY]
        return _text([*(user.drop for user in reversed(users)), statement, *self._again(users)])

    def regenerate(self, wanted: Entry, present: Entry) -> str | None:
        """Return the SQL that changes, drops or adds the expression of a generated column."""
        target, current = wanted.properties.get("generated"), present.properties.get("generated")
        kept = target and current and target.value.rsplit(" ", 1)[1] == current.value.rsplit(" ", 1)[1]
        column = f"ALTER TABLE {wanted.table} ALTER COLUMN {wanted.label}"
        # A virtual column stores nothing, and the server rejects a change of one that a check constraint may use.
        if target and kept and target.value.endswith(" STORED") and self.actual.server_version >= 170000:
            expression = target.value.removeprefix("GENERATED ALWAYS AS ").rsplit(" ", 1)[0]
            return f"{column} SET EXPRESSION AS {expression};"
        if target is None and current and current.value.endswith(" STORED"):
            return f"{column} DROP EXPRESSION;"
        return self.remake(wanted, present)

    def relabel(self, wanted: Entry, present: Entry) -> str | None:
        """Return the SQL that adds or renames labels of an enum, or else replaces the type."""
        return conversions.enum_labels(wanted, present) or self.replace_type(wanted, present)

    def replace_type(self, wanted: Entry, present: Entry) -> str | None:
        """Return the SQL that replaces a type and converts every column to the new one."""
        users = self.present.dependents([present])
        columns = [user for user in users if user.kind == "column" and user.drop]
        others = [user for user in users if user.kind != "column"]
        converted = [self.expected.by_key[column.key] for column in columns if column.key in self.expected.by_key]
        group = self._group(wanted)
        self.remade.update(entry.key for entry in group)
        statements = [
            *(user.drop for user in reversed(others)),
            *(_reset(column, "default") for column in columns),
            conversions.moved_aside(wanted),
            *_making(group),
            *conversions.converted(converted),
            *(_set(column, "default") for column in converted),
            conversions.dropped_aside(wanted),
            *self._again(others),
        ]
        text = _text(statements)
        return loss(text) if text and columns else text

    def redefine(self, wanted: Entry, present: Entry) -> str | None:
        """Return CREATE OR REPLACE for a view if columns are only added, or else the SQL that recreates it."""
        before, after = self._columns(self.present, present), self._columns(self.wanted, wanted)
        return wanted.create if after[: len(before)] == before else self.remake(wanted, present)

    @staticmethod
    def _columns(graph: Graph, view: Entry) -> list[tuple[str, list[tuple[str, str]]]]:
        columns = sorted(graph.descendants(view), key=lambda entry: entry.position)
        shape = ("type", "collation")
        return [(c.label, [(n, c.values[n]) for n in shape if n in c.values]) for c in columns if c.kind == "column"]

    def _group(self, entry: Entry) -> list[Entry]:
        """Return the entry and the descendants that are created with it: those missing, or dropped with it."""
        present = self.actual.by_key.get(entry.key)
        gone = {child.key for child in self.present.descendants(present)} if present else set[str]()
        stays = self.actual.by_key.keys() - gone
        members = {child.key: child for child in self.wanted.descendants(entry) if child.key not in stays}
        if present:
            # A partition that was missing before is a separate difference.
            members = {key: child for key, child in members.items() if child.kind != "table" or key in gone}
        # An inherited column of a table that is created later is created with that table.
        known = {entry.key, *members, *stays}
        here = [child for child in members.values() if known.issuperset(child.parents)]
        rest = [child for child in here if not self.waits(child, entry)]
        # An owned sequence comes first: the column's default uses it.
        before = [child for child in rest if child.kind == "sequence" and not child.inline]
        return [*before, entry, *self.wanted.in_order(child for child in rest if child not in before)]

    def _again(self, users: Iterable[Entry]) -> list[str | None]:
        wanted = [self.expected.by_key[user.key] for user in users if user.key in self.expected.by_key]
        groups = [self._group(entry) for entry in self.wanted.in_order(wanted)]
        self.remade.update(entry.key for group in groups for entry in group)
        return [*chain.from_iterable(map(_making, groups))]

    def _wanted_default(self, column: Entry) -> str | None:
        wanted = self.expected.by_key.get(column.key)
        return _set(wanted, "default") if wanted else None

    def _column_grants(self, wanted: Entry, name: str) -> list[str | None]:
        """Return the grants of the columns, which a REVOKE on the table revokes too."""
        return [_set(child, name) for child in self.wanted.descendants(wanted) if child.kind == "column"]


def _making(group: Iterable[Entry]) -> list[str | None]:
    """Return the CREATEs that no other CREATE of the group includes, then the properties that CREATE cannot set."""
    group = list(group)
    keys = {entry.key for entry in group}
    made = [entry.create for entry in group if not (entry.inline and keys.intersection(entry.parents))]
    return [*made, *(found.set for entry in group for found in entry.properties.values() if not found.inline)]


def _set(entry: Entry, name: str) -> str | None:
    return entry.properties[name].set if name in entry.properties else None


def _reset(entry: Entry, name: str) -> str | None:
    return entry.properties[name].reset if name in entry.properties else None


def _has_default(entry: Entry) -> bool:
    return entry.kind == "column" and "default" in entry.properties


def _derived(entry: Entry) -> bool:
    return "generated" in entry.properties


def _text(statements: Iterable[str | None]) -> str | None:
    return "\n".join(statement for statement in statements if statement) or None


_SPECIAL: dict[tuple[str, str], Callable[[Repair, Entry, Entry], str | None]] = {
    ("column", "type"): Repair.retype,
    ("column", "collation"): Repair.retype,
    ("column", "generated"): Repair.regenerate,
    ("enum", "labels"): Repair.relabel,
    ("domain", "type"): Repair.replace_type,
    ("domain", "collation"): Repair.replace_type,
    ("view", "definition"): Repair.redefine,
}
