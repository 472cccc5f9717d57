"""Detect renames, report each once, and compare the catalogs as they are after the renames.

After `ALTER TABLE … RENAME`, constraints, indexes and sequences keep names that were derived from the old one. Compared
by name, each would be missing on one side and unexpected on the other, and the repair would drop and recreate a table.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import replace

from agent_storage.catalog.model import Catalog, Difference, Entry, Property

Pair = tuple[Entry, Entry]
# Their names are unique in a schema; those of the others within their table.
_IN_SCHEMA = frozenset({"table", "index", "sequence", "statistics"})
_OR_ANOTHER = "-- if these are two different columns, add the one and drop the other instead"
_WITHIN_TABLE = frozenset(
    {"constraint", "index", "sequence", "statistics", "trigger", "rule", "policy", "domain constraint"}
)


def align(expected: Catalog, actual: Catalog) -> tuple[list[Difference], Catalog]:
    """Return the renames, and the actual catalog after them."""
    differences: list[Difference] = []
    for find, tell in ((_tables, _one_by_one), (_columns, _one_by_one), (_belongings, _by_table)):
        pairs = find(expected, actual)
        differences += tell(pairs)
        for wanted, present in pairs:
            actual = _renamed(actual, wanted, present)
    return differences, actual


def _candidates(expected: Catalog, actual: Catalog, kinds: Iterable[str]) -> tuple[list[Entry], list[Entry]]:
    missing = [e for e in expected.entries if e.kind in kinds and e.rename and e.key not in actual.by_key]
    unexpected = [e for e in actual.entries if e.kind in kinds and e.rename and e.key not in expected.by_key]
    return missing, unexpected


def _paired(missing: list[Entry], unexpected: list[Entry], mark: Callable[[Entry, bool], object]) -> list[Pair]:
    """Pair entries that differ only in name. Groups of alike entries are paired only if they have the same size."""
    waiting: dict[object, list[Entry]] = {}
    for entry in unexpected:
        waiting.setdefault(mark(entry, False), []).append(entry)
    wanted: dict[object, list[Entry]] = {}
    for entry in missing:
        wanted.setdefault(mark(entry, True), []).append(entry)
    alike = [(entries, waiting.get(key, [])) for key, entries in wanted.items()]
    return [pair for here, there in alike if len(here) == len(there) for pair in zip(here, there, strict=True)]


def _tables(expected: Catalog, actual: Catalog) -> list[Pair]:
    """Pair tables with the same columns in the same schema, unless several tables have these columns."""

    def mark(entry: Entry, wanted: bool) -> object:
        catalog = expected if wanted else actual
        columns = [c for c in catalog.entries if c.kind == "column" and c.table == entry.name]
        shape = sorted((c.label, c.values.get("type")) for c in columns)
        return (entry.name.removesuffix(entry.label), str(shape)) if shape else entry.key

    pairs = _paired(*_candidates(expected, actual, {"table"}), mark)
    marks = [mark(wanted, True) for wanted, _ in pairs]
    return [pair for pair, own in zip(pairs, marks, strict=True) if marks.count(own) == 1]


def _columns(expected: Catalog, actual: Catalog) -> list[Pair]:
    """Pair columns of the same type at the same position, which a dropped and an added column seldom share."""

    def mark(entry: Entry, _wanted: bool) -> object:
        values = [entry.values.get(name) for name in ("type", "not null", "default", "generated", "collation")]
        return entry.kind, entry.parents[0], entry.position, str(values)

    return _paired(*_candidates(expected, actual, {"column", "attribute"}), mark)


def _belongings(expected: Catalog, actual: Catalog) -> list[Pair]:
    """Pair constraints, indexes, sequences and the like with the same definition on the same table."""

    def mark(entry: Entry, _wanted: bool) -> object:
        values = {n: f.value for n, f in entry.properties.items() if (f.inline and n != "valid") or n == "owned by"}
        values.pop("owner", None)
        return entry.kind, entry.table, entry.inline or entry.parents, str(sorted(values.items()))

    pairs = [p for p in _paired(*_candidates(expected, actual, _WITHIN_TABLE), mark) if p[0].table or p[0].parents]
    constraints = {f"constraint {wanted.table}.{wanted.label}" for wanted, _ in pairs if wanted.kind == "constraint"}
    # The index of a constraint is renamed with the constraint.
    return [(wanted, present) for wanted, present in pairs if not constraints.intersection(wanted.parents)]


def _one_by_one(pairs: list[Pair]) -> list[Difference]:
    return [Difference(w.kind, w.name, "name", w.label, p.label, sql=_statement(w, p), table=w.table) for w, p in pairs]


def _by_table(pairs: list[Pair]) -> list[Difference]:
    tables: dict[str, list[Pair]] = {}
    for wanted, present in pairs:
        tables.setdefault(wanted.table or "", []).append((wanted, present))
    differences: list[Difference] = []
    for table, own in sorted(tables.items()):
        if len(own) == 1 or not table:
            differences += _one_by_one(own)
            continue
        after, before = (", ".join(pair[side].label for pair in own) for side in (0, 1))
        sql = "\n".join(_statement(wanted, present) for wanted, present in own)
        differences.append(Difference("table", table, "stale names", after, before, sql=sql, table=table))
    return differences


def _statement(wanted: Entry, present: Entry) -> str:
    before, after = wanted.rename or ("", "")
    statement = f"{before}{present.name if wanted.kind in _IN_SCHEMA else present.label}{after}"
    # Two columns of one type may be different columns, so a column rename needs a review.
    return f"{_OR_ANOTHER}\n{statement}" if wanted.kind == "column" else statement


def _renamed(catalog: Catalog, wanted: Entry, present: Entry) -> Catalog:
    """Return the catalog with the new name in place of the old one, as the server shows it after the rename."""
    whole = _replacing(present.name, wanted.name)
    part = _replacing(present.label, wanted.label)

    def near(entry: Entry) -> bool:
        """Return whether the unqualified name means this object: in its table, or where it is referred to."""
        own = entry.table is not None and entry.table == present.table
        return own or entry.key == present.key or present.key in entry.requires or present.key in entry.parents

    def both(text: str) -> str:
        return part(whole(text))

    entries = [_rewritten(e, both if near(e) and present.kind != "table" else whole) for e in catalog.entries]
    entries = [replace(e, label=wanted.label) if e.key == wanted.key else e for e in entries]
    return replace(catalog, entries=tuple(entries))


def _replacing(old: str, new: str) -> Callable[[str], str]:
    pattern = re.compile(rf"(?<![\w$\"]){re.escape(old)}(?![\w$\"])")
    return lambda text: pattern.sub(lambda _: new, text) if old in text else text


def _rewritten(entry: Entry, write: Callable[[str], str]) -> Entry:
    def maybe(text: str | None) -> str | None:
        return None if text is None else write(text)

    def value(found: Property) -> Property:
        return Property(write(found.value), maybe(found.set), maybe(found.change), maybe(found.reset), found.inline)

    return replace(
        entry,
        name=write(entry.name),
        label=write(entry.label),
        create=maybe(entry.create),
        drop=maybe(entry.drop),
        table=maybe(entry.table),
        parents=tuple(map(write, entry.parents)),
        requires=tuple(map(write, entry.requires)),
        properties={write(name): value(found) for name, found in entry.properties.items()},
    )
