"""What goes in comes out: the escape, and JSON that is checked before it leaves."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_storage import InvalidValue
from agent_storage.statements.text import MAX_NESTING, decode_json, encode_json, escape, unescape

ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=40)
LIMIT = 1_000_000
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(ANY_TEXT, inner, max_size=4),
    max_leaves=20,
)  # fmt: skip


@given(ANY_TEXT)
def test_every_text_survives_the_escape_and_fits_postgresql(text: str) -> None:
    stored = escape(text)
    assert "\x00" not in stored
    stored.encode()  # no lone surrogate is left
    assert unescape(stored) == text


@pytest.mark.parametrize("text", ["\x1a0000", "\x1a", "\x1a\x1a001A", "\ud83d\ude00", "\x1aD800", "\x1ad800"])
def test_text_that_looks_escaped_survives_too(text: str) -> None:
    assert unescape(escape(text)) == text


def test_ordinary_text_is_sent_as_it_is() -> None:
    assert escape("Blåbærsyltetøy 😀\n\t") == "Blåbærsyltetøy 😀\n\t"


@given(JSON)
def test_every_json_value_survives(value: Any) -> None:
    assert decode_json(encode_json(value, limit=LIMIT)) == value


@pytest.mark.parametrize(
    ("value", "path"),
    [
        (math.nan, "$"),
        ([1, [math.inf]], "$[1][0]"),
        ({"a": {"b": -math.inf}}, "$.a.b"),
        ({"a": 2**64}, "$.a"),
        ({"a": (1, 2)}, "$.a"),
        ({"a": {1, 2}}, "$.a"),
        ({"a": b"x"}, "$.a"),
        ({1: "x"}, "$"),
        ({"a": [object()]}, "$.a[0]"),
    ],
)
def test_what_would_not_come_back_equal_is_refused_with_its_place(value: Any, path: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        encode_json(value, limit=LIMIT)
    assert caught.value.path == path


def test_nesting_and_size_have_limits() -> None:
    value: Any = 0
    for _ in range(MAX_NESTING):
        value = [value]
    encode_json(value, limit=LIMIT)
    with pytest.raises(InvalidValue, match="deeper"):
        encode_json([value], limit=LIMIT)
    with pytest.raises(InvalidValue, match="limit is 10"):
        encode_json("x" * 9, limit=10)
    encode_json("x" * 8, limit=10)
