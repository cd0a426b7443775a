"""People who signed in with a password: by which cookie, for how long, and what ends it."""

import functools
import itertools
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from webob import Response

from lastacross import accounts, audit, datastore, signin, store
from lastacross.accounts import Person, passwords
from lastacross.config import Settings
from lastacross.signing import Signatures
from lastacross.store import Store
from lastacross.webapp import administrator, login, proxies, sessions
from lastacross.webapp.environ import PROXY_USER
from tests.support import databases, web
from tests.support.clock import StoppedClock
from tests.support.redis_server import unavailable_store
from tests.support.web import HOST, SECRET_KEY

MAIN = """
import json
from lastacross import webapp

def app(environ, start_response):
    person = webapp.signed_in(environ)
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(person and [person.name, person.role, person.source]).encode()]
"""
APP_YAML = """
handlers:
- {url: /required.*, script: main.app, login: required}
- {url: /required-401, script: main.app, login: required, auth_fail_action: unauthorized}
- {url: /admin, script: main.app, login: admin}
- {url: /_ah/admin/own, script: main.app}
- {url: /.*, script: main.app}
"""
FORM = {"CONTENT_TYPE": "application/x-www-form-urlencoded"}
PASSWORD = "correct horse battery"
OTHER_PASSWORD = "staple correct horse"
NAME = sessions.cookie_name(SECRET_KEY, False)

# One hash of each password is enough for all tests.
_hashed = functools.cache(passwords.hashed)
_addresses = (f"198.18.{number // 250}.{number % 250}" for number in itertools.count())


def console(environ: Any, start_response: Any) -> list[bytes]:
    """The console's stand-in."""
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"console"]


