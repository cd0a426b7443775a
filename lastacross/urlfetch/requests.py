"""A fetch's request, and the checks that App Engine makes before anything is sent. Pure."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from lastacross import __version__
from lastacross.errors import InvalidMethodError, PayloadTooLargeError
from lastacross.urlfetch.places import Place

GET, POST, HEAD, PUT, DELETE, PATCH = 1, 2, 3, 4, 5, 6
METHODS = {"GET": GET, "POST": POST, "HEAD": HEAD, "PUT": PUT, "DELETE": DELETE, "PATCH": PATCH}
MAX_PAYLOAD_BYTES = 10 * 2**20
MAX_RESPONSE_BYTES = 32 * 2**20
USER_AGENT = f"lastacross/{__version__}"

_WITH_PAYLOAD = ("POST", "PUT", "PATCH")
_FORM = "application/x-www-form-urlencoded"
# The application cannot set these headers, because they belong to the connection or tell a server whom to
# trust.
_OWN = frozenset(
    {
        "connection",
        "content-length",
        "forwarded",
        "host",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "vary",
        "via",
        "x-appengine-inbound-appid",
        "x-forwarded-for",
        "x-proxyuser-ip",
    }
)
_OF_BODY = frozenset({"content-type", "content-encoding", "content-language", "content-location"})
# These headers are sent only to the server that they were written for.
_SECRET = frozenset({"authorization", "cookie", "proxy-authorization"})
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", re.ASCII)
_BAD_VALUE = re.compile(r"[\x00\r\n]")

Payload = str | bytes | bytearray | None


@dataclass(frozen=True, slots=True)
class Request:
    """One request, which redirects may lead elsewhere.

    ``body`` is None for methods without one. ``decodes`` tells whether to decompress the response, which is
    the case if the application did not ask for encodings itself. ``most_bytes`` limits how much of the
    response is read.
    """

    method: str
    headers: tuple[tuple[str, str], ...]
    body: bytes | None
    decodes: bool
    follows: bool = True
    may_be_truncated: bool = False
    validates: bool = True
    most_bytes: int = MAX_RESPONSE_BYTES

    @property
    def is_safe_to_repeat(self) -> bool:
        """Whether the request can safely be retried after the connection was lost."""
        return self.method not in ("POST", "PATCH")

    def after_redirect(self, status: int, before: Place, after: Place) -> "Request":
        """The request that follows this redirect.

        After 301, 302 and 303 the result is fetched by a GET, or by a HEAD after a HEAD. After 307 and 308
        the same request is sent to the new URL.
        """
        found = self
        if status in (301, 302, 303) and self.method not in ("GET", "HEAD"):
            found = replace(found._without(_OF_BODY), method="GET", body=None)
        return found if before.origin == after.origin else found._without(_SECRET)

    def _without(self, names: frozenset[str]) -> "Request":
        return replace(self, headers=tuple(item for item in self.headers if item[0].lower() not in names))


def method_name(method: object) -> str:
    """The name of a method that is given as a constant or as a name in any case.

    Raises:
        InvalidMethodError: the method does not exist.
    """
    for name, number in METHODS.items():
        is_number = isinstance(method, int) and not isinstance(method, bool) and method == number
        if is_number or (isinstance(method, str) and method.upper() == name):
            return name
    raise InvalidMethodError(f"there is no method {method!r}; the methods are {', '.join(METHODS)}")


def body_of(method: str, payload: Payload) -> bytes | None:
    """The body to send; text is encoded as UTF-8. As on App Engine, methods without a body drop the payload.

    Raises:
        TypeError: the payload is neither text nor bytes.
    """
    if payload is not None and not isinstance(payload, str | bytes | bytearray):
        raise TypeError(
            f"a payload must be str or bytes, not {type(payload).__name__}: encode a form with "
            "urllib.parse.urlencode, or an object with json.dumps"
        )
    if method not in _WITH_PAYLOAD:
        return None
    return payload.encode() if isinstance(payload, str) else bytes(payload or b"")


def check_size(body: bytes | None) -> None:
    """Return only if the payload may be sent.

    Raises:
        PayloadTooLargeError: the payload is too large.
    """
    if body is not None and len(body) > MAX_PAYLOAD_BYTES:
        raise PayloadTooLargeError(
            f"the payload has {len(body)} bytes; at most {MAX_PAYLOAD_BYTES} are allowed"
        )


def response_limit(limit: object) -> int:
    """How many bytes of a response to read; values above the maximum are reduced to it.

    Raises:
        TypeError, ValueError: the limit is not a valid number of bytes.
    """
    if isinstance(limit, bool) or not isinstance(limit, int):
        raise TypeError(f"a response limit must be a number of bytes, not {limit!r}")
    if limit < 1:
        raise ValueError(f"a response limit must be at least 1 byte, not {limit}")
    return min(limit, MAX_RESPONSE_BYTES)


def headers_of(headers: object, body: bytes | None) -> tuple[tuple[str, str], ...]:
    """The headers to send: the application's except for reserved ones, plus the usual ones.

    Raises:
        TypeError: the headers are not a mapping of names to values.
        ValueError: a name or a value contains a character that is not allowed in headers.
    """
    if not isinstance(headers, Mapping):
        raise TypeError(f"headers must be a mapping of names to values, not {type(headers).__name__}")
    found = [_header(name, value) for name, value in headers.items()]
    kept = [item for item in found if item[0].lower() not in _OWN]
    given = {name.lower() for name, _ in kept}
    usual = {"User-Agent": USER_AGENT, "Accept-Encoding": "gzip"}
    if body:
        usual["Content-Type"] = _FORM
    return (*kept, *((name, value) for name, value in usual.items() if name.lower() not in given))


def _header(name: object, value: object) -> tuple[str, str]:
    if not isinstance(name, str) or not isinstance(value, str | int | float):
        raise TypeError(
            f"a header's name must be str and its value str or a number, not {name!r}: {type(value).__name__}"
        )
    text = str(value)
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is not a valid header name")
    if _BAD_VALUE.search(text):
        raise ValueError(f"the value of the header {name} contains a line break")
    if any(ord(character) > 255 for character in text):
        raise ValueError(f"the value of the header {name} contains a character outside ISO 8859-1; encode it")
    return name, text
