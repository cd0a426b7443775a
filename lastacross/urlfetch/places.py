"""URLs, taken apart. Pure: text in, or an error that says what is wrong with it."""

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
    """Where a request goes.

    Args:
        scheme: ``http`` or ``https``.
        host: a name, or an address without brackets; lower case.
        port: the scheme's, if none is written.
        target: path and query, as they stand in the request's first line.
    """

    scheme: str
    host: str
    port: int
    target: str

    @property
    def authority(self) -> str:
        """What the Host header says: the port only where it is not the scheme's."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def origin(self) -> tuple[str, str, int]:
        """What two URLs have in common whose requests may be told the same secrets."""
        return self.scheme, self.host, self.port

    @property
    def url(self) -> str:
        """The whole URL, without a fragment."""
        return f"{self.scheme}://{self.authority}{self.target}"


def shown(url: str) -> str:
    """As much of a URL as an error tells, whatever is wrong with it: no user name, no query, no fragment.

    Secrets are there, and errors are written to logs and pages. What cannot be told from one is left out.
    """
    found = _SCHEME.match(url)
    scheme = found[0] if found else ""
    authority, slash, path = _SHOWN_END.split(url[len(scheme) :], maxsplit=1)[0].partition("/")
    host = authority.rpartition("@")[2]
    if "@" in url and not _PLAIN_AUTHORITY.fullmatch(host):
        return f"{scheme}…"
    return f"{scheme}{host}{slash}{path}"


def place_of(url: object) -> Place:
    """Where this URL leads.

    Raises:
        InvalidFetchUrlError: it is malformed, not http(s), has user info, or is longer than 2,083 characters.
    """
    if not isinstance(url, str):
        raise InvalidFetchUrlError(f"a URL is text, not {type(url).__name__}")
    if len(url) > MAX_URL_CHARACTERS:
        raise InvalidFetchUrlError(f"a URL has at most {MAX_URL_CHARACTERS} characters, this one {len(url)}")
    found = _CONTROL.search(url)
    if found:
        raise InvalidFetchUrlError(
            f"{shown(url)!r} has {found[0]!r} at position {found.start() + 1}: write it as {quote(found[0])}"
        )
    if _USER_INFO.match(url):
        raise InvalidFetchUrlError(
            "a URL has no user name or password before its host: send an Authorization header"
        )
    try:
        parts = urlsplit(url)
        port, host = parts.port, parts.hostname or ""
    except ValueError as error:
        # What stands where a port should be may be a password; and a cause is written to logs as well.
        reason = str(error).partition(" as ")[0]
        raise InvalidFetchUrlError(f"{shown(url)!r} is not a URL: {reason}") from None
    if parts.scheme not in PORTS:
        raise InvalidFetchUrlError(f"{shown(url)!r} does not begin with http:// or https://")
    if port == 0:
        raise InvalidFetchUrlError(f"{shown(url)!r} has the port 0, on which nobody listens")
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query or url.endswith("?") else "")
    return Place(parts.scheme, _host(host, url), port or PORTS[parts.scheme], _escaped(target))


def redirected(place: Place, location: str) -> Place:
    """Where a redirect's Location leads, seen from where it came.

    Raises:
        MalformedReplyError: that is no URL that can be fetched.
    """
    # http.client reads each byte as one character.
    text = quote(location.encode("latin-1", "replace"), safe="/?:@!$&'()*+,;=~-._%#[]\"<>\\^`{|}")
    try:
        return place_of(urljoin(place.url, text))
    except (InvalidFetchUrlError, ValueError) as error:
        raise MalformedReplyError(
            f"{place.authority} redirects to what cannot be fetched: {error}"
        ) from error


def _host(host: str, url: str) -> str:
    if not host:
        raise InvalidFetchUrlError(f"{shown(url)!r} names no host")
    if ":" in host:
        try:
            # A zone is of this machine's own networks.
            return str(ipaddress.IPv6Address(host.replace("%", "no zone")))
        except ValueError as error:
            raise InvalidFetchUrlError(f"{shown(url)!r} has a host that is no IPv6 address") from error
    try:
        name = host if host.isascii() else host.encode("idna").decode("ascii")
    except UnicodeError as error:
        raise InvalidFetchUrlError(f"{shown(url)!r} has a host that is no name: {error}") from error
    if not _HOST.fullmatch(name):
        raise InvalidFetchUrlError(
            f"{shown(url)!r} has the host {name!r}, which is neither a name nor an address"
        )
    return name


def _escaped(target: str) -> str:
    """Percent-escapes where a character is no ASCII; all else stays as it is written."""
    return _NOT_ASCII.sub(lambda found: quote(found[0], safe="", errors="replace"), target)
