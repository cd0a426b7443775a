"""``lastacross web`` behind nginx and Caddy, as deploy/ has them; and what it answers by itself."""

import contextlib
import http.client
import json
import re
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import pytest

from lastacross.store import Store
from lastacross.webapp import administrator, security_headers
from tests.conftest import SECRET_KEY
from tests.support.processes import wait_until
from tests.support.redis_server import RedisServer
from tests.support.reverse_proxies import KINDS, NAME, ReverseProxy, running_proxy
from tests.support.web_server import WebServer, running_web

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

MAIN = """
import webapp2
from lastacross import channel, webapp

class Seen(webapp.RequestHandler):
    def get(self):
        environ = self.request.environ
        self.response.set_cookie("mine", "1")
        self.render_json({
            "address": environ["REMOTE_ADDR"], "url": self.request.url,
            "undeclared": environ.get("lastacross.has_undeclared_proxy", False),
            "is_administrator": self.is_administrator(),
        })
    def post(self):
        self.render_json({"bytes": len(self.request.body)})

class Away(webapp2.RequestHandler):
    def get(self):
        self.redirect("/seen?from=away")

class Token(webapp.RequestHandler):
    def get(self):
        self.render_json(channel.create_channel("somebody"))
    def post(self):
        channel.send_message("somebody", self.request.get("text"))

app = webapp2.WSGIApplication([("/seen|/safe", Seen), ("/away", Away), ("/token", Token)])
"""
APP_YAML = """
handlers:
- {url: /safe, script: main.app, secure: always}
- {url: /.*, script: main.app}
"""
FORM = {"Content_Type": "application/x-www-form-urlencoded"}
SPOOFED = {
    "X_Forwarded_For": "9.9.9.9",
    "X_Forwarded_Host": "evil.example",
    "X_Forwarded_Port": "99",
    "X_Forwarded_Proto": "http",
    "Forwarded": "for=9.9.9.9;host=evil.example",
    "X_Real_IP": "9.9.9.9",
}


# To HTTPS, by each of the proxies.
REDIRECTS = {"nginx": 301, "caddy": 308}


@pytest.fixture(scope="module")
def web(redis_server: RedisServer) -> Iterator[WebServer]:
    """``lastacross web``, which believes proxies of this machine, and which has one name."""
    files = {"main.py": MAIN, "app.yaml": APP_YAML}
    variables = {"LASTACROSS_ALLOWED_HOSTS": NAME, "LASTACROSS_TRUSTED_PROXIES": "127.0.0.1"}
    with running_web(redis_server.url, files, variables) as server:
        yield server


@pytest.fixture(scope="module", params=KINDS)
def proxy(request: pytest.FixtureRequest, web: WebServer) -> Iterator[ReverseProxy]:
    """Each of the proxies before it."""
    with running_proxy(request.param, web.port) as running:
        yield running


def seen(proxy: ReverseProxy, **headers: str) -> dict[str, Any]:
    """A request as the application sees it."""
    status, _, body = proxy.request("/seen", "GET", None, **headers)
    assert status == 200, body
    found: dict[str, Any] = json.loads(body)
    return found


# --- behind a proxy -----------------------------------------------------------------------


def test_scheme_host_and_client_are_those_that_the_proxy_saw(proxy: ReverseProxy) -> None:
    found = seen(proxy)
    assert found["url"] == f"https://{NAME}:{proxy.https_port}/seen"
    assert (found["address"], found["undeclared"]) == ("127.0.0.1", False)


def test_what_the_client_writes_into_forwarding_headers_is_not_passed_on(proxy: ReverseProxy) -> None:
    assert seen(proxy, **SPOOFED) == seen(proxy)


def test_a_secure_page_does_not_redirect_cookies_are_secure_and_hsts_is_sent(proxy: ReverseProxy) -> None:
    status, headers, _ = proxy.request("/safe")
    assert status == 200
    assert "Secure" in headers["Set-Cookie"]
    assert headers["Strict-Transport-Security"] == "max-age=31536000"
    assert not re.search(r"gunicorn|[0-9]", headers.get("Server", ""))


def test_no_query_reaches_the_log(proxy: ReverseProxy) -> None:
    """It may hold the token of an event stream, or the id of a long task."""
    connection = http.client.HTTPConnection("127.0.0.1", proxy.http_port, timeout=20)
    with contextlib.closing(connection):
        connection.request("GET", "/plain?token=a-secret", headers={"Host": NAME})
        assert connection.getresponse().status in REDIRECTS.values()
    status, _, _ = proxy.request("/seen?token=a-secret", Referer=f"https://{NAME}/seen?token=a-secret")
    assert status == 200

    if proxy.kind == "nginx":
        wait_until(lambda: '"/seen" 200' in proxy.logged(), 10, "nginx writes its log")
        assert '"/plain" 301' in proxy.logged()
    assert "a-secret" not in proxy.logged()


def test_redirects_stay_at_our_own_host(proxy: ReverseProxy) -> None:
    status, headers, _ = proxy.request("/away")
    assert (status, headers["Location"]) == (302, "/seen?from=away")

    connection = http.client.HTTPConnection("127.0.0.1", proxy.http_port, timeout=20)
    with contextlib.closing(connection):
        connection.request("GET", "/seen?a=b", headers={"Host": NAME})
        answer = connection.getresponse()
        assert answer.status == REDIRECTS[proxy.kind]
        assert re.fullmatch(rf"https://{NAME}(:\d+)?/seen\?a=b", answer.headers["Location"])


