"""`storage check`: column lists in declared statements, compared with the `New…` record of their table.

`INSERT INTO t (…)` has to name every field of the record but `id`, `created_at` and `updated_at`, and `ON CONFLICT (…)
DO UPDATE SET` every one but these and the key. A statement that leaves fields out on purpose says so in a comment after
the list:

    INSERT INTO sessions (agent, data)    -- without status, board_id
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Set

from agent_storage.maintenance.findings import Finding
from agent_storage.statements.records import MAINTAINED

_INSERT = re.compile(
    r'\bINSERT INTO "?(?P<table>\w+)"?(?: AS \w+)?\s*\((?P<names>[^()]*)\)(?:\s*--\s*without (?P<without>[\w, ]+))?'
)
_SET = re.compile(
    r"\bON CONFLICT \((?P<key>[^()]*)\) DO UPDATE\s+SET (?P<changes>.*?)(?=\bRETURNING\b|\bWHERE\b|\Z)", re.DOTALL
)
_WITHOUT = re.compile(r"--\s*without ([\w, ]+)")
_NESTED = re.compile(r"\([^()]*\)")
_CHANGED = re.compile(r'(?:\A|,)\s*(?:--[^\n]*\n\s*)?"?(\w+)"?\s*=')
_WORD = re.compile(r"\w+")


def check_lists(name: str, text: str, fields: Mapping[str, Set[str]]) -> Iterator[Finding]:
    """Compare the column lists in the text of a statement with the fields of each table's `New…` record."""
    for insert in _INSERT.finditer(text):
        if insert["table"] not in fields:
            continue
        wanted = fields[insert["table"]] - MAINTAINED
        place = f"INSERT INTO {insert['table']}"
        yield from _compare(name, place, wanted, _words(insert["names"]), _words(insert["without"]))
        following = _INSERT.search(text, insert.end())
        changes = _SET.search(text, insert.end(), following.start() if following else len(text))
        if changes:
            said = _WITHOUT.search(changes["changes"])
            yield from _compare(
                name,
                f"{place} … DO UPDATE SET",
                wanted - _words(changes["key"]),
                set(_CHANGED.findall(_flat(changes["changes"]))),
                _words(said[1] if said else None),
            )


def _compare(name: str, place: str, wanted: Set[str], listed: Set[str], without: Set[str]) -> Iterator[Finding]:
    if missing := ", ".join(sorted(wanted - listed - without)):
        yield Finding(name, f"{place} leaves out {missing}: list it, or write `-- without {missing}` after the list")
    if stale := ", ".join(sorted((without & listed) | (without - wanted))):
        yield Finding(name, f"{place} says that it is without {stale}, which is listed or no field")


def _flat(text: str) -> str:
    """Return the text without what lies in parentheses."""
    while (shorter := _NESTED.sub("", text)) != text:
        text = shorter
    return text


def _words(text: str | None) -> set[str]:
    return set(_WORD.findall(text or ""))
