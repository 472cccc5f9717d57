"""The SQL that makes the actual database like the expected one, made of statements that the entries bring along."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import chain

from agent_storage.catalog import conversions
from agent_storage.catalog.conversions import loss
from agent_storage.catalog.model import Catalog, Entry
from agent_storage.catalog.order import Graph

# Dropping one of these drops what people stored.
HOLDS_DATA = frozenset({"table", "column", "attribute", "sequence"})
# These stand in the way of a column that changes its type; constraints and indexes follow it by themselves.
_IN_THE_WAY = frozenset({"view", "materialized view", "rule", "policy", "trigger", "function", "procedure"})
_TYPES = frozenset({"enum", "type", "range", "domain"})


class Repair:
    """Writes repairs for the differences between two catalogs."""

    def __init__(self, expected: Catalog, actual: Catalog) -> None:
        self.expected = expected
        self.actual = actual
        # What was made again along with something else: by then a finding of its own may be settled.
        self.remade: set[str] = set()
        self.wanted = Graph(expected)
        self.present = Graph(actual)

    def make(self, entry: Entry) -> str | None:
        """The entry, with all that belongs to it and is not there either."""
        return _text(_making(self._group(entry)))

    def remove(self, entry: Entry) -> str | None:
        """The entry gone; commented out where data goes with it."""
        if entry.drop is None:
            return _text(found.reset for found in entry.properties.values())
        return loss(entry.drop) if entry.kind in HOLDS_DATA else entry.drop

    def settle(self, wanted: Entry, present: Entry, name: str) -> str | None:
        """One property as it should be."""
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
        """The entry made anew, and with it everything that refers to it."""
        users = self.present.dependents([present])
        # A default that calls a function is set aside; a column whose type goes would go with it.
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
        """The entry in whose making this one is made: the outermost of its parents that are missing too."""
        for key in entry.parents:
            if key in self.expected.by_key and key not in self.actual.by_key:
                return self.whole(self.expected.by_key[key])
        return entry

    def waits(self, entry: Entry, whole: Entry) -> bool:
        """Whether it needs something that is missing and made after the whole: a foreign key's table, a function."""
        if entry.inline:
            return False
        needed = (self.expected.by_key[key] for key in entry.requires if key in self.expected.by_key)
        missing = {self.whole(other).key for other in needed if other.key not in self.actual.by_key}
        return any(self.wanted.sequence[key] > self.wanted.sequence[whole.key] for key in missing)

    def retype(self, wanted: Entry, present: Entry) -> str | None:
        """A column's type and collation, with the views and rules out of the way while it changes."""
        statement = _set(wanted, "type")
        if statement is None:
            return None
        if not conversions.widens(present.properties["type"].value, wanted.properties["type"].value):
            statement = loss(statement)
        users = [user for user in self.present.dependents([present]) if user.kind in _IN_THE_WAY]
        return _text([*(user.drop for user in reversed(users)), statement, *self._again(users)])

    def regenerate(self, wanted: Entry, present: Entry) -> str | None:
        """A generated column: its expression changed, given up, or made."""
        target, current = wanted.properties.get("generated"), present.properties.get("generated")
        kept = target and current and target.value.rsplit(" ", 1)[1] == current.value.rsplit(" ", 1)[1]
        column = f"ALTER TABLE {wanted.table} ALTER COLUMN {wanted.label}"
        # A virtual column holds nothing, and the server refuses to change one that a check constraint may look at.
        if target and kept and target.value.endswith(" STORED") and self.actual.server_version >= 170000:
            expression = target.value.removeprefix("GENERATED ALWAYS AS ").rsplit(" ", 1)[0]
            return f"{column} SET EXPRESSION AS {expression};"
        if target is None and current and current.value.endswith(" STORED"):
            return f"{column} DROP EXPRESSION;"
        return self.remake(wanted, present)

    def relabel(self, wanted: Entry, present: Entry) -> str | None:
        """An enum's labels: added or renamed where that is all."""
        return conversions.enum_labels(wanted, present) or self.replace_type(wanted, present)

    def replace_type(self, wanted: Entry, present: Entry) -> str | None:
        """A new type in place of the old one, to which every column is converted."""
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
        """A view's definition: replaced where the server allows it, which is as long as columns are only added."""
        before, after = self._columns(self.present, present), self._columns(self.wanted, wanted)
        return wanted.create if after[: len(before)] == before else self.remake(wanted, present)

    @staticmethod
    def _columns(graph: Graph, view: Entry) -> list[tuple[str, list[tuple[str, str]]]]:
        columns = sorted(graph.descendants(view), key=lambda entry: entry.position)
        shape = ("type", "collation")
        return [(c.label, [(n, c.values[n]) for n in shape if n in c.values]) for c in columns if c.kind == "column"]

    def _group(self, entry: Entry) -> list[Entry]:
        """The entry and what is made together with it: its descendants, unless they stayed when it went."""
        present = self.actual.by_key.get(entry.key)
        gone = {child.key for child in self.present.descendants(present)} if present else set[str]()
        stays = self.actual.by_key.keys() - gone
        members = {child.key: child for child in self.wanted.descendants(entry) if child.key not in stays}
        if present:
            # A partition that was missing before is a finding of its own.
            members = {key: child for key, child in members.items() if child.kind != "table" or key in gone}
        # A column that a table to be made later inherits is made with that one.
        known = {entry.key, *members, *stays}
        here = [child for child in members.values() if known.issuperset(child.parents)]
        rest = [child for child in here if not self.waits(child, entry)]
        # An owned sequence comes first: the column's default asks it for numbers.
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
        """REVOKE on a table revokes the same on its columns, so theirs are granted again."""
        return [_set(child, name) for child in self.wanted.descendants(wanted) if child.kind == "column"]


def _making(group: Iterable[Entry]) -> list[str | None]:
    """CREATE for what no other CREATE of the group makes, then what CREATE could not say."""
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
