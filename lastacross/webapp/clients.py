"""Identifies a client by its network, never by its headers, when limits are applied."""

import functools
import ipaddress

from lastacross.webapp.environ import HAS_UNDECLARED_PROXY, Environ

IPV6_PREFIX = 64
"""The prefix length of a client's network: a home or office has at least a /64 (RFC 6177)."""


def network_of(environ: Environ) -> str:
    """The network that a client's limits apply to: an IPv4 address, or the /64 of an IPv6 address.

    Behind an undeclared proxy this is the proxy's network, so all of its visitors share one limit. A client
    that merely pretends to be a proxy is identified by its own network. The result is '' if the server does
    not know the address, for example behind a Unix socket.
    """
    return _network(str(environ.get("REMOTE_ADDR") or ""))


def own_network_of(environ: Environ) -> str:
    """The same network, but '' if all visitors may share it because it belongs to an undeclared proxy.

    A forwarding header alone is not enough evidence, because anyone could send one to evade the limit. The
    proxy must also have an address that no stranger on the Internet can have.
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
