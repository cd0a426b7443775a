"""Which client a request comes from, as far as limits are concerned: its network, never its headers."""

import functools
import ipaddress

from lastacross.webapp.environ import HAS_UNDECLARED_PROXY, Environ

IPV6_PREFIX = 64
"""Of a client's network: a home or an office has at least this much to choose addresses from (RFC 6177)."""


def network_of(environ: Environ) -> str:
    """The network that a limit per client counts by: an IPv4 address, the /64 of an IPv6 address.

    Behind a proxy that is not declared it is the proxy's own, so the limit is one for all of its visitors; a
    client that only pretends to be such a proxy has its own. '' where the server does not know the
    address, as behind a Unix socket.
    """
    return _network(str(environ.get("REMOTE_ADDR") or ""))


def own_network_of(environ: Environ) -> str:
    """The same, but '' where all visitors may have it: it is that of a proxy which is not declared.

    A forwarding header alone does not tell, or anybody could escape a share by one. The proxy in front of a
    site has an address besides that no stranger on the Internet has.
    """
    network = network_of(environ)
    if network and environ.get(HAS_UNDECLARED_PROXY) and not _is_public(network):
        return ""
    return network


def _is_public(network: str) -> bool:
    return ipaddress.ip_network(network).is_global


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
