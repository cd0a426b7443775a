"""The network that a client belongs to, for limits."""

from typing import Any

import pytest

from lastacross.webapp import clients
from lastacross.webapp.environ import HAS_UNDECLARED_PROXY


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("203.0.113.9", "203.0.113.9"),
        ("::ffff:203.0.113.9", "203.0.113.9"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:0DB8:1:2::", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
        ("unix:/run/proxy.sock", ""),
        ("203.0.113.9, 198.51.100.1", ""),
    ],
)
def test_a_client_is_an_ipv4_address_or_the_64_of_an_ipv6_address(address: str, network: str) -> None:
    assert clients.network_of({"REMOTE_ADDR": address}) == network


def test_no_header_changes_who_the_client_is() -> None:
    headers = ("HTTP_X_FORWARDED_FOR", "HTTP_FORWARDED", "HTTP_X_REAL_IP", "HTTP_CLIENT_IP", "HTTP_VIA")
    environ: dict[str, Any] = {"REMOTE_ADDR": "203.0.113.9", **dict.fromkeys(headers, "198.51.100.1")}

    assert clients.network_of(environ) == "203.0.113.9"


@pytest.mark.parametrize(
    ("address", "has_proxy", "own"),
    [
        ("10.0.0.5", True, ""),
        ("127.0.0.1", True, ""),
        ("fd00::1", True, ""),
        ("", True, ""),
        ("10.0.0.5", False, "10.0.0.5"),
        ("8.8.8.8", True, "8.8.8.8"),
        ("2a00:1450:4001::1", True, "2a00:1450:4001::/64"),
    ],
)
def test_a_network_is_not_a_clients_own_where_all_visitors_come_through_a_proxy_in_it(
    address: str, has_proxy: bool, own: str
) -> None:
    environ = {"REMOTE_ADDR": address, HAS_UNDECLARED_PROXY: has_proxy}

    assert clients.own_network_of(environ) == own


def test_a_client_behind_an_undeclared_proxy_has_the_network_of_the_proxy() -> None:
    environ = {"REMOTE_ADDR": "203.0.113.9", HAS_UNDECLARED_PROXY: True}

    assert clients.network_of(environ) == "203.0.113.9"
