"""Addresses, schemes and hosts behind proxies: the declared ones are believed, and nobody else."""

import ipaddress
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lastacross.webapp import forwarding
from lastacross.webapp.forwarding import Forwarding, UnclearForwardingError
from tests.support import web

MAIN = """
import json

def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "application/json"), ("Set-Cookie", "a=b")])
    seen = {
        "address": environ["REMOTE_ADDR"],
        "scheme": environ["wsgi.url_scheme"],
        "host": environ["HTTP_HOST"],
        "left": sorted(key for key in environ if "FORWARDED" in key or "REAL_IP" in key),
        "undeclared": environ.get("lastacross.has_undeclared_proxy", False),
    }
    return [json.dumps(seen).encode()]
"""
HOSTS = {"LASTACROSS_ALLOWED_HOSTS": "app.example,[2001:db8::80]"}
TRUSTED = "192.0.2.1, 10.0.0.0/8, 2001:db8:1::/48"
PROXY = {"REMOTE_ADDR": "192.0.2.1"}


VARIABLES = {**HOSTS, "LASTACROSS_TRUSTED_PROXIES": TRUSTED}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[web.Site]:
    """A site behind some networks of proxies."""
    with web.site(tmp_path_factory.mktemp("site"), MAIN, variables=VARIABLES) as site:
        yield site


def seen(site: web.Site, **environ: str) -> tuple[str, str, str]:
    """The client's address, scheme and host as the application sees them."""
    found = site.get("/", **{**PROXY, **environ}).json
    assert found["left"] == []
    assert found["undeclared"] is False
    return found["address"], found["scheme"], found["host"]


# --- the address --------------------------------------------------------------------------

# Forwarded's value with the same meaning stands behind it.
CLIENTS = {
    "203.0.113.7": ("203.0.113.7", "for=203.0.113.7"),
    "203.0.113.7:4711": ("203.0.113.7", 'for="203.0.113.7:4711"'),
    " 203.0.113.7 ": ("203.0.113.7", "for = 203.0.113.7"),
    "2001:db8::9": ("2001:db8::9", 'for="[2001:db8::9]"'),
    "[2001:db8::9]": ("2001:db8::9", 'For="[2001:DB8::9]"'),
    "[2001:db8::9]:443": ("2001:db8::9", 'for="[2001:db8::9]:_x"'),
    "::ffff:203.0.113.7": ("203.0.113.7", 'for="[::ffff:203.0.113.7]"'),
    # The part left of the client is its own word.
    "198.51.100.1, 203.0.113.7": ("203.0.113.7", "for=198.51.100.1, for=203.0.113.7"),
    "127.0.0.1,10.0.0.1,203.0.113.7": ("203.0.113.7", "for=127.0.0.1,for=10.0.0.1;by=x,for=203.0.113.7"),
    "nonsense, 203.0.113.7": ("203.0.113.7", "for=nonsense, for=203.0.113.7"),
    # Our own proxies in a row.
    "198.51.100.1, 203.0.113.7, 10.1.2.3": ("203.0.113.7", "for=198.51.100.1,for=203.0.113.7,for=10.1.2.3"),
    "203.0.113.7, 2001:db8:1::5, 10.1.2.3": (
        "203.0.113.7",
        'for=203.0.113.7, for="[2001:db8:1::5]", for=10.1.2.3',
    ),
    "203.0.113.7, ::ffff:10.1.2.3": ("203.0.113.7", 'for=203.0.113.7, for="[::ffff:10.1.2.3]"'),
    # A request of a proxy's own, its health check.
    "10.1.2.3": ("10.1.2.3", "for=10.1.2.3"),
    "10.1.2.3, 10.9.9.9": ("10.1.2.3", "for=10.1.2.3, for=10.9.9.9"),
    # The proxy does not tell.
    "unknown": ("192.0.2.1", "for=unknown"),
    "_hidden": ("192.0.2.1", "for=_hidden"),
    "203.0.113.7, unknown, 10.1.2.3": ("10.1.2.3", "for=203.0.113.7, for=unknown, for=10.1.2.3"),
    "": ("192.0.2.1", ""),
    ", ,": ("192.0.2.1", ", ;,"),
}


@pytest.mark.parametrize("header", CLIENTS)
def test_the_client_is_the_right_most_hop_that_is_no_trusted_proxy(site: web.Site, header: str) -> None:
    address, forwarded = CLIENTS[header]
    if forwarded == "for = 203.0.113.7":
        assert site.get("/", HTTP_FORWARDED=forwarded, **PROXY).status_int == 400
    else:
        assert seen(site, HTTP_FORWARDED=forwarded)[0] == address
    assert seen(site, HTTP_X_FORWARDED_FOR=header)[0] == address


