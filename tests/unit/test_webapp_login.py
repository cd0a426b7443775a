"""Who is let in where: each kind of handler against each kind of visitor."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import web
from tests.support.redis_server import unavailable_store
from tests.support.root_application import in_use

MAIN = """
def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"app"]

def engine(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"engine"]
"""
APP_YAML = """
handlers:
- {url: /optional, script: main.app}
- {url: /required, script: main.app, login: required}
- {url: /required-401, script: main.app, login: required, auth_fail_action: unauthorized}
- {url: /admin, script: main.app, login: admin}
- {url: /admin-401, script: main.app, login: admin, auth_fail_action: unauthorized}
- {url: /_ah/queue/open, script: main.app}
- {url: /_ah/mail/.+, script: main.app, login: admin}
- {url: /_ah/listed, script: main.app}
- {url: /_ah/channel/jsapi, script: main.app}
- {url: /.*, script: main.app}
"""

ANYBODY: dict[str, Any] = {}
OWN = f"http://{web.HOST}"
TASK = {"lastacross.task": "a task"}
CRON = {"lastacross.cron": "an entry", "lastacross.task": None}
SYSTEM = {"lastacross.system": "a service", "lastacross.task": None}
# anybody, administrator, task, cron
EXPECTED = {
    "/optional": (200, 200, 200, 200),
    "/required": (403, 200, 403, 403),
    "/required-401": (401, 200, 403, 403),
    "/admin": (403, 200, 200, 200),
    "/admin-401": (401, 200, 200, 200),
    "/anything": (200, 200, 200, 200),
    "/_ah/queue/open": (403, 403, 200, 200),
    "/_ah/queue/default": (403, 403, 200, 200),
    "/_ah/queue/deferred": (403, 403, 200, 200),
    "/_ah/queue": (403, 403, 200, 200),
    "/_ah/start": (403, 403, 200, 200),
    "/_ah/stop": (403, 403, 200, 200),
    "/_ah/warmup": (403, 403, 200, 200),
    "/_ah/channel/connected/": (403, 403, 200, 200),
    "/_ah/mail/a@b": (403, 200, 200, 200),
    "/_ah/listed": (200, 200, 200, 200),
    "/_ah/channel/jsapi": (200, 200, 200, 200),
    "/_ah/channel/stream": (200, 200, 200, 200),
    "/_ah/admin/queues": (403, 200, 403, 403),
    "/_ah/admin": (403, 404, 403, 403),
    "/_ah/unlisted": (404, 404, 200, 200),
    "/_ah/": (404, 404, 200, 200),
    "/_ah": (404, 404, 200, 200),
    "/_ahead": (200, 200, 200, 200),
    "/_ah/health": (200, 200, 200, 200),
}


@pytest.fixture(autouse=True)
def unavailable(tmp_path: Path) -> Iterator[None]:
    """No Redis is asked whether a cookie was signed out; it is tried once."""
    with in_use(unavailable_store(tmp_path)):
        yield


def engine(environ: Any, start_response: Any) -> list[bytes]:
    """One of the engine's own URLs."""
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"engine"]


BUILTINS = {
    "/_ah/queue/deferred": engine,
    "/_ah/channel/jsapi": engine,
    "/_ah/channel/stream": engine,
    "/_ah/admin/": engine,
}


@pytest.fixture
def dev(tmp_path: Path) -> Iterator[web.Site]:
    """An application under `dev`."""
    variables = {"LASTACROSS_DEV": "1", "HOST": "127.0.0.1"}
    with web.site(tmp_path, MAIN, APP_YAML, builtins=BUILTINS, variables=variables) as site:
        yield site


@pytest.mark.parametrize("path", EXPECTED)
def test_each_visitor_is_admitted_as_the_handler_declares(dev: web.Site, path: str) -> None:
    """The whole matrix."""
    statuses = (
        dev.get(path).status_int,
        dev.get(path, **dev.administrator).status_int,
        dev.deliver(path, **TASK).status_int,
        dev.deliver(path, "GET", **CRON).status_int,
    )
    assert statuses == EXPECTED[path]


