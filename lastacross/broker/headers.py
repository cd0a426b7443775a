"""Defines a case-insensitive mapping for a task's headers, and the headers that only the engine may set.

Pure. The rules are in docs/appengine.md, "Tasks" and "Delivery".
"""

import re
from collections.abc import Iterable, Iterator, Mapping

from lastacross.errors import InvalidTaskError

# A "token" as defined by RFC 9110, section 5.6.2.
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
# WSGI and HTTP/1.1 allow visible ISO 8859-1, spaces and tabs. A line break would start another header.
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")

# Callers may set these X-AppEngine-* headers for namespaces and fail-fast.
_ALLOWED = frozenset(
    {"x-appengine-current-namespace", "x-appengine-default-namespace", "x-appengine-failfast"}
)
_RESERVED_PREFIXES = ("x-appengine-", "x-google-")
# The headers in the second line describe a connection, which a stored task does not have.
_RESERVED = frozenset(
    {"host", "content-length"}
    | {"connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "expect"}
)


class Headers(Mapping[str, str]):
    """Maps header names to values. Lookups ignore case, but the names keep their original spelling.

    Args:
        items: the pairs of name and value; if a name is repeated, its last pair wins, as in a dict.
    """

    __slots__ = ("_items",)

    def __init__(self, items: Iterable[tuple[str, str]] = ()) -> None:
        self._items = {name.lower(): (name, value) for name, value in items}

    def __getitem__(self, name: str) -> str:
        return self._items[name.lower()][1]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.lower() in self._items

    def __iter__(self) -> Iterator[str]:
        return (name for name, _ in self._items.values())

    def __len__(self) -> int:
        return len(self._items)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Mapping):
            return NotImplemented
        return self._plain() == {str(name).lower(): value for name, value in other.items()}

    def __hash__(self) -> int:
        return hash(frozenset(self._plain().items()))

    def __repr__(self) -> str:
        return f"Headers({dict(self.items())!r})"

    def _plain(self) -> dict[str, str]:
        return {name: value for name, (_, value) in self._items.items()}


def checked_items(headers: object) -> tuple[tuple[str, str], ...]:
    """Return a caller's headers as strings, joining the items of an iterable value with commas.

    Raises:
        InvalidTaskError: the headers are not a mapping, or a name or value is not allowed in a request.
    """
    if not isinstance(headers, Mapping):
        raise InvalidTaskError(f"headers must be a mapping of names to values, not {headers!r}")
    return tuple(_checked(name, value) for name, value in headers.items())


def is_reserved(name: str) -> bool:
    """Whether only the engine may set this header. Delivery drops a task's own value for it.

    An underscore counts as a hyphen because both become the same key of a WSGI environ.
    """
    key = name.lower().replace("_", "-")
    return key in _RESERVED or (key.startswith(_RESERVED_PREFIXES) and key not in _ALLOWED)


def _checked(name: object, value: object) -> tuple[str, str]:
    text = _text(name)
    if not _NAME.fullmatch(text):
        raise InvalidTaskError(f"{text!r} is not a valid header name")
    if isinstance(value, Iterable) and not isinstance(value, str | bytes):
        value = ", ".join(_text(part) for part in value)
    content = _text(value)
    if not _VALUE.fullmatch(content):
        raise InvalidTaskError(
            f"header {text}: {content!r} contains a line break, a control character or a character "
            "outside ISO 8859-1; encode it, for example with urllib.parse.quote"
        )
    return text, content


def _text(value: object) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)
