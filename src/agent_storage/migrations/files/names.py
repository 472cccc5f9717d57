"""The names of the tables, indexes, types, sequences, views and functions that a migration creates, renames and drops.

They are read from the tokens of its statements, without a database. Temporary objects are left out, as is what
`IF NOT EXISTS` guards. Of a DO block, only the CREATE statements are read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

from agent_storage.migrations.files.file import SqlText
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
    first = _word(found, 0)
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
    at = 1
    while _word(found, at) in _MODIFIERS:
        at += 1
    kind = _word(found, at)
    at += 1 + (_word(found, at + 1) == "CONCURRENTLY")
    if kind not in _FAMILIES or _word(found, at) == "IF":
        return
    if kind == "INDEX":
        yield from _index(found, at)
        return
    schema, name, at = _name(found, at)
    if name:
        yield (
            kind,
            Name(_FAMILIES[kind], schema, name, _arguments(found, at) if _FAMILIES[kind] == "function" else None),
        )


def _index(found: Sequence[Token], at: int) -> Iterator[tuple[str, Name]]:
    """Yield the name of an index, which is in the schema of its table."""
    if _word(found, at) == "ON":
        return
    _, name, at = _name(found, at)
    at += 1 + (_word(found, at + 1) == "ONLY")
    yield "INDEX", Name("relation", _name(found, at)[0], name)


def _dropped(found: Sequence[Token]) -> Iterator[tuple[str, Name]]:
    at = 1
    while _word(found, at) in {"MATERIALIZED", "FOREIGN"}:
        at += 1
    kind = _word(found, at)
    if kind not in _FAMILIES:
        return
    at += 1
    while _word(found, at) in {"CONCURRENTLY", "IF", "EXISTS"}:
        at += 1
    depth = 0
    expected = True
    while at < len(found):
        text = found[at].text
        if expected and found[at].kind in {"word", "quoted"}:
            schema, name, at = _name(found, at)
            yield kind, Name(_FAMILIES[kind], schema, name)
            expected = False
            continue
        depth += (text == "(") - (text == ")")
        expected = text == "," and depth == 0
        at += 1


def _renamed(found: Sequence[Token]) -> Iterator[tuple[str, Name, bool]]:
    at = 1 + (_word(found, 1) in {"MATERIALIZED", "FOREIGN"})
    kind = _word(found, at)
    if kind not in _FAMILIES:
        return
    at += 1
    while _word(found, at) in {"IF", "EXISTS", "ONLY"}:
        at += 1
    schema, old, at = _name(found, at)
    while at < len(found) and _word(found, at) != "RENAME":
        at += 1
    if _word(found, at + 1) == "TO":
        yield kind, Name(_FAMILIES[kind], schema, old), False
        yield kind, Name(_FAMILIES[kind], schema, _name(found, at + 2)[1]), True


def _word(found: Sequence[Token], at: int) -> str:
    return found[at].text.upper() if at < len(found) and found[at].kind == "word" else ""


def _name(found: Sequence[Token], at: int) -> tuple[str | None, str, int]:
    """Return schema and name at a position, and the position after them."""
    if at + 2 < len(found) and found[at + 1].text == ".":
        return _identifier(found[at]), _identifier(found[at + 2]), at + 3
    return None, _identifier(found[at]) if at < len(found) else "", at + 1


def _identifier(token: Token) -> str:
    if token.kind == "quoted":
        return token.text[1:-1].replace('""', '"')
    return token.text.lower() if token.kind == "word" else ""


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
