"""The signed cookie that says what a browser has started."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import webapp2

from lastacross import config
from lastacross.signing import Signatures
from lastacross.webapp import is_started_by, remember_started
from lastacross.webapp.environ import IS_CROSS_SITE

COOKIE = "lastacross_started"
KEY = "a secret key of the tests, long enough"


@pytest.fixture(autouse=True)
def configuration(app_root: Path) -> Iterator[None]:
    config.use(config.load(app_root, {"SECRET_KEY": KEY}))
    yield
    config.use(None)


def set_cookie(*names: str, scheme: str = "http", cookie: str = "") -> str:
    """The whole header after a browser has started these, one after the other."""
    header = cookie
    for name in names:
        request = asking(header, scheme)
        response = webapp2.Response()
        remember_started(request, response, name)
        header = response.headers["Set-Cookie"]
    return header


def asking(set_cookie: str = "", scheme: str = "http") -> webapp2.Request:
    """A request of the browser that was given this cookie."""
    headers = {"Cookie": set_cookie.partition("; Max-Age")[0]} if set_cookie else {}
    return webapp2.Request.blank(f"{scheme}://app.example/", headers=headers)


def test_a_browser_is_known_by_what_it_has_started_and_by_nothing_else() -> None:
    browser = asking(set_cookie("quilt:1", "count:Grüße \ud800"))

    assert is_started_by(browser, "quilt:1")
    assert is_started_by(browser, "count:Grüße \ud800")
    assert not is_started_by(browser, "quilt:2")
    assert not is_started_by(asking(), "quilt:1")


def test_what_a_page_of_another_site_makes_a_browser_send_proves_nothing_and_remembers_nothing() -> None:
    browser = asking(set_cookie("quilt:1"))
    browser.environ[IS_CROSS_SITE] = True
    response = webapp2.Response()
    remember_started(browser, response, "quilt:2")

    assert not is_started_by(browser, "quilt:1")
    assert "Set-Cookie" not in response.headers


@pytest.mark.parametrize("planted", ["before", "after", "both", "signed"])
def test_cookies_that_another_site_has_planted_hide_nothing(planted: str) -> None:
    own = set_cookie("quilt:1").partition(";")[0]
    others = "; ".join(f"{COOKIE}=planted{number}" for number in range(100))
    cookies = {
        "before": f"{others}; {own}",
        "after": f"{own}; {others}",
        "both": f"{others}; {own}; {others}",
        "signed": f"{own}; {set_cookie('quilt:2').partition(';')[0]}",
    }[planted]

    assert is_started_by(asking(f"{cookies};"[:8190]), "quilt:1")
    assert not is_started_by(asking(others), "quilt:1")


@pytest.mark.parametrize("change", ["shorter", "longer", "unsigned", "another key", "another purpose"])
def test_a_forged_cookie_proves_nothing(change: str) -> None:
    name, _, value = set_cookie("quilt:1").partition(";")[0].partition("=")
    digests = Signatures(KEY).load_token("started", value)
    forged = {
        "shorter": value[:-1],
        "longer": f"x{value}",
        "unsigned": value.rpartition(".")[0],
        "another key": Signatures("another key, long enough too").dump_token("started", digests),
        "another purpose": Signatures(KEY).dump_token("longtasks", digests),
    }[change]

    assert name == COOKIE
    assert not is_started_by(asking(f"{name}={forged}"), "quilt:1")


@pytest.mark.parametrize("value", [{"a": 1}, [1, None, ["x"]], "text", None])
def test_a_signed_value_of_another_shape_proves_nothing(value: object) -> None:
    token = Signatures(KEY).dump_token("started", value)

    assert not is_started_by(asking(f"{COOKIE}={token}"), "quilt:1")


def test_the_cookie_stays_small_and_forgets_the_oldest() -> None:
    names = [f"quilt:{'long ' * 100}{number}" for number in range(60)]
    header = set_cookie(*names)

    assert len(header) < 1600
    known = [is_started_by(asking(header), name) for name in names]
    assert known == [False] * 10 + [True] * 50


def test_what_is_started_again_counts_once() -> None:
    once, again = set_cookie("a", "b"), set_cookie("a", "b", "a", "b")

    assert len(again.partition(";")[0]) == len(once.partition(";")[0])


def test_scripts_other_sites_and_plain_connections_do_not_get_the_cookie() -> None:
    plain = set(set_cookie("a").lower().split("; ")[1:])
    tls = set(set_cookie("a", scheme="https").lower().split("; ")[1:])

    assert {"httponly", "samesite=lax", "path=/"} <= plain
    assert tls - plain == {"secure"}