@pytest.mark.parametrize(
    "peer", ["10.255.0.1", "2001:db8:1:2::3", "::ffff:10.0.0.1", "2001:db8:1::3%eth0", "192.0.2.1"]
)
def test_each_address_of_a_network_is_believed(site: web.Site, peer: str) -> None:
    assert seen(site, REMOTE_ADDR=peer, HTTP_X_FORWARDED_FOR="203.0.113.7")[0] == "203.0.113.7"


# --- scheme and host ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "scheme", "host"),
    [
        ({}, "http", "app.example"),
        ({"X_FORWARDED_PROTO": "https"}, "https", "app.example"),
        ({"X_FORWARDED_PROTO": "HTTPS"}, "https", "app.example"),
        ({"X_FORWARDED_PROTO": "http, https"}, "https", "app.example"),
        ({"X_FORWARDED_FOR": "1.1.1.1,10.0.0.2", "X_FORWARDED_PROTO": "https,http"}, "https", "app.example"),
        (
            {"X_FORWARDED_FOR": "9.9.9.9, 203.0.113.7, 10.0.0.2", "X_FORWARDED_PROTO": "http, https, http"},
            "https",
            "app.example",
        ),
        ({"X_FORWARDED_FOR": "203.0.113.7, 10.0.0.2", "X_FORWARDED_PROTO": "https"}, "https", "app.example"),
        ({"X_FORWARDED_HOST": "App.Example"}, "http", "app.example"),
        ({"X_FORWARDED_HOST": "evil.example, app.example"}, "http", "app.example"),
        ({"X_FORWARDED_HOST": "app.example:8443", "X_FORWARDED_PORT": "443"}, "http", "app.example:8443"),
        ({"X_FORWARDED_PORT": "80"}, "http", "app.example"),
        ({"X_FORWARDED_PORT": "8080"}, "http", "app.example:8080"),
        ({"X_FORWARDED_PORT": "443", "X_FORWARDED_PROTO": "https"}, "https", "app.example"),
        ({"X_FORWARDED_PORT": "8443", "X_FORWARDED_PROTO": "https"}, "https", "app.example:8443"),
        ({"X_FORWARDED_HOST": "[2001:db8::80]", "X_FORWARDED_PORT": "81"}, "http", "[2001:db8::80]:81"),
        ({"FORWARDED": "proto=https"}, "https", "app.example"),
        ({"FORWARDED": 'for=203.0.113.7;proto=https;host="app.example:8443"'}, "https", "app.example:8443"),
        ({"FORWARDED": "for=9.9.9.9;host=evil.example, for=1.1.1.1; proto=https"}, "https", "app.example"),
        ({"FORWARDED": "for=203.0.113.7;proto=https, for=10.0.0.2;proto=http"}, "https", "app.example"),
        ({"FORWARDED": 'PROTO="ht\\tps"'}, "https", "app.example"),
    ],
)  # fmt: skip
def test_scheme_and_host_are_those_of_the_clients_hop(
    site: web.Site, headers: dict[str, str], scheme: str, host: str
) -> None:
    found = seen(site, **{f"HTTP_{name}": value for name, value in headers.items()})
    assert found[1:] == (scheme, host)


def test_a_host_that_a_proxy_tells_is_checked_as_any_other(site: web.Site) -> None:
    answer = site.get("/", HTTP_X_FORWARDED_HOST="evil.example", **PROXY)
    assert answer.status_int == 400
    assert "does not serve the host evil.example" in answer.text


def test_behind_a_proxy_that_ends_tls_cookies_are_secure_and_hsts_is_sent(site: web.Site) -> None:
    answer = site.get("/", HTTP_X_FORWARDED_PROTO="https", **PROXY)
    assert "Secure" in answer.headers["Set-Cookie"]
    assert "Strict-Transport-Security" in answer.headers
    plain = site.get("/", HTTP_X_FORWARDED_PROTO="http", **PROXY)
    assert "Secure" not in plain.headers["Set-Cookie"]
    assert "Strict-Transport-Security" not in plain.headers


def test_behind_a_proxy_that_ends_tls_a_secure_page_redirects_once(tmp_path: Path) -> None:
    app_yaml = "handlers:\n- {url: /.*, script: main.app, secure: always}\n"
    with web.site(tmp_path, MAIN, app_yaml, variables=VARIABLES) as site:
        for scheme, status in (("http", 301), ("https", 200)):
            assert site.get("/", HTTP_X_FORWARDED_PROTO=scheme, **PROXY).status_int == status


# --- what is unclear ----------------------------------------------------------------------

