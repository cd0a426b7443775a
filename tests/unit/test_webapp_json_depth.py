"""The depth of a JSON text, told without reading it."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lastacross.webapp import json_body
from lastacross.webapp.json_depth import is_deeper, max_values

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


def values(value: Any) -> int:
    """By looking."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + sum(map(values, inner))


@given(VALUES, st.booleans())
def test_any_value_has_at_most_as_many_values_as_are_told(value: Any, is_ascii: bool) -> None:
    text = json.dumps(value, ensure_ascii=is_ascii).encode()

    assert values(value) <= max_values(text) <= 2 * values(value)


@pytest.mark.parametrize(
    "text", [b"[" + b"0," * 9_999 + b"0]", b"{" + b",".join(b'"%d":0' % n for n in range(10_000)) + b"}"]
)
def test_so_many_values_are_read_and_one_more_is_not(text: bytes) -> None:
    with pytest.raises(json_body.BadJsonError, match="more than the 10,000 values"):
        json_body.load(text)
    fewer = text.replace(b",0]", b"]").replace(b',"9999":0', b"")

    assert len(json_body.load(fewer)) == 9_999
