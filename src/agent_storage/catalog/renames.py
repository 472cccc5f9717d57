"""What was renamed rather than dropped and made: recognised, told once, and then looked through.

After `ALTER TABLE … RENAME` constraints, indexes and sequences keep names that were made of the old one. Compared by
name, each would be missing here and unexpected there, and the repair would drop a table to make it again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import replace

from agent_storage.catalog.model import Catalog, Entry, Finding, Property

Pair = tuple[Entry, Entry]
# Named in a schema; the others are named within their table.
_IN_SCHEMA = frozenset({"table", "index", "sequence", "statistics"})
_OR_ANOTHER = "-- if these are two different columns, add the one and drop the other instead"
_WITHIN_TABLE = frozenset(
    {"constraint", "index", "sequence", "statistics", "trigger", "rule", "policy", "domain constraint"}
)


def align(expected: Catalog, actual: Catalog) -> tuple[list[Finding], Catalog]:
    """The renames, and the actual catalog as it is once they are done."""
    findings: list[Finding] = []
    for find, tell in ((_tables, _one_by_one), (_columns, _one_by_one), (_belongings, _by_table)):
        pairs = find(expected, actual)
        findings += tell(pairs)
        for wanted, present in pairs:
            actual = _renamed(actual, wanted, present)
    return findings, actual


def _candidates(expected: Catalog, actual: Catalog, kinds: Iterable[str]) -> tuple[list[Entry], list[Entry]]:
    missing = [e for e in expected.entries if e.kind in kinds and e.rename and e.key not in actual.by_key]
    unexpected = [e for e in actual.entries if e.kind in kinds and e.rename and e.key not in expected.by_key]
    return missing, unexpected


def _paired(missing: list[Entry], unexpected: list[Entry], mark: Callable[[Entry, bool], object]) -> list[Pair]:
    """Those that nothing but the name tells apart; where several look alike, as many here as there."""
    waiting: dict[object, list[Entry]] = {}
    for entry in unexpected:
        waiting.setdefault(mark(entry, False), []).append(entry)
    wanted: dict[object, list[Entry]] = {}
    for entry in missing:
        wanted.setdefault(mark(entry, True), []).append(entry)
    alike = [(entries, waiting.get(key, [])) for key, entries in wanted.items()]
    return [pair for here, there in alike if len(here) == len(there) for pair in zip(here, there, strict=True)]


def _tables(expected: Catalog, actual: Catalog) -> list[Pair]:
    """A table with the same columns in the same schema. Two that look alike are not told apart, so none is taken."""

    def mark(entry: Entry, wanted: bool) -> object:
        catalog = expected if wanted else actual
        columns = [c for c in catalog.entries if c.kind == "column" and c.table == entry.name]
        shape = sorted((c.label, c.values.get("type")) for c in columns)
        return (entry.name.removesuffix(entry.label), str(shape)) if shape else entry.key

    pairs = _paired(*_candidates(expected, actual, {"table"}), mark)
    marks = [mark(wanted, True) for wanted, _ in pairs]
    return [pair for pair, own in zip(pairs, marks, strict=True) if marks.count(own) == 1]


def _columns(expected: Catalog, actual: Catalog) -> list[Pair]:
    """A column of the same type in the same place. One that was dropped and one that was added seldom share a place."""

    def mark(entry: Entry, _wanted: bool) -> object:
        values = [entry.values.get(name) for name in ("type", "not null", "default", "generated", "collation")]
        return entry.kind, entry.parents[0], entry.position, str(values)

    return _paired(*_candidates(expected, actual, {"column", "attribute"}), mark)


def _belongings(expected: Catalog, actual: Catalog) -> list[Pair]:
    """Constraints, indexes, sequences and the like with the same definition on the same table."""

    def mark(entry: Entry, _wanted: bool) -> object:
        values = {n: f.value for n, f in entry.properties.items() if (f.inline and n != "valid") or n == "owned by"}
        values.pop("owner", None)
        return entry.kind, entry.table, entry.inline or entry.parents, str(sorted(values.items()))

    pairs = [p for p in _paired(*_candidates(expected, actual, _WITHIN_TABLE), mark) if p[0].table or p[0].parents]
    constraints = {f"constraint {wanted.table}.{wanted.label}" for wanted, _ in pairs if wanted.kind == "constraint"}
    # The index behind a constraint takes the constraint's name along.
    return [(wanted, present) for wanted, present in pairs if not constraints.intersection(wanted.parents)]


def _one_by_one(pairs: list[Pair]) -> list[Finding]:
    return [Finding(w.kind, w.name, "name", w.label, p.label, sql=_statement(w, p), table=w.table) for w, p in pairs]


def _by_table(pairs: list[Pair]) -> list[Finding]:
    tables: dict[str, list[Pair]] = {}
    for wanted, present in pairs:
        tables.setdefault(wanted.table or "", []).append((wanted, present))
    findings: list[Finding] = []
    for table, own in sorted(tables.items()):
        if len(own) == 1 or not table:
            findings += _one_by_one(own)
            continue
        after, before = (", ".join(pair[side].label for pair in own) for side in (0, 1))
        sql = "\n".join(_statement(wanted, present) for wanted, present in own)
        findings.append(Finding("table", table, "stale names", after, before, sql=sql, table=table))
    return findings


def _statement(wanted: Entry, present: Entry) -> str:
    before, after = wanted.rename or ("", "")
    statement = f"{before}{present.name if wanted.kind in _IN_SCHEMA else present.label}{after}"
    # Whether a column is the same one, its values tell and not its type: somebody has to look.
    return f"{_OR_ANOTHER}\n{statement}" if wanted.kind == "column" else statement


def _renamed(catalog: Catalog, wanted: Entry, present: Entry) -> Catalog:
    """The catalog with the new name wherever the old one stands, as the server shows it after the renaming."""
    whole = _replacing(present.name, wanted.name)
    part = _replacing(present.label, wanted.label)

    def near(entry: Entry) -> bool:
        """Whether the bare name means this object here: in its own table, or where it is referred to."""
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
