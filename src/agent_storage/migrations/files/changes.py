"""The tables and columns that the statements of a migration add, drop and empty, read from their tokens.

Statements whose effect their text does not show, such as DO, are reported as unknown.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

from agent_storage.migrations.files.file import SqlText
from agent_storage.migrations.files.reading import identifier_at, name_at, past, word_at
from agent_storage.migrations.files.splitter import SqlStatement, Token, tokens

Verb = Literal["add", "drop", "empty", "unknown"]

#: Statements that run code, or remove objects together with others.
_UNKNOWN = {"DO", "CALL", "SELECT", "WITH", "EXECUTE", "MERGE"}
#: After ADD or DROP in ALTER TABLE these are not the name of a column.
_NOT_A_COLUMN = {
    "CONSTRAINT",
    "CHECK",
    "UNIQUE",
    "PRIMARY",
    "FOREIGN",
    "EXCLUDE",
    "DEFAULT",
    "NOT",
    "EXPRESSION",
    "IDENTITY",
}
#: Words before the name of an object.
_GUARDS = ("IF", "NOT", "EXISTS", "ONLY")
_HOLDING_NO_ROWS = {"INDEX", "VIEW", "FUNCTION", "TRIGGER", "POLICY", "RULE", "COMMENT", "STATISTICS", "CONSTRAINT"}


class Change(NamedTuple):
    """A change of a table, or of its `column`. `schema` is None where the search_path decides."""

    verb: Verb
    schema: str | None
    table: str
    column: str | None
    statement: SqlStatement


def changes(sql: SqlText) -> Iterator[Change]:
    """Yield the changes of tables and columns, in the order of the text."""
    for statement in sql.statements:
        found = list(tokens(statement.text))
        for verb, schema, table, column in _read(found):
            yield Change(verb, schema, table, column, statement)


def _read(found: Sequence[Token]) -> Iterator[tuple[Verb, str | None, str, str | None]]:
    first, second = word_at(found, 0), word_at(found, 1)
    if first == "CREATE":
        at = next((at for at in range(1, 4) if word_at(found, at) == "TABLE"), 0)
        if at and word_at(found, 1) not in {"TEMP", "TEMPORARY"}:
            schema, table, _ = name_at(found, past(found, at + 1, *_GUARDS))
            yield "add", schema, table, None
    elif (first, second) == ("ALTER", "TABLE"):
        yield from _altered(found)
    elif (first, second) in {("DROP", "TABLE"), ("TRUNCATE", "TABLE")} or first == "TRUNCATE":
        start = 2 if second == "TABLE" else 1
        for schema, table in _names(found, past(found, start, *_GUARDS)):
            yield "drop" if first == "DROP" else "empty", schema, table, None
    elif (first, second) == ("DELETE", "FROM"):
        schema, table, _ = name_at(found, past(found, 2, *_GUARDS))
        yield "empty", schema, table, None
    elif first in _UNKNOWN or (first == "DROP" and (second not in _HOLDING_NO_ROWS or _cascades(found))):
        yield "unknown", None, f"{first} {second}" if first == "DROP" else first, None


def _cascades(found: Sequence[Token]) -> bool:
    return any(token.kind == "word" and token.text.upper() == "CASCADE" for token in found)


def _altered(found: Sequence[Token]) -> Iterator[tuple[Verb, str | None, str, str | None]]:
    schema, table, at = name_at(found, past(found, 2, *_GUARDS))
    depth = 0
    for clause in range(at, len(found)):
        text = found[clause].text
        depth += (text == "(") - (text == ")")
        # A clause begins after the name of the table or after a comma.
        if depth or (clause > at and found[clause - 1].text != ","):
            continue
        word = word_at(found, clause)
        start = clause + 1 + (word_at(found, clause + 1) == "COLUMN")
        if word in {"ADD", "DROP"} and (start > clause + 1 or word_at(found, start) not in _NOT_A_COLUMN):
            column = identifier_at(found, past(found, start, *_GUARDS))
            if column:
                yield "add" if word == "ADD" else "drop", schema, table, column
        elif word == "RENAME":
            yield from _renamed(found, clause, schema, table)


def _renamed(
    found: Sequence[Token], at: int, schema: str | None, table: str
) -> Iterator[tuple[Verb, str | None, str, str | None]]:
    if word_at(found, at + 1) == "TO":
        yield "drop", schema, table, None
        yield "add", schema, identifier_at(found, at + 2), None
    elif word_at(found, at + 1) != "CONSTRAINT":
        old = at + 1 + (word_at(found, at + 1) == "COLUMN")
        yield "drop", schema, table, identifier_at(found, old)
        yield "add", schema, table, identifier_at(found, old + 2)


def _names(found: Sequence[Token], at: int) -> Iterator[tuple[str | None, str]]:
    while at < len(found):
        schema, name, at = name_at(found, at)
        yield schema, name
        if at < len(found) and found[at].text == "*":
            at += 1
        if at >= len(found) or found[at].text != ",":
            return
        at = past(found, at + 1, *_GUARDS)
