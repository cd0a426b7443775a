"""Parses a body's Content-Type: its kind, its parameters and its charset. Pure.

Clients are untrusted, so all code here runs in time linear in the header's length, and a charset must be one
that the web uses. Python also has codecs that do not decode text or that take minutes, and it caches every
unknown name that it is asked for.
"""

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass

FORM = "application/x-www-form-urlencoded"
MULTIPART = "multipart/form-data"
FORMS = frozenset({FORM, MULTIPART})
JSON = "application/json"
MAX_BOUNDARY_CHARACTERS = 200
"""RFC 2046 allows 70; some programs send more."""

# A quoted value ends the previous one, and a name begins only after a semicolon, so each is scanned only
# once.
_PARAMETER = re.compile(r';\s*+([^\s=;"]++)\s*+=\s*+(?:"((?:[^"\\]|\\.)*+)"|([^\s;"]*+))', re.DOTALL)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_BOUNDARY = re.compile(r"[ -~]*[!-~]")

# Maps the labels in the WHATWG's Encoding Standard, and Python's own names for them, to Python's codecs.
_CHARSETS: Mapping[str, str] = {
    **dict.fromkeys(("utf-8", "utf8"), "utf-8"),
    **dict.fromkeys(("us-ascii", "ascii"), "ascii"),
    **dict.fromkeys(("latin1", "latin-1", "l1"), "iso8859-1"),
    **dict.fromkeys(("shift_jis", "shift-jis", "sjis"), "shift_jis"),
    **dict.fromkeys(("gb2312", "gbk", "gb18030"), "gb18030"),
    **{name: name for name in ("utf-16", "utf-16le", "utf-16be", "koi8-r", "koi8-u", "euc-jp", "euc-kr")},
    **{name: name for name in ("big5", "iso-2022-jp")},
    **{f"{iso}{n}": f"iso8859-{n}" for iso in ("iso-8859-", "iso8859-") for n in range(1, 17) if n != 12},
    **{f"{windows}{n}": f"cp{n}" for windows in ("windows-", "cp") for n in range(1250, 1259)},
}

FORM_CHARSETS = frozenset({"utf-8", "ascii", "iso8859-1", "iso8859-15", "cp1252"})
"""Python's names of the charsets allowed in forms: UTF-8, as browsers send it, and those of older tools."""

# For these codecs Python replaces invalid bytes in C; for all others it calls a function for each byte.
_REPLACED = frozenset({"utf-8", "ascii"})


@dataclass(frozen=True)
class ContentType:
    """A Content-Type: its ``kind`` ("" for none) and its parameters by name, both in lower case."""

    kind: str
    parameters: Mapping[str, str]

    @property
    def is_json(self) -> bool:
        """Whether the body is declared as JSON."""
        return self.kind == JSON or self.kind.endswith("+json")

    @functools.cached_property
    def charset(self) -> str | None:
        """Python's name for the charset, UTF-8 by default; None for a charset that the web does not use."""
        given = self.parameters.get("charset", "").strip().lower()
        return _CHARSETS.get(given) if given else "utf-8"

    @functools.cached_property
    def boundary(self) -> str | None:
        """The boundary between the parts of a multipart body; None if it is invalid."""
        given = self.parameters.get("boundary", "").rstrip()
        is_one = len(given) <= MAX_BOUNDARY_CHARACTERS and _BOUNDARY.fullmatch(given)
        return given if is_one else None


def decoded(text: bytes, charset: str) -> str:
    """Decode text that is encoded in one of ``FORM_CHARSETS``.

    Raises:
        UnicodeDecodeError: it contains bytes that are invalid in the charset and cannot be replaced quickly.
    """
    return text.decode(charset, "replace" if charset in _REPLACED else "strict")


@functools.lru_cache(maxsize=128)
def parse(header: str) -> ContentType:
    """Read the header; if a parameter is repeated, its first value is used."""
    kind, semicolon, _ = header.partition(";")
    parameters: dict[str, str] = {}
    if semicolon:
        for name, quoted, plain in _PARAMETER.findall(header, len(kind)):
            parameters.setdefault(name.lower(), _ESCAPED.sub(r"\1", quoted) if quoted else plain)
    return ContentType(kind.strip().lower(), parameters)
