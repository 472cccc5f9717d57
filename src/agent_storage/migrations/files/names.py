"""The names of the tables, indexes, types, sequences, views and functions that a migration creates, renames and drops.

They are read from the tokens of its statements, without a database. Temporary objects are left out, as is what
`IF NOT EXISTS` guards. Of a DO block, only the CREATE statements are read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

from agent_storage.migrations.files.file import SqlText
from agent_storage.migrations.files.reading import name_at, past, word_at
from agent_storage.migrations.files.splitter import SqlStatement, Token, tokens

#: Tables, indexes, sequences, views and types share their names.
Family = Literal["relation", "function"]

_FAMILIES: dict[str, Family] = {
    "TABLE": "relation",
    "INDEX": "relation",
    "SEQUENCE": "relation",
    "VIEW": "relation",
    "TYPE": "relation",
    "DOMAIN": "relation",
    "FUNCTION": "function",
    "PROCEDURE": "function",
    "AGGREGATE": "function",
}
_MODIFIERS = {"OR", "REPLACE", "UNIQUE", "UNLOGGED", "MATERIALIZED", "RECURSIVE", "FOREIGN"}
_CREATE_WITHIN = re.compile(r"\bCREATE\s+(?:OR\s+REPLACE\s+)?(?:TABLE|TYPE|FUNCTION|VIEW)\s+[^;]*", re.IGNORECASE)


class Name(NamedTuple):
    """The name of an object. `schema` is None where the search_path decides. `arguments`: the number, of a function."""

    family: Family
    schema: str | None
    name: str
    arguments: int | None = None


class Step(NamedTuple):
    """A name that a statement makes, or one that is free after it. `kind` is the word of the statement."""

    name: Name
    kind: str
    made: bool
    statement: SqlStatement


def steps(text: SqlText) -> Iterator[Step]:
    """Yield the names that the statements make and free, in order, up to one that changes the search_path."""
    for statement in text.statements:
        if statement.starts_with("SET") and "SEARCH_PATH" in statement.words:
            return
        for kind, name, made in _read(list(tokens(statement.text))):
            yield Step(name, kind.lower(), made, statement)


def _read(found: Sequence[Token]) -> Iterator[tuple[str, Name, bool]]:
    first = word_at(found, 0)
    if first == "CREATE":
        yield from ((kind, name, True) for kind, name in _created(found))
    elif first == "DROP":
        yield from ((kind, name, False) for kind, name in _dropped(found))
    elif first == "ALTER":
        yield from _renamed(found)
    elif first == "DO":
        for body in (token.text for token in found if token.kind == "dollar"):
            for statement in _CREATE_WITHIN.finditer(body):
                yield from ((kind, name, True) for kind, name in _created(list(tokens(statement[0]))))


def _created(found: Sequence[Token]) -> Iterator[tuple[str, Name]]:
    at = past(found, 1, *_MODIFIERS)
    kind = word_at(found, at)
    at += 1 + (word_at(found, at + 1) == "CONCURRENTLY")
    if kind not in _FAMILIES or word_at(found, at) == "IF":
        return
    if kind == "INDEX":
        yield from _index(found, at)
        return
    schema, name, at = name_at(found, at)
    if name:
        yield (
            kind,
            Name(_FAMILIES[kind], schema, name, _arguments(found, at) if _FAMILIES[kind] == "function" else None),
        )


def _index(found: Sequence[Token], at: int) -> Iterator[tuple[str, Name]]:
    """Yield the name of an index, which is in the schema of its table."""
    if word_at(found, at) == "ON":
        return
    _, name, at = name_at(found, at)
    at += 1 + (word_at(found, at + 1) == "ONLY")
    yield "INDEX", Name("relation", name_at(found, at)[0], name)


def _dropped(found: Sequence[Token]) -> Iterator[tuple[str, Name]]:
    at = past(found, 1, "MATERIALIZED", "FOREIGN")
    kind = word_at(found, at)
    if kind not in _FAMILIES:
        return
    at = past(found, at + 1, "CONCURRENTLY", "IF", "EXISTS")
    depth = 0
    expected = True
    while at < len(found):
        text = found[at].text
        if expected and found[at].kind in {"word", "quoted"}:
            schema, name, at = name_at(found, at)
            yield kind, Name(_FAMILIES[kind], schema, name)
            expected = False
            continue
        depth += (text == "(") - (text == ")")
        expected = text == "," and depth == 0
        at += 1


def _renamed(found: Sequence[Token]) -> Iterator[tuple[str, Name, bool]]:
    at = 1 + (word_at(found, 1) in {"MATERIALIZED", "FOREIGN"})
    kind = word_at(found, at)
    if kind not in _FAMILIES:
        return
    at = past(found, at + 1, "IF", "EXISTS", "ONLY")
    schema, old, at = name_at(found, at)
    while at < len(found) and word_at(found, at) != "RENAME":
        at += 1
    if word_at(found, at + 1) == "TO":
        yield kind, Name(_FAMILIES[kind], schema, old), False
        yield kind, Name(_FAMILIES[kind], schema, name_at(found, at + 2)[1]), True


def _arguments(found: Sequence[Token], at: int) -> int:
    """Return the number of arguments that a caller gives, from the parenthesis at a position."""
    depth, count, fresh = 0, 0, False
    for token in found[at:]:
        if depth == 1 and fresh and token.text != ")":
            count += token.text.upper() != "OUT"
            fresh = False
        depth += (token.text in "([") - (token.text in ")]")
        fresh = fresh or (depth == 1 and token.text in "(,")
        if depth == 0:
            break
    return count