UNCLEAR: dict[str, dict[str, str]] = {
    "no address": {"X_FORWARDED_FOR": "nonsense"},
    "an address of five": {"X_FORWARDED_FOR": "203.0.113.7.9"},
    "an octet too large": {"X_FORWARDED_FOR": "203.0.113.700"},
    "an open bracket": {"X_FORWARDED_FOR": "[2001:db8::9"},
    "an interface": {"X_FORWARDED_FOR": "fe80::1%eth0"},
    "a unix socket": {"X_FORWARDED_FOR": "unix:"},
    "no address left of a proxy": {"X_FORWARDED_FOR": "nonsense, 10.0.0.1"},
    "a line break": {"X_FORWARDED_FOR": "203.0.113.7\n"[:-1] + "\x0b"},
    "digits of another script": {"X_FORWARDED_FOR": "٢٠٣.0.113.7"},
    "another scheme": {"X_FORWARDED_PROTO": "gopher"},
    "fewer schemes than hops": {
        "X_FORWARDED_FOR": "203.0.113.7, 10.0.0.1, 10.0.0.2",
        "X_FORWARDED_PROTO": "https, http",
    },
    "a host that is none": {"X_FORWARDED_HOST": "app.example/@evil.example"},
    "a host with a user": {"X_FORWARDED_HOST": "app.example@evil.example"},
    "a port that is none": {"X_FORWARDED_PORT": "443x"},
    "a port too large": {"X_FORWARDED_PORT": "65536"},
    "port 0": {"X_FORWARDED_PORT": "0"},
    "an open quote": {"FORWARDED": 'for="203.0.113.7'},
    "an open quote of the client's before the proxy's own": {"FORWARDED": 'for=", for=203.0.113.7'},
    "a name twice": {"FORWARDED": "for=203.0.113.7;for=9.9.9.9"},
    "no equals sign": {"FORWARDED": "203.0.113.7"},
    "an address in quotes that is none": {"FORWARDED": 'for="nonsense"'},
    "an unquoted colon": {"FORWARDED": "for=203.0.113.7:80"},
    "both, another client": {"FORWARDED": "for=9.9.9.9", "X_FORWARDED_FOR": "203.0.113.7"},
    "both, another scheme": {
        "FORWARDED": "for=203.0.113.7;proto=https",
        "X_FORWARDED_FOR": "203.0.113.7",
        "X_FORWARDED_PROTO": "http",
    },
    "both, one has no client": {"FORWARDED": "proto=https", "X_FORWARDED_FOR": "203.0.113.7"},
    "both, one has no host": {"FORWARDED": "for=1.1.1.1;host=app.example", "X_FORWARDED_FOR": "1.1.1.1"},
}  # fmt: skip


@pytest.mark.parametrize("name", UNCLEAR)
def test_what_can_be_read_in_two_ways_is_refused(site: web.Site, name: str) -> None:
    headers = {f"HTTP_{key}": value for key, value in UNCLEAR[name].items()}
    answer = site.get("/", **headers, **PROXY)
    assert answer.status_int == 400
    assert "orward" in answer.text
    assert "Content-Security-Policy" in answer.headers


@pytest.mark.parametrize("name", ["X-Forwarded-For", "Forwarded", "X-Forwarded-Host"])
def test_what_is_too_long_is_not_read(site: web.Site, name: str) -> None:
    key = f"HTTP_{name.upper().replace('-', '_')}"
    hop = "for=10.0.0.1" if name == "Forwarded" else "10.0.0.1"
    answer = site.get("/a.json", **{key: ",".join([hop] * 1000)}, **PROXY)

    assert answer.status_int == 431
    assert answer.json["error"]["message"] == (
        f"The header {name} is longer than the 8,192 bytes that this server accepts."
    )


def test_both_families_may_say_the_same(site: web.Site) -> None:
    found = seen(
        site,
        HTTP_FORWARDED='for="203.0.113.7:99";proto=https;host=app.example',
        HTTP_X_FORWARDED_FOR="1.1.1.1, 203.0.113.7",
        HTTP_X_FORWARDED_PROTO="https",
        HTTP_X_FORWARDED_HOST="app.example",
        HTTP_X_FORWARDED_SERVER="web-1",
    )
    assert found == ("203.0.113.7", "https", "app.example")


# --- who is not declared ------------------------------------------------------------------

STRANGERS = ["203.0.113.5", "192.0.2.2", "127.0.0.1", "2001:db8:2::1", "::ffff:192.0.2.2", "", "unix:/x", "@"]
SPOOFED = {
    "FORWARDED": "for=9.9.9.9;proto=https;host=evil.example",
    "X_FORWARDED_FOR": "9.9.9.9",
    "X_FORWARDED_PROTO": "https",
    "X_FORWARDED_HOST": "evil.example",
    "X_FORWARDED_PORT": "99",
    "X_FORWARDED_SSL": "on",
    "X_FORWARDED_SCHEME": "https",
    "X_FORWARDED": "for=9.9.9.9",
    "X_REAL_IP": "9.9.9.9",
    "X_CLIENT_IP": "9.9.9.9",
    "CLIENT_IP": "9.9.9.9",
    "TRUE_CLIENT_IP": "9.9.9.9",
    "CF_CONNECTING_IP": "9.9.9.9",
}


