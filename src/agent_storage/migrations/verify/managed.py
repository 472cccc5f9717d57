"""Tell drift from objects that no source has made, and leave out objects that the configuration ignores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from agent_storage.catalog import Catalog, Difference, compare

#: Objects that are not part of a table, although the catalog names a table with them.
_WHOLE = frozenset({"table", "foreign table", "view", "materialized view", "sequence"})


@dataclass(frozen=True, slots=True)
class Compared:
    """The differences of a live database, and the objects in it that no configured source has made."""

    differences: list[Difference]
    unmanaged: list[Difference]


def without_ignored(catalog: Catalog, patterns: Sequence[str]) -> Catalog:
    """Return the catalog without the objects that match a pattern `schema.name`, and without their parts."""
    if not patterns:
        return catalog
    gone: set[str] = set()
    for entry in catalog.entries:
        names = {_plain(entry.kind, entry.name), _plain("table", entry.table) if entry.table else ""}
        if any(fnmatchcase(name, pattern) for name in names for pattern in patterns):
            gone.add(entry.key)
    while more := {
        entry.key for entry in catalog.entries if entry.key not in gone and gone.intersection(entry.parents)
    }:
        gone |= more
    return replace(catalog, entries=tuple(entry for entry in catalog.entries if entry.key not in gone))


def _plain(kind: str, name: str) -> str:
    """Return `schema.name` without quotes and arguments; of a schema `name.*`, which is all that is in it."""
    text = name.partition("(")[0].replace('"', "")
    return f"{text}.*" if kind == "schema" else text


def compare_live(expected: Catalog, live: Catalog, with_foreign: Catalog | None = None) -> Compared:
    """Compare the live database with what its applied migrations make.

    `with_foreign` is the catalog that also the applied migrations of sources that are not configured here make: their
    parts of our tables are no drift.
    """
    found = compare(expected, live)
    if with_foreign is not None:
        real = {_identity(difference) for difference in compare(with_foreign, live)}
        found = [one for one in found if _identity(one) in real or _unmanaged(one, expected, live)]
    # The repair of an unmanaged object would drop it.
    unmanaged = [replace(one, sql=None) for one in found if _unmanaged(one, expected, live)]
    return Compared([one for one in found if not _unmanaged(one, expected, live)], unmanaged)


def _identity(difference: Difference) -> tuple[str, str, str]:
    return difference.kind, difference.object, difference.property


def _unmanaged(difference: Difference, expected: Catalog, live: Catalog) -> bool:
    if difference.severity != "drift":
        return False
    if difference.kind == "unmodelled":
        return difference.property == "unexpected"
    key = f"{difference.kind} {difference.object}"
    whole = difference.table is None or difference.kind in _WHOLE
    return whole and key in live.by_key and key not in expected.by_key
