"""The depth of a JSON text, told without reading it."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lastacross.webapp.json_depth import is_deeper

TEXTS = st.text(alphabet='[]{}"\\a:,é\n', max_size=8)
VALUES = st.recursive(
    st.none() | st.integers() | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=30,
)


def depth(value: Any) -> int:
    """By looking."""
    if isinstance(value, dict):
        return 1 + max(map(depth, value.values()), default=0)
    return 1 + max(map(depth, value), default=0) if isinstance(value, list) else 0


@given(VALUES, st.integers(0, 12), st.booleans())
def test_any_value_is_as_deep_as_it_looks(value: Any, limit: int, is_ascii: bool) -> None:
    text = json.dumps(value, ensure_ascii=is_ascii).encode()

    assert is_deeper(text, limit) == (depth(value) > limit)


@pytest.mark.parametrize(
    "text", [b"[" * 101, b'{"a":' * 101, b"[" * 50 + b'"]"' + b"[" * 51, b"]" * 9 + b"[" * 101]
)
def test_a_text_without_its_end_is_as_deep_as_a_reader_would_get(text: bytes) -> None:
    assert is_deeper(text, 100)


@pytest.mark.parametrize(
    "text", [b"[]" * 1000, b'"[["' * 200, b'"\\"[[" ' * 200, b'"\\\\"[]' * 200, b"]" * 500, b""]
)
def test_what_stands_beside_each_other_is_not_deep(text: bytes) -> None:
    assert not is_deeper(text, 2)
