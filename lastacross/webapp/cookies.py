"""The cookies of a request, read once and in linear time. Pure.

As WebOb reads them, whose own expression takes time that grows with the square of the header's length:
1.4 s for 8 kB of `a`.
"""

import re

# As WebOb has it: what may be in a name and in a value without quotes, which may hold octal numbers too.
_LEGAL = rb"\w~!@#$%^&*()+\-`.?|:/{}<>'"
# A name begins where something else has ended, so a long run of letters is looked at once, not from each of
# them anew. A quote ends the one before it: no more than the last of them can be open.
_COOKIE = re.compile(
    rb"(?<![" + _LEGAL + rb"=])([" + _LEGAL + rb"]++)\s*+=\s*+"
    rb'("(?:[^"\\]|\\.)*+"|(?:[' + _LEGAL + rb"=]|\\.)*+)",
    re.DOTALL,
)
_ESCAPED = re.compile(rb"\\([0-3][0-7][0-7]|.)", re.DOTALL)
_NAME = re.compile(rb"[!#%&'*+\-.^_`|~0-9A-Za-z][!#$%&'*+\-.^_`|~0-9A-Za-z]*+")
# A server says these of a cookie, never a browser.
_ATTRIBUTES = frozenset(
    {b"path", b"comment", b"domain", b"max-age", b"expires", b"secure", b"httponly", b"samesite"}
)


def parse(header: str) -> dict[str, str]:
    """The cookies by their names, of several of one name the last; without those that are not UTF-8."""
    found: dict[str, str] = {}
    for name, value in _COOKIE.findall(header.encode("latin-1", "replace")):
        if _NAME.fullmatch(name) is None or name.lower() in _ATTRIBUTES:
            continue
        try:
            found[name.decode()] = _unquoted(value).decode()
        except UnicodeDecodeError:
            continue
    return found


def values_of(header: str, name: str) -> list[str]:
    """The different values, as they are written, of the cookies of this name.

    Another site may set some for a domain that we share: whoever signs its cookies looks at each of them. The
    limit on the header is one on their number.
    """
    if name not in header:
        return []
    pairs = (part.strip().partition("=") for part in header.split(";"))
    return list(dict.fromkeys(value for key, _, value in pairs if key == name))


def replaced(header: str, name: str, value: str | None) -> str:
    """The header with this cookie, as it is written, in place of those of its name; None: without one."""
    kept = [pair for pair in _pairs(header) if pair.partition("=")[0].rstrip() != name]
    return "; ".join(kept if value is None else [*kept, f"{name}={value}"])


def _pairs(header: str) -> list[str]:
    matches = _COOKIE.finditer(header.encode("latin-1", "replace"))
    return [match[0].decode("latin-1") for match in matches]


def _unquoted(value: bytes) -> bytes:
    if value[:1] == b'"':
        value = value[1:-1]
    return _ESCAPED.sub(_byte, value) if b"\\" in value else value


def _byte(escaped: re.Match[bytes]) -> bytes:
    what = escaped[1]
    return bytes([int(what, 8)]) if len(what) == 3 else what