@pytest.fixture
def site(tmp_path: Path, test_store: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[web.Site]:
    """A site with a Redis, a datastore and two accounts."""
    builtins = {login.SIGN_IN_PATH: signin.serve, "/_ah/admin/": console}
    variables = {"DATABASE_URL": f"sqlite:///{tmp_path}/sessions.db"}
    with web.site(tmp_path, MAIN, APP_YAML, builtins=builtins, variables=variables) as site:
        databases.upgrade()
        store.use(test_store)
        monkeypatch.setattr(passwords, "hashed", _hashed)
        accounts.set_password("anna", PASSWORD, "admin")
        accounts.set_password("ben", PASSWORD, "viewer")
        sessions.forget_accounts()
        yield site
        datastore.dispose()
        sessions.forget_accounts()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> StoppedClock:
    """The stopped clock, also of what a process knows of accounts."""
    clock = StoppedClock()
    monkeypatch.setattr(sessions._known_accounts, "_clock", clock)
    monkeypatch.setattr(administrator._signed_out, "_clock", clock)
    return clock


def send(site: web.Site, name: str, password: str, /, path: str = "/", **environ: Any) -> Response:
    """Fill in the form, from another address each time."""
    body = urlencode({"name": name, "password": password, "continue": path}).encode()
    return site.post("/_ah/signin", body, **{"REMOTE_ADDR": next(_addresses), **FORM, **environ})


def cookies_of(answer: Response) -> dict[str, str]:
    """The cookies that an answer sets, by name."""
    pairs = (given.partition(";")[0].partition("=") for given in answer.headers.getall("Set-Cookie"))
    return {name: value for name, _, value in pairs}


def session_of(site: web.Site, name: str = "anna", password: str = PASSWORD, **environ: Any) -> str:
    """The Cookie header of somebody who has just signed in."""
    answer = send(site, name, password, **environ)
    assert answer.status_int == 303
    return f"{NAME}={cookies_of(answer)[NAME]}"


def who(site: web.Site, cookie: str, **environ: Any) -> Any:
    """The person of a request with these cookies."""
    return site.get("/", HTTP_COOKIE=cookie, **environ).json


# --- signing in ---------------------------------------------------------------------------


def test_a_name_and_a_password_sign_in_for_twelve_hours(site: web.Site) -> None:
    answer = send(site, " Anna ", PASSWORD, "/required?a=b")

    assert (answer.status_int, answer.headers["Location"]) == (303, "/required?a=b")
    [given] = [line for line in answer.headers.getall("Set-Cookie") if line.startswith(NAME)]
    assert given.partition("; ")[2] == "Max-Age=43200; Path=/; HttpOnly; SameSite=Lax"
    cookie = given.partition(";")[0]
    assert who(site, cookie) == ["anna", "admin", "password"]
    assert who(site, f"other=1; {cookie}") == ["anna", "admin", "password"]


@pytest.mark.parametrize(
    ("name", "password"),
    [("anna", f"{PASSWORD} "), ("anna", ""), ("carla", PASSWORD), ("", ""), ("\u0430nna", PASSWORD)],
)
def test_a_wrong_name_and_a_wrong_password_get_the_same_answer(
    site: web.Site, name: str, password: str
) -> None:
    answer = send(site, name, password)

    assert answer.status_int == 403
    assert signin.WRONG in answer.text
    assert "Set-Cookie" not in answer.headers
    assert not password or password not in answer.text


def test_the_form_repeats_what_was_typed_without_its_markup(site: web.Site) -> None:
    answer = send(site, '"><script>', "x", '/"><script>')

    assert "<script>" not in answer.text


def test_over_https_the_cookie_is_for_this_host_alone(site: web.Site) -> None:
    secure = {"wsgi.url_scheme": "https"}
    answer = send(site, "anna", PASSWORD, **secure)

    [given] = [line for line in answer.headers.getall("Set-Cookie") if line.startswith("__Host-")]
    assert {"Secure", "Path=/"} <= set(given.split("; "))
    assert "Domain" not in given
    cookie = given.partition(";")[0]
    assert who(site, cookie, **secure) == ["anna", "admin", "password"]
    plain = session_of(site)
    assert who(site, plain, **secure) is None, "any host below the domain could have set it"


def test_a_sign_in_is_recorded_with_its_address(site: web.Site, test_store: Store) -> None:
    session_of(site, "ben", REMOTE_ADDR="198.51.100.7")

    [entry] = audit.read(test_store).entries
    assert (entry.name, entry.role, entry.source) == ("ben", "viewer", "password")
    assert (entry.action, entry.address) == ("sign_in", "198.51.100.7")


@pytest.mark.parametrize("fields", ["&" * 20, "name=" + "a" * 20_000, "%ff=%fe", "continue=%00"])
def test_a_strange_form_is_answered(site: web.Site, fields: str) -> None:
    assert site.post("/_ah/signin", fields.encode(), REMOTE_ADDR=next(_addresses), **FORM).status_int == 403


def test_other_methods_are_refused(site: web.Site) -> None:
    answer = site.request("/_ah/signin", method="PUT")
    assert (answer.status_int, answer.headers["Allow"]) == (405, "GET, HEAD, POST")


def test_without_the_datastore_nobody_signs_in_and_the_page_says_why(site: web.Site, tmp_path: Path) -> None:
    datastore.dispose()
    (tmp_path / "sessions.db").write_bytes(b"not a database" * 1_000)

    answer = send(site, "anna", PASSWORD)

    assert (answer.status_int, answer.headers["Retry-After"]) == (503, "5")
    assert signin.UNAVAILABLE in answer.text


def test_without_redis_people_can_still_sign_in(site: web.Site, tmp_path: Path) -> None:
    opened = unavailable_store(tmp_path)
    store.use(opened)
    try:
        assert who(site, session_of(site)) == ["anna", "admin", "password"]
    finally:
        opened.close()


# --- the page -----------------------------------------------------------------------------


def test_the_page_says_who_is_signed_in_and_leads_on(site: web.Site) -> None:
    page = site.get("/_ah/signin?continue=/admin%3Fa", HTTP_COOKIE=session_of(site, "ben"))

    assert page.status_int == 200
    assert "<dd>ben</dd>" in page.text
    assert 'href="/admin?a"' in page.text
    assert 'action="/_ah/sign-out"' in page.text


def test_without_an_account_the_page_and_the_console_say_how_to_set_a_password(site: web.Site) -> None:
    for name in ("anna", "ben"):
        accounts.remove(name)
    sessions.forget_accounts()

    for path in ("/_ah/signin", "/_ah/admin/", "/_ah/admin/queues"):
        answer = site.get(path)
        assert answer.status_int == 403
        assert "lastacross admin set-password NAME" in re.sub(r"</?span>", "", answer.text)
    assert site.get("/required").status_int == 403


PATHS_BACK = {
    "/admin?a=b#c": "/admin?a=b#c",
    "//evil.example": "/_ah/admin/",
    "/\\evil.example": "/_ah/admin/",
    "/\t/evil.example": "/_ah/admin/",
    "https://evil.example/": "/_ah/admin/",
    "javascript:alert(1)": "/_ah/admin/",
    "/a\r\nSet-Cookie: a=b": "/_ah/admin/",
    "/\u4f60": "/%E4%BD%A0",
    "/" + "a" * 3_000: "/_ah/admin/",
    "/_ah/sign-out": "/_ah/admin/",
    "": "/_ah/admin/",
}


@pytest.mark.parametrize("path", PATHS_BACK, ids=range(len(PATHS_BACK)))
def test_the_way_back_leads_to_this_site_alone(site: web.Site, path: str) -> None:
    assert send(site, "anna", PASSWORD, path).headers["Location"] == PATHS_BACK[path]
    page = site.get(f"/_ah/signin?{urlencode({'continue': path})}")
    assert "evil.example" not in page.text


# --- the session --------------------------------------------------------------------------


def test_each_sign_in_gets_a_session_of_its_own_and_ends_the_browsers_old_one(site: web.Site) -> None:
    first = session_of(site)
    second = session_of(site, "ben", HTTP_COOKIE=first)

    assert first != second
    assert who(site, first) is None
    assert who(site, second) == ["ben", "viewer", "password"]


def test_a_sign_in_replaces_the_link_and_a_link_replaces_the_sign_in(
    site: web.Site, test_store: Store
) -> None:
    linked = site.administrator["HTTP_COOKIE"]
    answer = send(site, "ben", PASSWORD, HTTP_COOKIE=linked)
    assert cookies_of(answer)[administrator.cookie_name(SECRET_KEY)] == ""
    assert who(site, linked) is None

    code = administrator.new_code(SECRET_KEY, test_store)
    assert cookies_of(site.post("/_ah/sign-in", f"code={code}".encode(), **FORM))[NAME] == ""


def test_signing_out_ends_copies_of_the_cookie(site: web.Site) -> None:
    cookie = session_of(site)
    assert who(site, cookie) is not None

    answer = site.post("/_ah/sign-out", HTTP_COOKIE=cookie)

    assert (answer.status_int, answer.headers["Location"]) == (303, "/_ah/signin")
    assert cookies_of(answer)[NAME] == ""
    assert who(site, cookie) is None


def test_a_session_ends_after_twelve_hours(site: web.Site, monkeypatch: pytest.MonkeyPatch) -> None:
    cookie = session_of(site)
    now = time.time()
    monkeypatch.setattr("time.time", lambda: now + sessions.SESSION_SECONDS - 60)
    assert who(site, cookie) is not None
    monkeypatch.setattr("time.time", lambda: now + sessions.SESSION_SECONDS + 60)
    assert who(site, cookie) is None


@pytest.mark.parametrize("change", ["password", "removal", "another person of the name"])
def test_a_session_ends_within_five_seconds_of_a_change_of_the_account(
    site: web.Site, clock: StoppedClock, change: str
) -> None:
    cookie = session_of(site, "ben")
    assert who(site, cookie) == ["ben", "viewer", "password"]
    if change == "password":
        accounts.set_password("ben", OTHER_PASSWORD)
    else:
        accounts.remove("ben")
    if change == "another person of the name":
        accounts.set_password("ben", PASSWORD)

    clock.advance(sessions.TRUST_SECONDS - 0.1)
    assert who(site, cookie) is not None
    clock.advance(0.2)
    assert who(site, cookie) is None


def test_a_new_role_counts_for_the_next_session_alone(site: web.Site, clock: StoppedClock) -> None:
    cookie = session_of(site)
    accounts.set_password("anna", PASSWORD, "viewer")
    clock.advance(sessions.TRUST_SECONDS + 0.1)

    assert who(site, cookie) is None
    assert who(site, session_of(site)) == ["anna", "viewer", "password"]


def test_while_the_datastore_is_unavailable_a_known_session_goes_on_and_an_unknown_one_does_not(
    site: web.Site, clock: StoppedClock, tmp_path: Path
) -> None:
    known, unknown = session_of(site), session_of(site, "ben")
    assert who(site, known) is not None
    datastore.dispose()
    (tmp_path / "sessions.db").write_bytes(b"not a database" * 1_000)
    clock.advance(sessions.TRUST_SECONDS + 0.1)

    assert who(site, known) == ["anna", "admin", "password"]
    assert who(site, unknown) is None


@pytest.mark.parametrize(
    "place", ["name", "key", "id", "time", "signature", "length", "purpose", "key of all"]
)
def test_a_cookie_that_was_tampered_with_counts_for_nobody(site: web.Site, place: str) -> None:
    value = session_of(site, "ben").partition("=")[2]
    account = accounts.find("anna")
    assert account is not None
    content = [account.name, account.session_key, "an id"]
    forged = {
        "purpose": Signatures(SECRET_KEY).dump_token("administrator", content),
        "key of all": Signatures("another secret key, long enough").dump_token("session", content),
        "length": value + "A" * 400,
        "name": Signatures("x" * 16).dump_token("session", content).rpartition(".")[0]
        + value[value.rindex(".") :],
        # Not the last character, of which base64 ignores two bits.
        "signature": value[:-2] + ("A" if value[-2] != "A" else "B") + value[-1],
    }
    parts = value.split(".")
    altered = forged.get(place, ".".join([parts[0][::-1], *parts[1:]]))
    if place == "time":
        altered = ".".join([parts[0], "zzzzzz", *parts[2:]])

    assert who(site, f"{NAME}={altered}") is None
    assert who(site, f"{NAME}={altered}; {NAME}={value}") == ["ben", "viewer", "password"]


# --- roles --------------------------------------------------------------------------------

# anybody, viewer, administrator
EXPECTED = {
    "/required": (303, 200, 200),
    "/required-401": (303, 200, 200),
    "/admin": (303, 403, 200),
    "/other": (200, 200, 200),
    "/_ah/admin/": (303, 200, 200),
    "/_ah/admin/queues.json": (403, 200, 200),
}


@pytest.mark.parametrize("path", EXPECTED)
def test_each_role_is_admitted_as_the_handler_declares(site: web.Site, path: str) -> None:
    cookies = ("", session_of(site, "ben"), session_of(site))
    assert tuple(site.get(path, HTTP_COOKIE=cookie).status_int for cookie in cookies) == EXPECTED[path]


def test_a_page_of_app_yaml_below_the_console_is_the_administrators(site: web.Site) -> None:
    answers = {
        name: site.get("/_ah/admin/own", HTTP_COOKIE=session_of(site, name)) for name in ("anna", "ben")
    }

    assert answers["anna"].json == ["anna", "admin", "password"], "the application's page, not the console"
    assert answers["ben"].status_int == 403
    assert site.get("/_ah/admin/other", HTTP_COOKIE=session_of(site, "ben")).body == b"console"
    assert site.get("/_ah/admin/own").status_int == 303
    assert site.get("/_ah/admin/own", **site.administrator).status_int == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize("accept", ["text/html", "application/json"])
def test_a_viewer_changes_nothing_in_the_console(site: web.Site, method: str, accept: str) -> None:
    statuses = []
    for cookie in (session_of(site, "ben"), session_of(site)):
        environ = {"HTTP_COOKIE": cookie, "HTTP_ACCEPT": accept}
        answer = site.request("/_ah/admin/queues/mail/pause", environ, method=method)
        statuses.append(answer.status_int)
        if answer.status_int == 403 and accept == "application/json":
            assert answer.json["error"]["code"] == 403
    assert statuses == [403, 200]


def test_a_page_leads_to_the_sign_in_page_and_back(site: web.Site) -> None:
    answer = site.get("/required/caf%C3%A9?a=b&c=%26")

    assert answer.headers["Location"] == (
        "/_ah/signin?continue=%2Frequired%2Fcaf%25C3%25A9%3Fa%3Db%26c%3D%2526"
    )
    page = site.get(answer.headers["Location"])
    [path] = re.findall('name="continue" value="([^"]*)"', page.text)
    back = send(site, "anna", PASSWORD, path.replace("&amp;", "&"))
    assert back.headers["Location"] == "/required/caf%C3%A9?a=b&c=%26"


def test_programs_get_a_status_instead_of_the_page(site: web.Site) -> None:
    for path in ("/required", "/admin", "/_ah/admin/"):
        assert site.get(path, HTTP_ACCEPT="application/json").status_int == 403


def test_a_form_of_somebody_whose_session_has_ended_leads_back_to_its_page(site: web.Site) -> None:
    own = {"HTTP_REFERER": f"http://{HOST}/_ah/admin/queues/mail?a=b", "HTTP_SEC_FETCH_SITE": "same-origin"}
    answer = site.post("/_ah/admin/queues/mail/pause", b"", **own)
    assert answer.headers["Location"] == "/_ah/signin?continue=%2F_ah%2Fadmin%2Fqueues%2Fmail%3Fa%3Db"


def test_where_another_site_leads_a_sign_in_does_not_count_until_the_person_goes_on(site: web.Site) -> None:
    cookie = session_of(site)
    led = {"HTTP_SEC_FETCH_SITE": "cross-site", "HTTP_SEC_FETCH_MODE": "navigate"}

    answer = site.get("/admin", HTTP_COOKIE=cookie, **led)
    page = site.get(answer.headers["Location"], HTTP_COOKIE=cookie, **led)

    assert answer.status_int == 303
    assert "You are signed in" in page.text
    assert 'href="/admin"' in page.text


# --- a company's proxy --------------------------------------------------------------------

PROXIED = {
    "LASTACROSS_TRUSTED_PROXIES": "10.0.0.1",
    "LASTACROSS_USER_HEADER": "X-Forwarded-Email",
    "LASTACROSS_ADMINS": "Anna@shop.example",
    "LASTACROSS_VIEWERS": "ben@shop.example",
}


REQUIRED: dict[str, Any] = {
    **{"port": 0, "host": "", "redis_url": "", "database_url": ""},
    **{"secret_key": SECRET_KEY, "data_dir": Path()},
}


@pytest.fixture
def proxied(tmp_path: Path, test_store: Store) -> Iterator[web.Site]:
    """A site behind a proxy that signs people in."""
    builtins = {login.SIGN_IN_PATH: signin.serve, "/_ah/admin/": console}
    variables = {"DATABASE_URL": f"sqlite:///{tmp_path}/proxied.db", **PROXIED}
    with web.site(tmp_path, MAIN, APP_YAML, builtins=builtins, variables=variables) as site:
        databases.upgrade()
        store.use(test_store)
        sessions.forget_accounts()
        yield site
        datastore.dispose()


PEERS = {
    ("10.0.0.1", "anna@shop.example"): ["anna@shop.example", "admin", "proxy"],
    ("10.0.0.1", "ANNA@shop.example"): ["ANNA@shop.example", "admin", "proxy"],
    ("10.0.0.1", "ben@shop.example"): ["ben@shop.example", "viewer", "proxy"],
    ("10.0.0.1", "carla@shop.example"): None,
    ("10.0.0.1", "anna@shop.example,carla@shop.example"): None,
    ("10.0.0.1", "*"): None,
    ("10.0.0.1", ""): None,
    ("10.0.0.1", "a" * 300): None,
    ("10.0.0.2", "anna@shop.example"): None,
    ("", "anna@shop.example"): None,
    ("127.0.0.1", "anna@shop.example"): None,
    ("::ffff:10.0.0.1", "anna@shop.example"): ["anna@shop.example", "admin", "proxy"],
}


@pytest.mark.parametrize(("peer", "user"), PEERS)
def test_the_users_header_counts_from_a_trusted_proxy_alone(proxied: web.Site, peer: str, user: str) -> None:
    environ = {"REMOTE_ADDR": peer, "HTTP_X_FORWARDED_EMAIL": user}
    assert proxied.get("/", **environ).json == PEERS[peer, user]


def test_a_client_cannot_choose_the_address_that_is_trusted(proxied: web.Site) -> None:
    environ = {"HTTP_X_FORWARDED_EMAIL": "anna@shop.example", "HTTP_X_FORWARDED_FOR": "10.0.0.1"}
    assert proxied.get("/", REMOTE_ADDR="203.0.113.9", **environ).json is None
    forged = {"lastacross.proxy_user": "anna@shop.example"}
    assert proxied.get("/", REMOTE_ADDR="10.0.0.1", **forged).json is None


def test_behind_the_proxy_another_sites_form_is_refused_and_its_link_is_nobodys(proxied: web.Site) -> None:
    environ = {"REMOTE_ADDR": "10.0.0.1", "HTTP_X_FORWARDED_EMAIL": "anna@shop.example"}
    cross = {**environ, "HTTP_SEC_FETCH_SITE": "cross-site"}
    assert proxied.post("/_ah/admin/queues", b"", **cross).status_int == 403
    assert proxied.get("/admin", **cross).status_int == 403
    assert proxied.get("/admin", **environ).status_int == 200


def test_a_user_who_is_not_listed_learns_so(proxied: web.Site) -> None:
    environ = {"REMOTE_ADDR": "10.0.0.1", "HTTP_X_FORWARDED_EMAIL": "<carla>"}
    answer = proxied.get("/_ah/admin/", **environ)
    assert answer.status_int == 403
    assert "&lt;carla&gt; is named neither in LASTACROSS_ADMINS" in answer.text


def test_everybody_whom_the_proxy_names_may_be_a_viewer() -> None:
    settings = Settings(**REQUIRED, admins=("anna",), viewers=("*",))
    environ = {PROXY_USER: "carla@shop.example"}
    assert proxies.person_of(environ, settings) == Person("carla@shop.example", "viewer", "proxy")
    assert proxies.person_of({}, settings) is None