def test_the_engine_serves_its_urls_unless_app_yaml_names_the_very_path(dev: web.Site) -> None:
    """A pattern that covers it as well does not count."""
    assert dev.deliver("/_ah/queue/deferred").body == b"engine"
    assert dev.get("/_ah/channel/stream").body == b"engine"
    assert dev.get("/_ah/channel/jsapi").body == b"app"


@pytest.mark.parametrize("address", ["127.0.0.1", "127.8.9.10", "::1", "::ffff:127.0.0.1", "", "nonsense"])
def test_nobody_is_administrator_for_where_the_request_comes_from(dev: web.Site, address: str) -> None:
    """Not at the machine either: a proxy on it makes everybody look like that."""
    assert dev.get("/admin", REMOTE_ADDR=address).status_int == 403
    assert dev.get("/admin", REMOTE_ADDR=address, **dev.administrator).status_int == 200


@pytest.mark.parametrize("variables", [{}, {"LASTACROSS_DEV": "1", "HOST": "0.0.0.0"}])
def test_the_cookie_makes_an_administrator_outside_of_dev_too(
    tmp_path: Path, variables: dict[str, str]
) -> None:
    with web.site(tmp_path, MAIN, APP_YAML, builtins=BUILTINS, variables=variables) as site:
        assert site.get("/_ah/admin/").status_int == 403
        assert site.get("/_ah/admin/", **site.administrator).status_int == 200


# Where a request comes from, as a browser says it, and whether the administrator's cookie counts then.
ORIGINS = {
    "typed, or from a bookmark": ({"HTTP_SEC_FETCH_SITE": "none"}, 200),
    "a link of ours": ({"HTTP_SEC_FETCH_SITE": "same-origin"}, 200),
    "another port of this machine": ({"HTTP_SEC_FETCH_SITE": "same-site"}, 403),
    "another site": ({"HTTP_SEC_FETCH_SITE": "cross-site"}, 403),
    "something new": ({"HTTP_SEC_FETCH_SITE": "fenced"}, 403),
    "another site that hides itself": ({"HTTP_SEC_FETCH_SITE": "cross-site", "HTTP_ORIGIN": OWN}, 403),
    "nothing is said": ({}, 200),
    "our referer": ({"HTTP_REFERER": f"{OWN}/page?a=b"}, 200),
    "another's referer": ({"HTTP_REFERER": "http://elsewhere.example/"}, 403),
    "another port's referer": ({"HTTP_REFERER": f"{OWN}:81/"}, 403),
    "a referer that is none": ({"HTTP_REFERER": "http://[::1/"}, 403),
    "our origin": ({"HTTP_ORIGIN": OWN}, 200),
    "no origin that can be told": ({"HTTP_ORIGIN": "null"}, 403),
    "our origin, another's referer": ({"HTTP_ORIGIN": OWN, "HTTP_REFERER": "http://elsewhere.example/"}, 403),
}


@pytest.mark.parametrize("origin", ORIGINS)
def test_the_cookie_counts_for_requests_of_this_site_and_of_the_browser_itself(
    dev: web.Site, origin: str
) -> None:
    """Cron's URLs work by GET, which any page can have a browser send."""
    environ, status = ORIGINS[origin]
    answer = dev.get("/admin", **environ, **dev.administrator)
    assert answer.status_int == status
    assert ("sent you here" in answer.text) is (status == 403)


@pytest.mark.parametrize(
    ("path", "whom"), [("/admin", "the administrator"), ("/required", "signed-in users")]
)
def test_a_refusal_says_for_whom_the_page_is(dev: web.Site, path: str, whom: str) -> None:
    """So that a developer sees which login the handler asks for."""
    answer = dev.get(path)
    assert f"This page is only for {whom}." in answer.text
    assert ("lastacross admin link" in answer.text) is (path == "/admin")


def test_an_unauthorized_answer_says_how_to_authenticate(dev: web.Site) -> None:
    """RFC 9110, 15.5.2 wants WWW-Authenticate."""
    assert "WWW-Authenticate" in dev.get("/required-401").headers


