"""Which client a request comes from, as far as limits are concerned: its network, never its headers."""

import functools
import ipaddress

from lastacross import logs
from lastacross.webapp.environ import HAS_UNDECLARED_PROXY, Environ

IPV6_PREFIX = 64
"""Of a client's network: a home or an office has at least this much to choose addresses from (RFC 6177)."""

_log = logs.get(__name__)


def network_of(environ: Environ) -> str:
    """The network that a request comes from: an IPv4 address, the /64 of an IPv6 address.

    '' where the server does not know the address, as behind a Unix socket.
    """
    return _network(str(environ.get("REMOTE_ADDR") or ""))


@functools.lru_cache(maxsize=1024)
def _network(address: str) -> str:
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return ""
    if isinstance(found, ipaddress.IPv4Address):
        return str(found)
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ipaddress.ip_network((found, IPV6_PREFIX), strict=False))


def client_of(environ: Environ) -> str | None:
    """The network that a limit per client counts by; None if the server does not know the address.

    Behind a proxy that is not declared every request has the proxy's address, so the limit is one for all of
    its visitors. A client that only pretends to be such a proxy is counted by its own address.
    """
    if environ.get(HAS_UNDECLARED_PROXY):
        _warn_of_proxy()
    return network_of(environ) or None


@functools.cache
def _warn_of_proxy() -> None:
    """Once for each process: it is the same with every request."""
    hint = "list the proxy in LASTACROSS_TRUSTED_PROXIES; until then a limit per client is one for all"
    _log.warning("clients.undeclared_proxy", hint=hint)