@pytest.mark.parametrize("peer", STRANGERS)
@pytest.mark.parametrize("header", SPOOFED)
def test_who_is_not_declared_is_believed_nothing(site: web.Site, peer: str, header: str) -> None:
    found = site.get("/", **{"REMOTE_ADDR": peer, f"HTTP_{header}": SPOOFED[header]}).json
    assert found == {
        "address": peer,
        "scheme": "http",
        "host": "app.example",
        "left": [],
        "undeclared": True,
    }


@pytest.mark.parametrize("name", UNCLEAR)
def test_what_a_stranger_writes_there_need_not_make_sense(site: web.Site, name: str) -> None:
    headers = {f"HTTP_{key}": value for key, value in UNCLEAR[name].items()}
    assert site.get("/", **headers).status_int == 200


def test_a_request_without_such_headers_has_no_undeclared_proxy(site: web.Site) -> None:
    assert site.get("/", HTTP_VIA="1.1 home").json["undeclared"] is False
    assert site.get("/", **{"lastacross.has_undeclared_proxy": True}).json["undeclared"] is False


def test_by_default_nobody_is_declared(tmp_path: Path) -> None:
    with web.site(tmp_path, MAIN) as site:
        found = site.get("/", REMOTE_ADDR="127.0.0.1", HTTP_X_FORWARDED_FOR="9.9.9.9").json
    assert (found["address"], found["undeclared"]) == ("127.0.0.1", True)


def test_the_log_says_once_that_a_proxy_is_not_declared(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with web.site(tmp_path, MAIN, variables=VARIABLES) as site:
        for _ in range(3):
            site.get("/", HTTP_X_FORWARDED_FOR="9.9.9.9\x1b[31m", HTTP_X_REAL_IP="9.9.9.9")
    warnings = [record for record in caplog.records if "proxy.undeclared" in str(record.msg)]
    assert len(warnings) == 1
    assert "LASTACROSS_TRUSTED_PROXIES" in str(warnings[0].msg)
    assert "9.9.9.9" not in str(warnings[0].msg)


# --- hostile ------------------------------------------------------------------------------

HOSTILE = [
    " " * 8000 + "x",
    "for=" + "\t" * 8000,
    "for=a;" * 1300,
    "for=10.0.0.1," * 600,
    'for="' + "\\a" * 4000,
    'for="' + "a" * 8000,
    "a" * 8000,
    "a=" * 4000,
    ";" * 8000,
    "," * 8000,
    "10.0.0.1," * 900,
    "1:" * 4000,
    "[" * 8000,
    "_" * 8000 + " ",
]


READ_OR_REFUSED = {200, 400}


@pytest.mark.parametrize("name", ["FORWARDED", "X_FORWARDED_FOR", "X_FORWARDED_PROTO", "X_FORWARDED_HOST"])
@pytest.mark.parametrize("number", range(len(HOSTILE)))
def test_a_header_filled_to_its_limit_is_read_quickly(site: web.Site, name: str, number: int) -> None:
    times = []
    for _ in range(3):
        before = time.process_time()
        assert site.get("/", **PROXY, **{f"HTTP_{name}": HOSTILE[number]}).status_int in READ_OR_REFUSED
        times.append(time.process_time() - before)
    assert min(times) < 0.06


def _is_trusted(address: forwarding.Address) -> bool:
    return address in ipaddress.ip_network("10.0.0.0/8")


@settings(max_examples=50, deadline=None)
@given(
    st.text(st.characters(max_codepoint=255)), st.ip_addresses().filter(lambda each: not _is_trusted(each))
)
def test_what_the_client_wrote_does_not_change_what_the_proxy_appends(text: str, client: Any) -> None:
    client = forwarding.plain(client)
    spoofed = {"HTTP_X_FORWARDED_FOR": f"{text},{client}"}
    assert forwarding.read(spoofed, _is_trusted) == Forwarding(str(client))

    node = f"[{client}]" if client.version == 6 else str(client)
    try:
        found = forwarding.read({"HTTP_FORWARDED": f'{text},for="{node}"'}, _is_trusted)
    except UnclearForwardingError:
        return
    assert found.client == str(client)


@given(st.dictionaries(st.sampled_from(sorted(SPOOFED)), st.text(st.characters(max_codepoint=255))))
def test_whatever_is_written_is_read_or_refused(headers: dict[str, str]) -> None:
    try:
        found = forwarding.read({f"HTTP_{name}": text for name, text in headers.items()}, _is_trusted)
    except UnclearForwardingError:
        return
    assert found.scheme in (None, "http", "https")
    assert json.dumps([found.client, found.host])
