"""Content-Type: its kind, its boundary, and which charsets there are."""

import codecs
import encodings

import pytest

from lastacross.webapp import content_type


@pytest.mark.parametrize(
    ("header", "kind", "parameters"),
    [
        ("", "", {}),
        ("Text/Plain", "text/plain", {}),
        (" text/plain ; Charset = UTF-8", "text/plain", {"charset": "UTF-8"}),
        ('a/b; x="c;d\\"e"; y=f', "a/b", {"x": 'c;d"e', "y": "f"}),
        ("a/b; x=1; x=2", "a/b", {"x": "1"}),
        ('a/b; x="open; y=1', "a/b", {"x": "", "y": "1"}),
        ("a/b; x", "a/b", {}),
        ("a/b; boundary*=utf-8''x", "a/b", {"boundary*": "utf-8''x"}),
        ("; x=1", "", {"x": "1"}),
    ],
)
def test_a_header_says(header: str, kind: str, parameters: dict[str, str]) -> None:
    found = content_type.parse(header)

    assert (found.kind, dict(found.parameters)) == (kind, parameters)


@pytest.mark.parametrize(
    ("given", "boundary"),
    [
        ("x", "x"),
        ('" x "', " x"),
        ('"a b"', "a b"),
        ("x" * 200, "x" * 200),
        ("x" * 201, None),
        ('""', None),
        ('"\t"', None),
        ("\xe9", None),
    ],
)
def test_a_boundary_is_what_could_divide_a_form(given: str, boundary: str | None) -> None:
    assert content_type.parse(f"multipart/form-data; boundary={given}").boundary == boundary


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("", "utf-8"),
        ("UTF-8", "utf-8"),
        ("utf8", "utf-8"),
        ('"Latin-1"', "iso8859-1"),
        ("ISO-8859-15", "iso8859-15"),
        ("windows-1252", "cp1252"),
        ("Shift_JIS", "shift_jis"),
        ("nonsense", None),
        ("hex", None),
        ("punycode", None),
        ("idna", None),
        ("unicode_escape", None),
        ("rot13", None),
    ],
)
def test_a_charset_is_one_of_the_webs(given: str, name: str | None) -> None:
    assert content_type.parse(f"text/plain; charset={given}").charset == name


def test_every_charset_is_a_codec_of_text() -> None:
    for name in set(content_type._CHARSETS.values()):
        assert "ab".encode(name).decode(name) == "ab"
        assert codecs.lookup(name)


def test_a_charset_that_nobody_knows_leaves_nothing_behind() -> None:
    """Python keeps each name that it was asked for."""
    before = len(encodings._cache)

    for number in range(50):
        assert content_type.parse(f"text/plain; charset=unknown-{number}").charset is None

    assert len(encodings._cache) == before