@pytest.mark.parametrize(
    ("host", "path", "location"),
    [
        ("app.example", "/safe?a=b", "https://app.example/safe?a=b"),
        ("app.example:8080", "/safe", "https://app.example/safe"),
        ("app.example", "/safe%20%C3%A9%3F", "https://app.example/safe%20%C3%A9%3F"),
    ],
)
def test_a_page_that_is_secure_always_sends_http_to_https(
    tmp_path: Path, host: str, path: str, location: str
) -> None:
    """301, to the same address."""
    app_yaml = "handlers:\n- {url: /safe.*, script: main.app, secure: always}\n"
    with web.site(tmp_path, MAIN, app_yaml) as site:
        answer = site.get(path, HTTP_HOST=host)
        assert (answer.status_int, answer.headers["Location"]) == (301, location)
        secure = site.get(path, HTTP_HOST=host, **{"wsgi.url_scheme": "https"})
        assert secure.status_int == 200
        assert "Strict-Transport-Security" in secure.headers
        assert "Strict-Transport-Security" not in answer.headers
        assert site.deliver(path).status_int == 200


@pytest.mark.parametrize(
    ("hosts", "host", "status"),
    [
        ("*", "app.example", 403),
        ("app.example,*", "evil.example", 403),
        ("app.example,*", "app.example", 301),
        (".app.example", "www.app.example", 301),
        ("app.example", "evil.example", 400),
    ],
)
def test_a_redirect_goes_to_a_host_that_is_listed(tmp_path: Path, hosts: str, host: str, status: int) -> None:
    """Otherwise a cache would keep a redirect to whatever somebody wrote into Host."""
    app_yaml = "handlers:\n- {url: /safe.*, script: main.app, secure: always}\n"
    with web.site(tmp_path, MAIN, app_yaml, variables={"LASTACROSS_ALLOWED_HOSTS": hosts}) as site:
        answer = site.get("/safe", HTTP_HOST=host)
        assert answer.status_int == status
        assert ("LASTACROSS_ALLOWED_HOSTS" in answer.text) is (status == 403)


def test_behind_an_undeclared_proxy_a_secure_page_is_refused_instead_of_sent_round(tmp_path: Path) -> None:
    app_yaml = "handlers:\n- {url: /safe.*, script: main.app, secure: always}\n"
    with web.site(tmp_path, MAIN, app_yaml) as site:
        answer = site.get("/safe", HTTP_X_FORWARDED_PROTO="https")
    assert answer.status_int == 403
    assert "LASTACROSS_TRUSTED_PROXIES" in answer.text


def test_under_dev_a_secure_page_stays_on_http(tmp_path: Path) -> None:
    """There is no HTTPS to go to."""
    app_yaml = "handlers:\n- {url: /safe, script: main.app, secure: always}\n"
    with web.site(tmp_path, MAIN, app_yaml, variables={"LASTACROSS_DEV": "1"}) as site:
        assert site.get("/safe").status_int == 200


@pytest.mark.parametrize(
    "path", [path for path in EXPECTED if not path.startswith("/_ah/admin") and path != "/_ah/"]
)
def test_a_process_that_starts_or_ends_is_admitted_everywhere_but_to_the_console(
    dev: web.Site, path: str
) -> None:
    """`login: required` over all URLs must not keep a service from starting."""
    assert dev.deliver(path, "GET", **SYSTEM).status_int == 200


@pytest.mark.parametrize("path", ["/_ah/start", "/_ah/stop"])
def test_a_process_that_starts_or_ends_asks_the_first_handler_that_matches(tmp_path: Path, path: str) -> None:
    """As on App Engine; without one, the engine answers."""
    builtins = {"/_ah/start": engine, "/_ah/stop": engine}
    with web.site(tmp_path, MAIN, builtins=builtins) as site:
        assert site.deliver(path, "GET", **SYSTEM).body == b"app"
    with web.site(tmp_path, MAIN, "handlers:\n- {url: /page, script: main.app}\n", builtins=builtins) as site:
        assert site.deliver(path, "GET", **SYSTEM).body == b"engine"


def test_nobody_outside_can_say_that_a_process_starts(dev: web.Site) -> None:
    """Neither a server in front that sets keys of the environment."""
    assert dev.get("/_ah/start", **{"lastacross.system": "counter"}).status_int == 403
