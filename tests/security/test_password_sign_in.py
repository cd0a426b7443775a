"""A stranger at the sign-in page: guessing, planting, forging, and leading somebody else's browser."""

import functools
import itertools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from sqlalchemy import event
from webob import Response

from lastacross import accounts, datastore, signin, store
from lastacross.accounts import passwords
from lastacross.store import Store
from lastacross.webapp import login, sessions
from tests.security.attacks import Answer, Request
from tests.security.attacks import send as send_raw
from tests.security.site import running_target
from tests.security.table import Row
from tests.support import databases, web
from tests.support.redis_server import unavailable_store
from tests.support.web import SECRET_KEY

MAIN = """
import json
from lastacross import webapp

def app(environ, start_response):
    person = webapp.signed_in(environ)
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(person and [person.name, person.role]).encode()]
"""
PASSWORD = "correct horse battery"
FORM = {"CONTENT_TYPE": "application/x-www-form-urlencoded"}
COOKIE = sessions.cookie_name(SECRET_KEY, False)
VARIABLES = {
    "LASTACROSS_TRUSTED_PROXIES": "10.0.0.1",
    "LASTACROSS_USER_HEADER": "X-Forwarded-Email",
    "LASTACROSS_ADMINS": "anna@shop.example",
    "LASTACROSS_VIEWERS": "*",
}

_hashed = functools.cache(passwords.hashed)
_addresses = (f"198.18.{number // 250}.{number % 250}" for number in itertools.count())
Attacks = Callable[[Row], None]


def console(environ: Any, start_response: Any) -> list[bytes]:
    """The console's stand-in."""
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"console"]


@pytest.fixture
def site(tmp_path: Path, test_store: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[web.Site]:
    """A site with an administrator, a viewer and a trusted proxy."""
    builtins = {login.SIGN_IN_PATH: signin.serve, "/_ah/admin/": console}
    variables = {"DATABASE_URL": f"sqlite:///{tmp_path}/accounts.db", **VARIABLES}
    with web.site(tmp_path, MAIN, builtins=builtins, variables=variables) as site:
        databases.upgrade()
        store.use(test_store)
        monkeypatch.setattr(passwords, "hashed", _hashed)
        accounts.set_password("anna", PASSWORD, "admin")
        accounts.set_password("ben", PASSWORD, "viewer")
        sessions.forget_accounts()
        yield site
        datastore.dispose()


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The algorithm and parameters of each check of a password, as it happens; no check takes time."""
    found: list[str] = []

    def check(password_hash: str, password: str) -> bool:
        found.append(password_hash.rsplit("$", 2)[0])
        return password == PASSWORD and password_hash == _hashed(PASSWORD)

    monkeypatch.setattr(passwords, "_is_match", check)
    return found


def send(site: web.Site, name: str, password: str, /, **environ: Any) -> Response:
    """Fill in the form."""
    body = urlencode({"name": name, "password": password}).encode()
    return site.post("/_ah/signin", body, **{"REMOTE_ADDR": next(_addresses), **FORM, **environ})


def session_of(answer: Response) -> str:
    """The session's cookie in an answer, or ''."""
    lines = [line for line in answer.headers.getall("Set-Cookie") if line.startswith(f"{COOKIE}=")]
    return lines[0].partition(";")[0] if lines else ""


# --- guessing -----------------------------------------------------------------------------


def test_one_address_has_ten_tries_a_minute(site: web.Site, checked: list[str], attacks: Attacks) -> None:
    own = {"REMOTE_ADDR": "203.0.113.9"}
    statuses = [send(site, f"name{number}", "guess", **own).status_int for number in range(30)]
    last = send(site, "anna", PASSWORD, **own)

    attacks(Row("passwords guessed from one address", 31, len(checked) - 10))
    assert statuses == [403] * 10 + [429] * 20
    assert last.status_int == 429
    assert 1 <= int(last.headers["Retry-After"]) <= 60
    assert len(checked) == 10
    assert send(site, "anna", PASSWORD).status_int == 303, "other people are not locked out"


def test_one_account_has_ten_tries_a_minute_from_all_addresses(
    site: web.Site, checked: list[str], attacks: Attacks
) -> None:
    names = itertools.cycle(["anna", "ANNA", " anna ", "Anna"])
    statuses = [send(site, next(names), "guess").status_int for _ in range(30)]

    attacks(Row("passwords of one account guessed from many addresses", 30, len(checked) - 10))
    assert statuses == [403] * 10 + [429] * 20
    assert len(checked) == 10
    assert send(site, "ben", PASSWORD).status_int == 303


def test_headers_of_a_client_are_no_other_address(site: web.Site, checked: list[str]) -> None:
    for number in range(20):
        forged = {"HTTP_X_FORWARDED_FOR": f"192.0.2.{number}", "HTTP_FORWARDED": f"for=192.0.2.{number}"}
        send(site, f"name{number}", "guess", REMOTE_ADDR="203.0.113.9", **forged)
    assert len(checked) == 10


def test_a_network_of_ipv6_is_one_address(site: web.Site, checked: list[str]) -> None:
    for number in range(20):
        send(site, f"name{number}", "guess", REMOTE_ADDR=f"2001:db8::{number:x}")
    assert len(checked) == 10


def test_tries_at_the_same_time_are_counted_one_by_one(site: web.Site, checked: list[str]) -> None:
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda _number: send(site, "anna", "guess"), range(40)))
    assert len(checked) == 10


