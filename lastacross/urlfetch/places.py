"""Parses URLs, with errors that describe the problem. Pure."""

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import quote, urljoin, urlsplit

from lastacross.errors import InvalidFetchUrlError, MalformedReplyError

MAX_URL_CHARACTERS = 2083
PORTS = {"http": 80, "https": 443}
_HOST = re.compile(r"[a-z0-9_]([a-z0-9_.-]{0,252}[a-z0-9_.])?", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x20\x7f]")
_NOT_ASCII = re.compile(r"[^\x00-\x7f]+")
_USER_INFO = re.compile(r"[^/?#]*//[^/?#]*@")
_SCHEME = re.compile(r"(?:[A-Za-z][A-Za-z0-9+.-]*:)?//")
_SHOWN_END = re.compile(r"[\x00-\x20\x7f?#'\"]")
_PLAIN_AUTHORITY = re.compile(r"[^:\[\]]*(:[0-9]+)?|\[[^\]]*\](:[0-9]+)?")


@dataclass(frozen=True, slots=True)
class Place:
    """A request's destination.

    Args:
        scheme: ``http`` or ``https``.
        host: a name, or an address without brackets, in lower case.
        port: the scheme's default if the URL has none.
        target: the path and the query as in the request line.
    """

    scheme: str
    host: str
    port: int
    target: str

    @property
    def authority(self) -> str:
        """The Host header's value, with the port only if it is not the scheme's default."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def origin(self) -> tuple[str, str, int]:
        """The origin of this URL; requests to URLs of the same origin may carry the same secrets."""
        return self.scheme, self.host, self.port

    @property
    def url(self) -> str:
        """The whole URL, without a fragment."""
        return f"{self.scheme}://{self.authority}{self.target}"


def shown(url: str) -> str:
    """A possibly invalid URL for error messages, without user name, query and fragment.

    Those parts may contain secrets, and errors end up in logs and pages. Anything that may be a secret is
    left out.
    """
    found = _SCHEME.match(url)
    scheme = found[0] if found else ""
    authority, slash, path = _SHOWN_END.split(url[len(scheme) :], maxsplit=1)[0].partition("/")
    host = authority.rpartition("@")[2]
    if "@" in url and not _PLAIN_AUTHORITY.fullmatch(host):
        return f"{scheme}…"
    return f"{scheme}{host}{slash}{path}"


def place_of(url: object) -> Place:
    """The destination of this URL.

    Raises:
        InvalidFetchUrlError: the URL is malformed, not http(s), has user info, or exceeds 2,083 characters.
    """
    if not isinstance(url, str):
        raise InvalidFetchUrlError(f"a URL must be str, not {type(url).__name__}")
    if len(url) > MAX_URL_CHARACTERS:
        raise InvalidFetchUrlError(
            f"a URL may have at most {MAX_URL_CHARACTERS} characters, but this one has {len(url)}"
        )
    found = _CONTROL.search(url)
    if found:
        raise InvalidFetchUrlError(
            f"{shown(url)!r} has {found[0]!r} at position {found.start() + 1}; write it as {quote(found[0])}"
        )
    if _USER_INFO.match(url):
        raise InvalidFetchUrlError(
            "a URL must not contain a user name or password; send an Authorization header"
        )
    try:
        parts = urlsplit(url)
        port, host = parts.port, parts.hostname or ""
    except ValueError as error:
        # The text in the place of the port may be a password, and exceptions' causes are logged as well.
        reason = str(error).partition(" as ")[0]
        raise InvalidFetchUrlError(f"{shown(url)!r} is not a URL: {reason}") from None
    if parts.scheme not in PORTS:
        raise InvalidFetchUrlError(f"{shown(url)!r} does not begin with http:// or https://")
    if port == 0:
        raise InvalidFetchUrlError(f"{shown(url)!r} has the port 0, on which no server can listen")
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query or url.endswith("?") else "")
    return Place(parts.scheme, _host(host, url), port or PORTS[parts.scheme], _escaped(target))


def redirected(place: Place, location: str) -> Place:
    """The destination of a redirect's Location, relative to the redirecting place.

    Raises:
        MalformedReplyError: the Location is not a URL that can be fetched.
    """
    # http.client reads each byte as one character.
    text = quote(location.encode("latin-1", "replace"), safe="/?:@!$&'()*+,;=~-._%#[]\"<>\\^`{|}")
    try:
        return place_of(urljoin(place.url, text))
    except (InvalidFetchUrlError, ValueError) as error:
        raise MalformedReplyError(
            f"{place.authority} redirects to a URL that cannot be fetched: {error}"
        ) from error


def _host(host: str, url: str) -> str:
    if not host:
        raise InvalidFetchUrlError(f"{shown(url)!r} does not name a host")
    if ":" in host:
        try:
            # A zone refers to one of this machine's own networks.
            return str(ipaddress.IPv6Address(host.replace("%", "no zone")))
        except ValueError as error:
            raise InvalidFetchUrlError(f"{shown(url)!r} has an invalid IPv6 address as its host") from error
    try:
        name = host if host.isascii() else host.encode("idna").decode("ascii")
    except UnicodeError as error:
        raise InvalidFetchUrlError(f"{shown(url)!r} has an invalid host name: {error}") from error
    if not _HOST.fullmatch(name):
        raise InvalidFetchUrlError(
            f"{shown(url)!r} has the host {name!r}, which is neither a name nor an address"
        )
    return name


def _escaped(target: str) -> str:
    """Percent-escape non-ASCII characters, and leave everything else as it is."""
    return _NOT_ASCII.sub(lambda found: quote(found[0], safe="", errors="replace"), target)