def test_another_host_is_not_answered(proxy: ReverseProxy) -> None:
    with contextlib.closing(proxy.connection()) as connection:
        connection.request("GET", "/seen", headers={"Host": "evil.example"})
        answer = connection.getresponse()
        # nginx passes it on to the site, Caddy answers by itself, with nothing.
        assert answer.status == 400 or answer.read() == b""


def test_a_form_of_ours_is_taken_and_one_of_another_site_is_not(proxy: ReverseProxy) -> None:
    """By Origin, which is compared with the host."""
    assert proxy.request("/seen", "POST", b"a=b", Origin=f"https://{proxy.host}", **FORM)[0] == 200
    assert proxy.request("/seen", "POST", b"a=b", Origin="https://evil.example", **FORM)[0] == 403


def test_an_upload_as_large_as_allowed_arrives_and_the_site_refuses_a_larger_one(proxy: ReverseProxy) -> None:
    body = bytes(10_485_760)
    assert json.loads(proxy.request("/seen", "POST", body)[2]) == {"bytes": len(body)}
    status, _, answer = proxy.request("/seen", "POST", body + b"x", Accept="application/json")
    assert status == 413
    assert "10,485,760 bytes" in json.loads(answer)["error"]["message"]


def test_an_event_stream_is_not_buffered(proxy: ReverseProxy) -> None:
    token = json.loads(proxy.request("/token")[2])
    with contextlib.closing(proxy.connection()) as connection:
        connection.request(
            "GET", f"/_ah/channel/stream?{urlencode({'token': token})}", headers={"Host": proxy.host}
        )
        stream = connection.getresponse()
        assert stream.headers["Content-Type"].startswith("text/event-stream")
        assert stream.readline(), "it begins at once"
        for number in range(3):
            proxy.request("/token", "POST", f"text=message-{number}".encode(), **FORM)
            # The connection's time-out ends the wait for what a buffer keeps.
            assert any(f"message-{number}".encode() in line for line in stream)


def test_the_administrator_signs_in_through_the_proxy(proxy: ReverseProxy, redis_server: RedisServer) -> None:
    opened = Store(redis_server.url)
    code = administrator.new_code(SECRET_KEY, opened)
    opened.close()
    body = urlencode({"code": code}).encode()
    origin = {"Origin": f"https://{proxy.host}", "Sec_Fetch_Site": "same-origin"}

    status, headers, _ = proxy.request(administrator.PATH, "POST", body, **origin, **FORM)

    assert (status, headers["Location"]) == (303, "/")
    [set_cookie] = [each for each in headers.get_all("Set-Cookie", []) if "Max-Age=0" not in each]
    assert "Secure" in set_cookie
    cookie = set_cookie.partition(";")[0]
    assert seen(proxy)["is_administrator"] is False
    assert seen(proxy, Cookie=cookie)["is_administrator"] is True


# --- by itself ----------------------------------------------------------------------------


def send(web: WebServer, data: bytes) -> bytes:
    """All that comes back for these bytes."""
    received = b""
    with socket.create_connection(("127.0.0.1", web.port), timeout=20) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionResetError):
            while chunk := connection.recv(65_536):
                received += chunk
    return received


MALFORMED = {
    "a broken request line": (b"GET\r\n\r\n", 400),
    "two spaces": (b"GET  / HTTP/1.1\r\nHost: shop.example\r\n\r\n", 400),
    "a lower-case method with markup": (b"<b>x</b> / HTTP/1.1\r\nHost: shop.example\r\n\r\n", 400),
    "a long address": (b"GET /" + b"a" * 5000 + b" HTTP/1.1\r\nHost: shop.example\r\n\r\n", 414),
    "a long header": (b"GET / HTTP/1.1\r\nX-A: " + b"b" * 9000 + b"\r\n\r\n", 431),
    "two lengths": (b"GET / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
    "another encoding": (b"GET / HTTP/1.1\r\nTransfer-Encoding: xchunked\r\n\r\n", 501),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_request_that_cannot_be_read_is_answered_with_the_security_headers(
    web: WebServer, name: str
) -> None:
    data, status = MALFORMED[name]
    answer = send(web, data).decode("latin-1")
    head, _, page = answer.partition("\r\n\r\n")
    lines = head.split("\r\n")
    assert lines[0].startswith(f"HTTP/1.1 {status} ")
    assert {f"{name}: {value}" for name, value in security_headers.DEFAULTS} <= set(lines)
    assert "Cache-Control: no-store" in lines
    assert f"Content-Length: {len(page)}" in lines
    assert "<b>" not in page
    assert "gunicorn" not in answer


@pytest.mark.parametrize("path", ["/seen", "/nothing", "/_ah/health", "/_ah/static/engine.css", "/away"])
def test_no_answer_names_the_server(web: WebServer, path: str) -> None:
    answer = send(web, f"GET {path} HTTP/1.1\r\nHost: {NAME}\r\nConnection: close\r\n\r\n".encode())
    head = answer.partition(b"\r\n\r\n")[0].lower()
    assert head.count(b"\r\nx-content-type-options: nosniff") == 1
    assert b"\r\nserver:" not in head


def test_who_connects_without_the_proxy_is_not_believed_when_not_from_its_address(web: WebServer) -> None:
    """From 127.0.0.2, which is this machine as well, and is not listed."""
    spoofed = (
        b"GET /safe HTTP/1.1\r\nHost: shop.example\r\nX-Forwarded-Proto: https\r\nConnection: close\r\n\r\n"
    )
    with socket.create_connection(
        ("127.0.0.1", web.port), timeout=20, source_address=("127.0.0.2", 0)
    ) as connection:
        connection.sendall(spoofed)
        answer = connection.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 403 ")
    assert web.processes.text().count("proxy.undeclared") == 1
    assert "web.unsafe_setting" not in web.processes.text()