def test_without_redis_each_process_counts(site: web.Site, checked: list[str], tmp_path: Path) -> None:
    opened = unavailable_store(tmp_path)
    store.use(opened)
    for _number in range(15):
        send(site, "anna", "guess")
    opened.close()
    assert len(checked) == 10


def test_no_answer_tells_whether_an_account_exists(site: web.Site, checked: list[str]) -> None:
    """The same bytes, one check with the same parameters, the same statements."""
    send(site, "first", "guess")  # opens the connection
    checked.clear()
    statements: list[str] = []
    event.listen(datastore.engine(), "before_cursor_execute", lambda *given: statements.append(given[2]))
    found = []
    for name in ("anna", "nobo", "AN\u00c4\u00c4"):
        answer = send(site, name, "guess")
        headers = sorted((key, value) for key, value in answer.headers.items() if key != "X-Request-Id")
        found.append((answer.status_int, headers, answer.text.replace(name, "NAME"), tuple(statements)))
        statements.clear()

    assert found[0] == found[1]
    assert (found[0][0], found[0][3]) == (found[2][0], found[2][3])
    assert found[0][3]
    assert len(set(checked)) == 1
    assert len(checked) == 3


def test_two_checks_run_at_a_time_and_others_are_told_to_come_back(
    site: web.Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    running, most = [0], [0]
    end, both = threading.Event(), threading.Barrier(3)

    def check(_password_hash: str, _password: str) -> bool:
        running[0] += 1
        most[0] = max(most[0], running[0])
        both.wait(10)
        end.wait(10)
        running[0] -= 1
        return True

    monkeypatch.setattr(passwords, "_is_match", check)
    monkeypatch.setattr(passwords, "TURN_SECONDS", 0.05)
    with ThreadPoolExecutor(2) as threads:
        first = [threads.submit(send, site, name, PASSWORD) for name in ("anna", "ben")]
        both.wait(10)
        third = send(site, "carla", PASSWORD)
        end.set()
        statuses = [each.result().status_int for each in first]

    assert (third.status_int, third.headers["Retry-After"]) == (503, "5")
    assert statuses == [303, 303]
    assert most == [2]


def test_a_wrong_password_is_told_to_whoever_is_signed_in_already(site: web.Site, checked: list[str]) -> None:
    """Otherwise the person would go on as Ben and think to be Anna."""
    own = {"HTTP_COOKIE": session_of(send(site, "ben", PASSWORD))}
    assert "You are signed in" in site.get("/_ah/signin", **own).text

    answers = [send(site, "anna", "guess", REMOTE_ADDR="203.0.113.9", **own) for _ in range(11)]

    assert [answer.status_int for answer in answers] == [403] * 10 + [429]
    assert "The name or the password is wrong." in answers[0].text
    assert "There were too many tries." in answers[-1].text
    for answer in answers:
        assert "You are signed in" not in answer.text
        assert 'name="password"' in answer.text
    assert len(checked) == 11


# --- planting and forging -----------------------------------------------------------------


def test_a_session_that_was_planted_is_ended_by_the_sign_in(site: web.Site) -> None:
    planted = session_of(send(site, "ben", PASSWORD))
    own = session_of(send(site, "anna", PASSWORD, HTTP_COOKIE=planted))

    assert own != planted
    assert site.get("/", HTTP_COOKIE=planted).json is None
    assert site.get("/", HTTP_COOKIE=own).json == ["anna", "admin"]
    made_up = f"{COOKIE}=made-up"
    assert site.get("/", HTTP_COOKIE=session_of(send(site, "ben", PASSWORD, HTTP_COOKIE=made_up))).json


def test_no_altered_cookie_makes_anybody_somebody_else(site: web.Site, attacks: Attacks) -> None:
    cookie = session_of(send(site, "ben", PASSWORD))
    value = cookie.partition("=")[2]
    variants = [value[:at] + each + value[at + 1 :] for at in range(len(value)) for each in "A.z-"]
    variants += [value[:at] for at in range(0, len(value), 7)] + [value * 2, value.upper(), f"{value}."]
    found = [site.get("/", HTTP_COOKIE=f"{COOKIE}={each}").json for each in variants]

    # Base64 can encode one signature in several ways, so a few variants may still be Ben's own.
    let_in = [each for each in found if each not in (None, ["ben", "viewer"])]
    attacks(Row("altered session cookies", len(variants), len(let_in)))
    assert let_in == []
    assert found.count(None) > len(variants) * 0.9


def test_a_cookie_of_another_purpose_is_no_session(site: web.Site) -> None:
    linked = site.administrator["HTTP_COOKIE"].partition("=")[2]
    assert site.get("/", HTTP_COOKIE=f"{COOKIE}={linked}").json is None
    session = session_of(send(site, "ben", PASSWORD)).partition("=")[2]
    name = site.administrator["HTTP_COOKIE"].partition("=")[0]
    assert site.get("/", HTTP_COOKIE=f"{name}={session}").json is None


SPOOFED = [
    {"HTTP_X_FORWARDED_EMAIL": "anna@shop.example"},
    {"HTTP_X_FORWARDED_EMAIL": "anna@shop.example", "HTTP_X_FORWARDED_FOR": "10.0.0.1"},
    {"HTTP_X_FORWARDED_EMAIL": "anna@shop.example", "HTTP_X_REAL_IP": "10.0.0.1"},
    {"HTTP_X_FORWARDED_EMAIL": "anna@shop.example", "HTTP_FORWARDED": "for=10.0.0.1;by=10.0.0.1"},
    {"HTTP_X_FORWARDED_USER": "anna@shop.example", "REMOTE_ADDR": "10.0.0.1"},
    {"REMOTE_USER": "anna@shop.example", "REMOTE_ADDR": "10.0.0.1"},
    {"lastacross.proxy_user": "anna@shop.example", "REMOTE_ADDR": "10.0.0.1"},
    {"HTTP_X_FORWARDED_EMAIL": "mallory,anna@shop.example", "REMOTE_ADDR": "10.0.0.1"},
    {"HTTP_X_FORWARDED_EMAIL": "anna@shop.example\t,mallory", "REMOTE_ADDR": "10.0.0.1"},
    {"HTTP_X_FORWARDED_EMAIL": "anna@shop.example\x00", "REMOTE_ADDR": "10.0.0.1"},
    {"HTTP_X_FORWARDED_EMAIL": "anna@shop.example", "REMOTE_ADDR": "10.0.0.10"},
    {"HTTP_X_FORWARDED_EMAIL": "anna@shop.example", "REMOTE_ADDR": ""},
]


def test_no_header_of_a_stranger_names_an_administrator(site: web.Site, attacks: Attacks) -> None:
    found = [site.get("/", **{"REMOTE_ADDR": "203.0.113.9", **environ}).json for environ in SPOOFED]

    let_in = [each for each in found if each is not None]
    attacks(Row("forged headers of a proxy's user", len(SPOOFED), len(let_in)))
    assert let_in == []


# What an administrator gets for an address below the console at which there is nothing.
NOT_FOUND = 404
# Each variant's status: 400 from the server, which cannot read it, or 403.
SPELLINGS = {
    b"X_Forwarded_Email: anna@shop.example": 403,
    b"X-Forwarded_Email: anna@shop.example": 403,
    b"X-Forwarded-Email : anna@shop.example": 400,
    b"X-Forwarded-Email: mallory@shop.example\r\nX-Forwarded-Email: anna@shop.example": 403,
    b"X-Forwarded-Email: anna@shop.example\r\nX-Forwarded-Email: mallory@shop.example": 403,
    b"X-Forwarded-Email: mallory@shop.example\r\nX_Forwarded_Email: anna@shop.example": 403,
    b"X-Forwarded-Email:\r\n anna@shop.example": 400,
    b"X-Forwarded-Email\x00: anna@shop.example": 400,
}


@pytest.mark.slow
def test_no_spelling_of_the_header_passes_a_proxy_that_sets_another_one(attacks: Attacks) -> None:
    """A proxy removes the header that it knows, and passes on whatever else a server might take for it."""
    own = {**VARIABLES, "LASTACROSS_TRUSTED_PROXIES": "127.0.0.1", "LASTACROSS_VIEWERS": ""}
    with running_target(own) as server:
        ask = functools.partial(ask_as_proxy, server.port)
        statuses = {header: ask(header).status for header in SPELLINGS}
        assert ask(b"X-Forwarded-Email: anna@shop.example").status == NOT_FOUND
        page = ask(b"Accept: text/html", b"/_ah/signin")

    let_in = list(statuses.values()).count(NOT_FOUND)
    attacks(Row("spellings of the proxy's header", len(SPELLINGS), let_in))
    assert statuses == SPELLINGS
    assert (page.status, b"No password is set yet" in page.body) == (403, True)


def ask_as_proxy(port: int, header: bytes, path: bytes = b"/_ah/admin/nothing/here") -> Answer:
    """A request from a trusted proxy, with one more header."""
    head = b"GET " + path + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    return send_raw(port, Request(head + header + b"\r\n\r\n"))


# --- leading somebody's browser -----------------------------------------------------------

FOREIGN: list[dict[str, str]] = [
    {"HTTP_SEC_FETCH_SITE": "cross-site"},
    {"HTTP_SEC_FETCH_SITE": "same-site"},
    {"HTTP_ORIGIN": "http://evil.example"},
    {"HTTP_ORIGIN": "null"},
    {"HTTP_SEC_FETCH_SITE": "cross-site", "CONTENT_TYPE": "text/plain"},
]
TARGETS = ("/_ah/signin", "/_ah/sign-out", "/_ah/admin/queues/mail/purge")


def test_no_page_of_another_site_signs_in_or_out_or_changes_anything(
    site: web.Site, attacks: Attacks
) -> None:
    cookie = session_of(send(site, "anna", PASSWORD))
    body = urlencode({"name": "ben", "password": PASSWORD}).encode()
    answers = [
        site.post(path, body, **{**FORM, **foreign, "HTTP_COOKIE": cookie})
        for path in TARGETS
        for foreign in FOREIGN
    ]

    refused = [each for each in answers if each.status_int == 403 and "Set-Cookie" not in each.headers]
    count = len(answers)
    attacks(Row("forms of other sites, at the sign-in and the console", count, count - len(refused)))
    assert refused == answers
    assert site.get("/", HTTP_COOKIE=cookie).json == ["anna", "admin"]


ELSEWHERE = [
    *("//evil.example", "///evil.example", "/\\evil.example", "\\\\evil.example", "/\t/evil.example"),
    *(
        "https://evil.example",
        "https:evil.example",
        "javascript:alert(1)",
        "data:text/html,x",
        " //evil.example",
    ),
    *(
        "/%0d%0aLocation://evil.example",
        "/\r\nLocation: //evil.example",
        "http:/\\evil.example",
        "?//evil.example",
    ),
    *(
        "@evil.example",
        ".evil.example",
        "//evil.example@app.example",
        "/\u2028/evil.example",
        "/\x00//evil.example",
    ),
]


def test_no_way_back_leads_to_another_site(site: web.Site, checked: list[str], attacks: Attacks) -> None:
    let_in = []
    for path in ELSEWHERE:
        body = urlencode({"name": "anna", "password": PASSWORD, "continue": path}).encode()
        store.current().redis.flushall()
        answer = site.post("/_ah/signin", body, REMOTE_ADDR=next(_addresses), **FORM)
        location = answer.headers["Location"]
        if not location.startswith("/") or location.startswith(("//", "/\\")) or not location.isprintable():
            let_in.append(location)
    attacks(Row("ways back to another site after the sign-in", len(ELSEWHERE), len(let_in)))
    assert let_in == []
    assert len(checked) == len(ELSEWHERE)
