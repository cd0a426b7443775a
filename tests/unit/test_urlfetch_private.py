"""Which addresses are of a private network, and which hosts may be fetched from all the same."""

from pathlib import Path

import pytest

from lastacross.config import Settings
from lastacross.urlfetch.places import Place, place_of
from lastacross.urlfetch.private_networks import is_open, is_private

PRIVATE = [
    *("127.0.0.1", "127.255.255.254", "0.0.0.0", "0.1.2.3", "10.0.0.1", "172.16.0.1", "172.31.255.255"),
    *("192.168.1.1", "169.254.169.254", "100.64.0.1", "100.127.255.255", "224.0.0.1", "239.255.255.255"),
    *("255.255.255.255", "240.0.0.1", "192.0.0.1", "192.0.2.1", "198.18.0.1", "198.51.100.7", "203.0.113.9"),
    *("168.63.129.16", "192.88.99.1"),
    *(
        "::",
        "::1",
        "::127.0.0.1",
        "fe80::1",
        "fe80::1%eth0",
        "fc00::1",
        "fd00:ec2::254",
        "fec0::1",
        "ff02::1",
    ),
    *("::ffff:127.0.0.1", "::ffff:10.1.2.3", "64:ff9b::127.0.0.1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1"),
    *("2002:7f00:1::", "2002:c0a8:101::1", "2001:db8::1", "2001::1", "100::1", "5f00::1", "3fff::1"),
    # Reserved space; the first is a translator's spelling of 127.0.0.1 (RFC 2765).
    *("::ffff:0:7f00:1", "::1:0:0:1", "100:0:0:1::1", "200::1", "1fff:ffff::1", "4000::1", "8000::1"),
    *("e000::1", "f000::1", "fbff::1", "fe00::1", "64:ff9a::1", "64:ff9b:0:0:0:1::1", "2002:a00:1::1"),
]
PUBLIC = [
    *("1.1.1.1", "8.8.8.8", "9.255.255.255", "11.0.0.1", "100.63.255.255", "100.128.0.1", "126.255.255.255"),
    *("128.0.0.1", "169.253.255.255", "172.15.255.255", "172.32.0.1", "192.167.255.255", "223.255.255.255"),
    *("2606:4700::1111", "2a00:1450::1", "64:ff9b::8.8.8.8", "::ffff:8.8.8.8", "2002:808:808::1"),
    *("2001:200::1", "2001:4860:4860::8888", "2000::1", "3ffe:ffff::1", "3fff:1000::1"),
]


@pytest.mark.parametrize("address", PRIVATE)
def test_an_address_that_is_not_of_the_internet_is_private(address: str) -> None:
    assert is_private(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_an_address_of_the_internet_is_not(address: str) -> None:
    assert not is_private(address)


def settings(*hosts: str, is_dev: bool = False, host: str = "127.0.0.1") -> Settings:
    """Settings with these hosts listed."""
    return Settings(
        port=8080,
        host=host,
        redis_url="",
        database_url="",
        secret_key="",
        data_dir=Path(),
        is_dev=is_dev,
        fetch_private_hosts=hosts,
    )


def opens(url: str, found: Settings, *, is_redirect: bool = False) -> bool:
    """Whether this URL may be fetched though its address is private."""
    place: Place = place_of(url)
    return is_open(place, found, is_redirect=is_redirect)


def test_a_host_is_listed_with_all_its_ports_or_one() -> None:
    found = settings("feed.local:8081", "10.0.0.5", "[::1]:9")

    assert opens("http://feed.local:8081/x", found)
    assert opens("http://FEED.local:8081/x", found, is_redirect=True)
    assert not opens("http://feed.local/x", found)
    assert opens("https://10.0.0.5/", found)
    assert opens("http://10.0.0.5:99/", found)
    assert not opens("http://10.0.0.6/", found)
    assert opens("http://[::1]:9/", found)
    assert not opens("http://[::1]/", found)
    assert not opens("http://x.feed.local:8081/", found)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]"])
def test_under_dev_the_site_may_fetch_from_itself(host: str) -> None:
    url = f"http://{host}:8080/feed"

    assert opens(url, settings(is_dev=True))
    assert not opens(url, settings())
    assert not opens(f"http://{host}:8081/feed", settings(is_dev=True))


def test_under_dev_nobody_else_sends_it_there() -> None:
    """A page elsewhere must not redirect to pages that are the developer's alone."""
    assert not opens("http://localhost:8080/_ah/admin", settings(is_dev=True), is_redirect=True)
