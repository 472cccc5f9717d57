"""Changes of types: those that preserve every value, the labels of an enum, the replacement of one type by another."""

from __future__ import annotations

import re
from collections.abc import Iterable

from agent_storage.catalog.model import Entry

#: Precedes each line of a statement that discards rows or values.
LOSS = "-- data loss: "
_INTEGERS = ("smallint", "integer", "bigint")
_FLOATS = ("real", "double precision")
_MODIFIED = re.compile(r"(?P<name>[a-z ]+?)\((?P<size>\d+)(?:,(?P<scale>-?\d+))?\)(?P<rest>.*)")
_LABEL = re.compile(r"E?'(?:[^']|'')*'")


def loss(sql: str) -> str:
    """Return the statements commented out, so that they run only after a review."""
    return "\n".join(LOSS + line for line in sql.splitlines())


def widens(present: str, wanted: str) -> bool:
    """Return whether every value of `present` is the same value of `wanted`. False if unknown."""
    if present == wanted or wanted in ("text", "character varying"):
        return True
    for family in (_INTEGERS, _FLOATS):
        if present in family and wanted in family:
            return family.index(present) <= family.index(wanted)
    if wanted == "numeric" and (present in _INTEGERS or present.startswith("numeric(")):
        return True
    return _wider(present, wanted)


def _wider(present: str, wanted: str) -> bool:
    """`varchar(10)` to `varchar(20)`, `numeric(10,2)` to `numeric(12,2)`, `timestamp(3)` to `timestamp`."""
    before, after = _MODIFIED.fullmatch(present), _MODIFIED.fullmatch(wanted)
    if before is None:
        return False
    name, rest = before["name"].strip(), before["rest"]
    if after is None:
        return wanted == name + rest and name != "character"
    if (name, rest) != (after["name"].strip(), after["rest"]):
        return False
    scale_before, scale_after = int(before["scale"] or 0), int(after["scale"] or 0)
    digits_before, digits_after = int(before["size"]) - scale_before, int(after["size"]) - scale_after
    return scale_before <= scale_after and digits_before <= digits_after


def enum_labels(wanted: Entry, present: Entry) -> str | None:
    """Return the SQL that adds labels or renames one. None if one must be removed or the order differs."""
    after, before = (_LABEL.findall(entry.properties["labels"].value) for entry in (wanted, present))
    alter = f"ALTER TYPE {wanted.name}"
    if before == [label for label in after if label in before]:
        return "\n".join(_added(alter, after, before))
    changed = [(old, new) for old, new in zip(before, after, strict=False) if old != new]
    if len(before) == len(after) and len(changed) == 1 and changed[0][1] not in before:
        return f"{alter} RENAME VALUE {changed[0][0]} TO {changed[0][1]};"
    return None


def _added(alter: str, after: list[str], before: list[str]) -> Iterable[str]:
    for place, label in enumerate(after):
        if label in before:
            continue
        # The label before it exists by now; only the first has none.
        beside = f" AFTER {after[place - 1]}" if place else f" BEFORE {before[0]}" if before else ""
        yield f"{alter} ADD VALUE {label}{beside};"


def moved_aside(wanted: Entry) -> str:
    """Return the SQL that renames the old type, so that the new one can be created."""
    renamed = f"ALTER {_kind(wanted)} {wanted.name} RENAME TO {_aside(wanted)};"
    if wanted.kind == "domain" and "not null" in wanted.values:
        # Since 17 its NOT NULL has a name, which the new type needs.
        return f"{renamed}\nALTER DOMAIN {_name_aside(wanted)} DROP NOT NULL;"
    return renamed


def dropped_aside(wanted: Entry) -> str:
    """Return the SQL that drops the old type. The server rejects it while the type is used."""
    return f"DROP {_kind(wanted)} {_name_aside(wanted)};"


def _name_aside(wanted: Entry) -> str:
    return wanted.name.removesuffix(wanted.label) + _aside(wanted)


def _kind(wanted: Entry) -> str:
    return "DOMAIN" if wanted.kind == "domain" else "TYPE"


def _aside(wanted: Entry) -> str:
    quote = '"' if wanted.label.endswith('"') else ""
    return f"{wanted.label.removesuffix(quote)}_old{quote}"


def converted(columns: Iterable[Entry]) -> Iterable[str]:
    """Yield the SQL that converts columns through text. It fails on a value that the new type does not have."""
    for column in columns:
        label, type_ = column.label, column.properties["type"].value
        yield f"ALTER TABLE {column.table} ALTER COLUMN {label} TYPE {type_} USING {label}::text::{type_};"
