"""Defines which addresses are private, and which private hosts a fetch may still reach.

A page that fetches URLs chosen by its visitors must not reach machines behind the server. We use our own
lists instead of Python's ``is_private``, because its meaning has changed between versions.
"""

import ipaddress
from collections.abc import Sequence

from lastacross.config import Settings
from lastacross.urlfetch.places import Place

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# The networks of IANA's special-purpose registries, and other networks that are not part of the Internet.
_IPV4 = [
    ipaddress.IPv4Network(text)
    for text in (
        "0.0.0.0/8",  # this network, which Linux treats as loopback
        "10.0.0.0/8",
        "100.64.0.0/10",  # behind a carrier's NAT
        "127.0.0.0/8",
        "168.63.129.16/32",  # the internal service that Azure provides to each virtual machine
        "169.254.0.0/16",  # link-local, including cloud providers' metadata services
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",  # for documentation, like the next two
        "198.51.100.0/24",
        "203.0.113.0/24",
        "192.88.99.0/24",  # 6to4 relays, retired
        "192.168.0.0/16",
        "198.18.0.0/15",  # benchmarks
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, and broadcast
    )
]
# The IPv6 space of Internet hosts; the rest is reserved or local, and may be routed anywhere.
_IPV6 = ipaddress.IPv6Network("2000::/3")
_NOT_IPV6 = [
    ipaddress.IPv6Network(text)
    for text in (
        "2001::/23",  # Teredo, benchmarks, overlays
        "2001:db8::/32",  # for documentation, like the next
        "3fff::/20",
    )
]
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


def is_private(address: str) -> bool:
    """Whether this numeric address belongs to something other than an Internet host.

    Args:
        address: the address in ``getaddrinfo``'s format, possibly with a zone (``fe80::1%eth0``).
    """
    return _is_private(ipaddress.ip_address(address.partition("%")[0]))


def _is_private(address: Address) -> bool:
    if isinstance(address, ipaddress.IPv4Address):
        return any(address in network for network in _IPV4)
    inner = _embedded(address)
    if inner is not None:
        return _is_private(inner)
    return address not in _IPV6 or any(address in network for network in _NOT_IPV6)


def _embedded(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address to which packets sent to this address are translated or tunnelled."""
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.sixtofour


def is_open(place: Place, settings: Settings, *, is_redirect: bool) -> bool:
    """Whether a place may be fetched even if its address is private.

    Under ``dev`` this includes the site's own address if it is requested by name. It does not if another site
    redirected there, because such a redirect could reach the developer's pages.

    Args:
        place: the request's destination.
        settings: the settings with the listed hosts and, under ``dev``, this site's address.
        is_redirect: whether another server redirected us there.
    """
    if _is_listed(place, settings.fetch_private_hosts):
        return True
    return not is_redirect and _is_own_site(place, settings)


def _is_own_site(place: Place, settings: Settings) -> bool:
    """Whether this place is the ``dev`` site on this machine."""
    own = ("localhost", "127.0.0.1", "::1", settings.host)
    return settings.is_dev and place.host in own and place.port == settings.port


def _is_listed(place: Place, hosts: Sequence[str]) -> bool:
    host = f"[{place.host}]" if ":" in place.host else place.host
    return host in hosts or f"{host}:{place.port}" in hosts
