"""The Content-Type of a body: its kind, its parameters, its charset. Pure.

Strangers write it: all here is linear in its length, and a charset is looked up among the
web's own. Python has codecs that are not for text or take minutes, and remembers each unknown name that it
is asked for.
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
"""RFC 2046 has 70; some programs send more."""

# A quoted value ends the one before it, and a name begins after a semicolon only: each is looked at once.
_PARAMETER = re.compile(r';\s*+([^\s=;"]++)\s*+=\s*+(?:"((?:[^"\\]|\\.)*+)"|([^\s;"]*+))', re.DOTALL)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_BOUNDARY = re.compile(r"[ -~]*[!-~]")

# Labels of the WHATWG's Encoding Standard, and Python's own names of the same, to Python's codecs.
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
"""Python's names of those that a form may be in: UTF-8, as browsers send it, and what older programs name."""

# Of these Python replaces in C what is not theirs; of the others it calls a function for each byte.
_REPLACED = frozenset({"utf-8", "ascii"})


@dataclass(frozen=True, slots=True)
class ContentType:
    """A Content-Type: ``kind``, "" for none, and its parameters by their names, both in small letters."""

    kind: str
    parameters: Mapping[str, str]

    @property
    def is_json(self) -> bool:
        """Whether the body says that it is JSON."""
        return self.kind == JSON or self.kind.endswith("+json")

    @property
    def charset(self) -> str | None:
        """Python's name of the charset, UTF-8 where none is given; None for one that is not of the web."""
        given = self.parameters.get("charset", "").strip().lower()
        return _CHARSETS.get(given) if given else "utf-8"

    @property
    def boundary(self) -> str | None:
        """The text that divides the parts of a multipart body; None where no text could."""
        given = self.parameters.get("boundary", "").rstrip()
        is_one = len(given) <= MAX_BOUNDARY_CHARACTERS and _BOUNDARY.fullmatch(given)
        return given if is_one else None


def decoded(text: bytes, charset: str) -> str:
    """The text, in one of ``FORM_CHARSETS``.

    Raises:
        UnicodeDecodeError: it has bytes that the charset has not, and that cannot be replaced quickly.
    """
    return text.decode(charset, "replace" if charset in _REPLACED else "strict")


@functools.lru_cache(maxsize=128)
def parse(header: str) -> ContentType:
    """Read the header; of a parameter that comes twice the first counts."""
    kind, semicolon, _ = header.partition(";")
    parameters: dict[str, str] = {}
    if semicolon:
        for name, quoted, plain in _PARAMETER.findall(header, len(kind)):
            parameters.setdefault(name.lower(), _ESCAPED.sub(r"\1", quoted) if quoted else plain)
    return ContentType(kind.strip().lower(), parameters)
