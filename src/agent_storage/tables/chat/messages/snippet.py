"""The part of a message that a search found, with its hits marked.

PostgreSQL's ts_headline cannot do it: the words of the index have no accents and are not its dictionary's.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING

import orjson

from agent_storage.statements.text import escape_all

if TYPE_CHECKING:
    from agent_storage.tables.chat.messages.record import Content

#: Fragments of a snippet, the words before a fragment's first hit, and the words of a fragment.
_FRAGMENTS, _BEFORE, _WORDS = 2, 6, 24
#: As search_fold() does it.
_LONGEST, _FIRST, _LAST = 65_536, 49_152, 16_384
_CJK = "\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u9fff\uac00-\ud7a3\uf900-\ufaff\U00020000-\U0003ffff"
_WORD = re.compile(rf"[{_CJK}]+|(?:(?![{_CJK}])[^\W_]|[\u0300-\u036f])+")
_IS_CJK = re.compile(rf"[{_CJK}]")
_LEXEME = re.compile(r"'([^']*)'(:\*)?")
_MARKS = re.compile("[\u0300-\u036f]+")
_SPACES = re.compile(r"\s+")
_LETTERS = str.maketrans({"ø": "o", "đ": "d", "ł": "l", "ı": "i", "ß": "ss", "æ": "ae", "œ": "oe"})

Span = tuple[int, int]


def snippet(content: Content, query: str) -> str:
    """Return the words around the first hits of `query`, a tsquery as text, each hit between `**`.

    A text without a hit, whose words were found in what a snippet does not show, gives its first words.
    """
    text = _text(content)
    if len(text) > _LONGEST:
        text = f"{text[:_FIRST]} {text[-_LAST:]}"
    exact = {word for word, prefix in _LEXEME.findall(query) if not prefix}
    prefixes = tuple(word for word, prefix in _LEXEME.findall(query) if prefix)
    words = [match.span() for match in _WORD.finditer(text)]
    hits = [hit for place, word in enumerate(words) for hit in _hits(text, word, place, exact, prefixes)]
    fragments: list[str] = []
    shown = -1
    for place, _ in hits or [(0, (0, 0))]:
        if place <= shown or len(fragments) == _FRAGMENTS or not words:
            continue
        first = max(shown + 1, place - _BEFORE)
        shown = min(len(words), first + _WORDS) - 1
        start, end = words[first][0], words[shown][1]
        marked = [span for at, span in hits if first <= at <= shown]
        fragments.append(_SPACES.sub(" ", _mark(text, start, end, marked)))
    return " … ".join(fragments)


def _hits(text: str, word: Span, place: int, exact: set[str], prefixes: tuple[str, ...]) -> list[tuple[int, Span]]:
    """Return what is found in a word, in order: the whole word, or parts of it where words have no spaces."""
    start, end = word
    raw = text[start:end]
    if not _IS_CJK.match(raw):
        folded = _fold(raw)
        return [(place, word)] if folded in exact or folded.startswith(prefixes) else []
    found = sorted(
        (start + at, start + at + len(part))
        for part in {*exact, *prefixes}
        if part
        for at in range(len(raw))
        if raw.startswith(part, at)
    )
    return [(place, span) for span in _joined(found)]


def _joined(spans: Sequence[Span]) -> list[Span]:
    joined: list[Span] = []
    for start, end in spans:
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return joined


def _mark(text: str, start: int, end: int, spans: Sequence[Span]) -> str:
    parts: list[str] = []
    for first, last in spans:
        parts += (text[start:first], "**", text[first:last], "**")
        start = last
    return "".join([*parts, text[start:end]])


def _fold(word: str) -> str:
    if word.isascii():
        return word.lower()
    plain = unicodedata.normalize("NFC", _MARKS.sub("", unicodedata.normalize("NFKD", word.lower())))
    return plain.translate(_LETTERS)


def _text(content: Content) -> str:
    """The text of a message as message_text() has it."""
    if isinstance(content, str):
        return content
    texts: list[str] = []
    for part in content:
        fields = part.model_dump()
        match fields["type"]:
            case "tool_call":
                texts += (str(fields.get("name")), _json(fields.get("arguments")))
            case "tool_result":
                result = fields.get("result")
                texts.append(result if isinstance(result, str) else _json(result))
            case _:
                text = fields.get("text")
                texts.append(text if isinstance(text, str) else "" if text is None else _json(text))
    return " ".join(texts)


def _json(value: object) -> str:
    return orjson.dumps(escape_all(value)).decode()
