"""Split SQL text into tokens, and tokens into statements, by PostgreSQL's lexical rules.

One scan serves two purposes. Each statement is sent separately, so that an error has a position and progress can be
shown. The tokens, without comments and white space, are the input of the checksum of a migration.
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple


class Token(NamedTuple):
    """A lexical unit. `kind` is word, quoted, string, dollar, number, parameter, operator, punctuation or meta."""

    kind: str
    text: str
    start: int


@dataclass(frozen=True, slots=True)
class SqlStatement:
    """One statement of a file: its text without the semicolon, and its `offset` in characters."""

    number: int
    text: str
    offset: int
    words: tuple[str, ...]

    def starts_with(self, *words: str) -> bool:
        """Return whether the statement begins with these keywords."""
        return self.words[: len(words)] == words


@dataclass(frozen=True, slots=True)
class Scan:
    """The result of one scan: the statements, the SHA-256 of the tokens, the first psql meta-command."""

    statements: list[SqlStatement]
    checksum: str
    meta: Token | None


# White space and line comments are skipped in the same match. At the end of the text no group matches.
# Order matters: a prefixed string before a word, a number before punctuation. `unclosed` takes the rest of a text with
# an unterminated quote, so that the server reports the error.
_TOKEN = re.compile(
    r"""
    (?: \s++ | --[^\n]*+ )*+
    (?: (?P<nested>/\*)
    | (?P<string>[eE]'[^'\\]*+(?:(?:\\.|'')[^'\\]*+)*+' | (?:[uU]&|[bBxXnN])?'[^']*+(?:''[^']*+)*+')
    | (?P<quoted>(?:[uU]&)?"[^"]*+(?:""[^"]*+)*+")
    | (?P<dollar>\$(?P<tag>(?:[^\W\d][^\W]*)?)\$ .*? \$(?P=tag)\$)
    | (?P<parameter>\$\d+)
    | (?P<number>0[xXoObB][0-9a-fA-F_]+ | (?:\d[\d_]*(?:\.(?!\.)[\d_]*)?|\.\d[\d_]*)(?:[eE][+-]?\d+)?)
    | (?P<word>[^\W\d][\w$]*)
    | (?P<operator>(?:(?!--|/\*)[-+*/<>=~!@\#%^&|`?])+)
    | (?P<meta>\\[^\n]*)
    | (?P<unclosed>['"].*|\$\w*\$.*)
    | (?P<punctuation>.)
    | \Z )
    """,
    re.VERBOSE | re.DOTALL,
)
_COMMENT_EDGE = re.compile(r"/\*|\*/")
_SPECIAL = re.compile(r"[~!@#%^&|`?]")


def tokens(text: str) -> Iterator[Token]:
    """Yield the tokens of `text`, without comments and white space."""
    position = 0
    while (found := _TOKEN.match(text, position)) and (kind := found.lastgroup):
        start, position = found.span(kind)
        if kind == "nested":
            position = _comment_end(text, start)
            continue
        if kind == "operator":
            position = _operator_end(text, start, position)
        yield Token("string" if kind == "unclosed" else kind, text[start:position], start)


def _comment_end(text: str, start: int) -> int:
    depth = 0
    for edge in _COMMENT_EDGE.finditer(text, start):
        depth += 1 if edge[0] == "/*" else -1
        if depth == 0:
            return edge.end()
    return len(text)


def _operator_end(text: str, start: int, end: int) -> int:
    """Return the end of an operator. It ends in + or - only if it has a special character (`=-1` is `=` and `-`)."""
    if not _SPECIAL.search(text, start, end):
        while end - start > 1 and text[end - 1] in "+-":
            end -= 1
    return end


def scan(text: str) -> Scan:
    """Return the statements without empty ones, the checksum and the first psql meta-command, in one pass."""
    digest = hashlib.sha256()
    meta: list[Token] = []

    def noted() -> Iterator[Token]:
        for token in tokens(text):
            digest.update(token.text.encode("utf-8", "surrogatepass") + b"\0")
            if token.kind == "meta":
                meta.append(token)
            yield token

    spans = enumerate(_spans(noted()), 1)
    statements = [SqlStatement(number, text[first:end], first, words) for number, (first, end, words) in spans]
    return Scan(statements, digest.hexdigest(), meta[0] if meta else None)


def split(text: str) -> list[SqlStatement]:
    """Return the statements of `text`, without empty ones."""
    return scan(text).statements


def _spans(found: Iterable[Token]) -> Iterator[tuple[int, int, tuple[str, ...]]]:
    """Yield start, end and keywords of each statement."""
    first, end, parentheses, atomic = -1, 0, 0, 0
    words: list[str] = []
    for token in found:
        if token.text == ";" and parentheses == 0 and atomic == 0:
            if first >= 0:
                yield first, end, tuple(words)
            first, words = -1, []
            continue
        first = token.start if first < 0 else first
        end = token.start + len(token.text)
        if token.kind == "word":
            # Interned, because thousands of statements share the same few words.
            words.append(sys.intern(token.text.upper()))
            atomic = _atomic_depth(words, atomic)
        elif token.text in "()":
            parentheses = max(0, parentheses + (1 if token.text == "(" else -1))
    if first >= 0:
        yield first, end, tuple(words)


def _atomic_depth(words: list[str], depth: int) -> int:
    """Return the nesting depth in a `BEGIN ATOMIC … END` body, where a semicolon does not end the statement."""
    if depth == 0:
        return 1 if words[-2:] == ["BEGIN", "ATOMIC"] and words[0] == "CREATE" else 0
    if words[-1] == "CASE":
        return depth + 1
    return depth - 1 if words[-1] == "END" else depth
