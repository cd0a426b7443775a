"""Reads the client, scheme and host from ``Forwarded`` (RFC 7239) and ``X-Forwarded-*``. Pure.

gunicorn's ``forwarded_allow_ips`` checks the peer's address but reads only the scheme. Werkzeug's ProxyFix
and waitress count hops and ignore the addresses. That is why we read the headers ourselves.
"""

import ipaddress
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lastacross.webapp import boundary

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
IsTrusted = Callable[[Address], bool]

DEFAULT_PORTS = {"http": "80", "https": "443"}

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
# A forwarded-pair as defined in RFC 7239, section 4, and the separator after it. Whitespace around it is
# matched possessively (*+), because two adjacent runs of them would otherwise be split in every possible way.
_PAIR = re.compile(
    rf'[ \t]*+(?:(?P<name>{_TOKEN})=(?:(?P<token>{_TOKEN})|"(?P<quoted>(?:[^"\\\x00-\x1f\x7f]|\\.)*)"))?'
    r"[ \t]*+(?P<end>[;,]|\Z)",
    re.ASCII,
)
_PORT = r"(?::(?:[0-9]{1,5}|_[A-Za-z0-9._-]+))?"
# A node as defined in RFC 7239, section 6; X-Forwarded-For may also have IPv6 addresses without brackets.
_NODE = re.compile(
    rf"(?P<v4>[0-9.]{{7,15}}){_PORT}|\[(?P<v6>[0-9A-Fa-f:.]{{2,45}})\]{_PORT}|(?P<bare>[0-9A-Fa-f:.]{{2,45}})"
    rf"|(?P<hidden>unknown|_[A-Za-z0-9._-]+){_PORT}",
    re.ASCII,
)


class UnclearForwardingError(Exception):
    """Raised when the headers are ambiguous; the message is a sentence for the sender."""


@dataclass(frozen=True, slots=True)
class Forwarding:
    """The client as described by one family of headers; details that they omit are None."""

    client: str | None = None
    scheme: str | None = None
    host: str | None = None


def read(environ: Mapping[str, Any], is_trusted: IsTrusted) -> Forwarding:
    """The client as described by a trusted proxy.

    The client is the right-most hop that is not a trusted proxy, because each proxy appends its peer.
    Anything further left was written by the client itself.

    Args:
        environ: the WSGI environ.
        is_trusted: a callable that returns whether an address belongs to a trusted proxy.

    Raises:
        UnclearForwardingError: a header is malformed, or the two families of headers contradict each other. A
            proxy writes only one family and passes on whatever the client wrote into the other.
    """
    said = set()
    if environ.get("HTTP_FORWARDED"):
        said.add(_forwarded(environ, is_trusted))
    if any(environ.get(f"HTTP_X_FORWARDED_{name}") for name in ("FOR", "PROTO", "HOST", "PORT")):
        said.add(_x_forwarded(environ, is_trusted))
    if len(said) > 1:
        raise UnclearForwardingError("The Forwarded and X-Forwarded-* headers contradict each other.")
    return said.pop() if said else Forwarding()


def _forwarded(environ: Mapping[str, Any], is_trusted: IsTrusted) -> Forwarding:
    elements = _elements(environ["HTTP_FORWARDED"])
    client, hops = _client([element.get("for", "unknown") for element in elements], is_trusted)
    element = elements[-hops] if hops else {}
    host = element.get("host")
    return Forwarding(client, _scheme(element.get("proto")), None if host is None else _host(host, None, ""))


def _elements(text: str) -> list[dict[str, str]]:
    """The parameters of each hop, in order."""
    elements: list[dict[str, str]] = []
    current: dict[str, str] = {}
    position = 0
    while position < len(text):
        found = _PAIR.match(text, position)
        if found is None:
            raise UnclearForwardingError("The Forwarded header is malformed (RFC 7239).")
        if found["name"] is not None:
            name = found["name"].lower()
            if name in current:
                raise UnclearForwardingError(f"The Forwarded header has {name} twice for one hop.")
            current[name] = found["token"] or re.sub(r"\\(.)", r"\1", found["quoted"] or "")
        if found["end"] != ";" and current:
            elements.append(current)
            current = {}
        position = found.end()
    return [*elements, current] if current else elements


def _x_forwarded(environ: Mapping[str, Any], is_trusted: IsTrusted) -> Forwarding:
    client, hops = _client(_listed(environ, "FOR"), is_trusted)
    scheme = _scheme(_said(environ, "PROTO", hops))
    host, port = _said(environ, "HOST", hops), _said(environ, "PORT", hops)
    if host is None and port is not None:
        host = str(environ.get("HTTP_HOST", ""))
    if host is not None:
        host = _host(host, port, scheme or str(environ.get("wsgi.url_scheme")))
    return Forwarding(client, scheme, host)


def _listed(environ: Mapping[str, Any], name: str) -> list[str]:
    parts = str(environ.get(f"HTTP_X_FORWARDED_{name}", "")).split(",")
    return [part.strip(" \t") for part in parts if part.strip(" \t")]


def _said(environ: Mapping[str, Any], name: str, hops: int) -> str | None:
    """The value for the client's hop; proxies either append one value each or share a single value."""
    values = _listed(environ, name)
    if len(values) < 2:
        return values[0] if values else None
    if len(values) < hops:
        raise UnclearForwardingError(
            f"X-Forwarded-{name.title()} has {len(values)} values for the {hops} hops of X-Forwarded-For."
        )
    return values[-max(hops, 1)]


def _client(nodes: Sequence[str], is_trusted: IsTrusted) -> tuple[str | None, int]:
    """The client's address, if given, and its hop number counted from the right (0 if there are no hops)."""
    client, hops = None, 0
    for node in reversed(nodes):
        hops += 1
        found = _address(node)
        if found is None:
            break
        client = str(found)
        if not is_trusted(found):
            break
    return client, hops


def _address(node: str) -> Address | None:
    """The address of a node; None if the proxy hides it (RFC 7239, 6.2 and 6.3)."""
    found = _NODE.fullmatch(node)
    if found is not None and found["hidden"]:
        return None
    text = (found["v4"] or found["v6"] or found["bare"]) if found else ""
    try:
        return plain(ipaddress.ip_address(text))
    except ValueError as error:
        raise UnclearForwardingError(
            "A forwarding header names a client that is not an IP address."
        ) from error


def plain(address: Address) -> Address:
    """The IPv4 address inside one like ``::ffff:192.0.2.1``; any other address is returned unchanged."""
    return getattr(address, "ipv4_mapped", None) or address


def _scheme(text: str | None) -> str | None:
    scheme = None if text is None else text.lower()
    if scheme not in (None, *DEFAULT_PORTS):
        raise UnclearForwardingError("A forwarding header names a scheme other than http and https.")
    return scheme


def _host(host: str, port: str | None, scheme: str) -> str:
    """The host with the port, unless the port is the scheme's default or the host already has one."""
    found = boundary.split_host(host)
    if found is None:
        raise UnclearForwardingError("A forwarding header names an invalid host.")
    if port is None:
        return host.lower()
    if not (port.isascii() and port.isdigit() and 0 < int(port[:6]) <= 65_535):
        raise UnclearForwardingError("X-Forwarded-Port is not a port.")
    has_to_be_told = found[1] is None and port != DEFAULT_PORTS.get(scheme)
    return (f"{host}:{port}" if has_to_be_told else host).lower()
