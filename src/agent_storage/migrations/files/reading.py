"""Read words, identifiers and qualified names at a position of a statement's tokens. Each accepts one past the end."""

from __future__ import annotations

from collections.abc import Sequence

from agent_storage.migrations.files.splitter import Token


def word_at(found: Sequence[Token], at: int) -> str:
    """Return the word at a position in upper case, or nothing if it is no word."""
    return found[at].text.upper() if at < len(found) and found[at].kind == "word" else ""


def identifier_at(found: Sequence[Token], at: int) -> str:
    """Return the identifier at a position as the catalog has it, or nothing if it is none."""
    if at >= len(found):
        return ""
    token = found[at]
    if token.kind == "quoted":
        return token.text[1:-1].replace('""', '"')
    return token.text.lower() if token.kind == "word" else ""


def name_at(found: Sequence[Token], at: int) -> tuple[str | None, str, int]:
    """Return schema and name at a position, and the position after them."""
    if at + 2 < len(found) and found[at + 1].text == ".":
        return identifier_at(found, at), identifier_at(found, at + 2), at + 3
    return None, identifier_at(found, at), at + 1


def past(found: Sequence[Token], at: int, *words: str) -> int:
    """Return the first position from `at` that has none of the words."""
    while word_at(found, at) in words:
        at += 1
    return at
