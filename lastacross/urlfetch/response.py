"""The response that a fetch returns."""

from collections.abc import Iterable, Iterator, MutableMapping
from dataclasses import dataclass
from http.client import HTTPMessage


class Headers(MutableMapping[str, str]):
    """Headers by case-insensitive name; the values of a repeated header are joined by ``, ``.

    Args:
        items: the names and values in the order of arrival.
    """

    def __init__(self, items: Iterable[tuple[str, str]] = ()) -> None:
        self._items: dict[str, tuple[str, str]] = {}
        for name, value in items:
            before = self._items.get(name.lower())
            self[name] = value if before is None else f"{before[1]}, {value}"

    def __getitem__(self, name: str) -> str:
        return self._items[name.lower()][1]

    def __setitem__(self, name: str, value: str) -> None:
        self._items[name.lower()] = (name, value)

    def __delitem__(self, name: str) -> None:
        del self._items[name.lower()]

    def __iter__(self) -> Iterator[str]:
        return (name for name, _ in self._items.values())

    def __len__(self) -> int:
        return len(self._items)

    def __repr__(self) -> str:
        return f"Headers({dict(self)!r})"


@dataclass(frozen=True)
class Response:
    """A response, whatever its status.

    Attributes:
        content: the body, decompressed unless the request had its own Accept-Encoding.
        status_code: such as 200 or 404.
        headers: the headers by case-insensitive name.
        final_url: the URL after redirects; None if there were none.
        header_msg: the same headers as an ``http.client.HTTPMessage``, which keeps repeated headers separate.
        content_was_truncated: whether the body was longer than the limit and allowed to be truncated.
    """

    content: bytes
    status_code: int
    headers: Headers
    final_url: str | None
    header_msg: HTTPMessage
    content_was_truncated: bool = False


def response_of(
    status: int,
    headers: Iterable[tuple[str, str]],
    content: bytes,
    *,
    final_url: str | None,
    is_truncated: bool,
) -> Response:
    """Build a response from its parts."""
    message = HTTPMessage()
    kept = list(headers)
    for name, value in kept:
        message.add_header(name, value)
    return Response(content, status, Headers(kept), final_url, message, is_truncated)
