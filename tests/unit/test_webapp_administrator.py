"""The administrator's cookie: whose it is, how long it is good, what may be put in its place."""

import base64
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lastacross import store
from lastacross.signing import Signatures
from lastacross.store import Store
from lastacross.webapp import administrator
from tests.support import web
from tests.support.clock import StoppedClock
from tests.support.web import SECRET_KEY

MAIN = """
from lastacross import webapp
import webapp2

class Who(webapp.RequestHandler):
    def get(self):
        self.render_json(self.is_administrator())

class Broken(webapp.RequestHandler):
    def post(self):
        raise ValueError("broken")

app = webapp2.WSGIApplication([("/who", Who), ("/broken", Broken)])
"""
FORM = {"CONTENT_TYPE": "application/x-www-form-urlencoded"}
NAME = administrator.cookie_name(SECRET_KEY)


@pytest.fixture
def site(tmp_path: Path, test_store: Store) -> Iterator[web.Site]:
    """A site with a Redis."""
    with web.site(tmp_path, MAIN) as site:
        store.use(test_store)
        yield site


def is_administrator(site: web.Site, cookie: str) -> bool:
    """Whether this Cookie header makes an administrator."""
    return bool(site.get("/who", HTTP_COOKIE=cookie).json)


def sign_in(site: web.Site, code: str) -> str:
    """The value of the cookie that a code is exchanged for."""
    answer = site.post(administrator.PATH, f"code={code}".encode(), **FORM)
    assert (answer.status_int, answer.headers["Location"]) == (303, "/")
    given = str(answer.headers["Set-Cookie"])
    assert given.startswith(f"{NAME}=")
    return given.partition("=")[2].partition(";")[0]


# --- the code -----------------------------------------------------------------------------


def test_a_code_becomes_a_cookie_once(site: web.Site, test_store: Store) -> None:
    code = administrator.new_code(SECRET_KEY, test_store)
    value = sign_in(site, code)
    assert is_administrator(site, f"{NAME}={value}")

    again = site.post(administrator.PATH, f"code={code}".encode(), **FORM)
    assert again.status_int == 403
    assert "Set-Cookie" not in again.headers
    assert "lastacross admin link" in again.text


def test_redis_has_no_code_but_its_digest_for_an_hour(test_store: Store) -> None:
    code = administrator.new_code(SECRET_KEY, test_store)
    keys: Any = test_store.redis.keys("lastacross:sign-in:*")
    assert keys == [f"lastacross:sign-in:{hashlib.sha256(code.encode()).hexdigest()}".encode()]
    left: Any = test_store.redis.ttl(keys[0])
    assert 3590 < left <= 3600


def test_the_cookie_is_for_this_site_alone_and_no_script_reads_it(site: web.Site, test_store: Store) -> None:
    code = administrator.new_code(SECRET_KEY, test_store)
    environ = {**FORM, "wsgi.url_scheme": "https"}
    attributes = site.post(administrator.PATH, f"code={code}".encode(), **environ).headers["Set-Cookie"]
    found = {part.strip().lower() for part in attributes.split(";")[1:]}
    assert found == {"max-age=604800", "path=/", "httponly", "samesite=strict", "secure"}


@pytest.mark.parametrize(
    "kind", ["emptied Redis", "expired", "another key", "altered", "none", "a cookie's value"]
)
def test_a_code_that_is_not_good_signs_nobody_in(
    site: web.Site, test_store: Store, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = administrator.new_code(
        "another key than the one of the site" if kind == "another key" else SECRET_KEY, test_store
    )
    if kind == "emptied Redis":
        test_store.redis.flushall()
    if kind == "expired":
        monkeypatch.setattr(administrator, "CODE_SECONDS", -1)
    code = {"altered": code[:-3], "none": "", "a cookie's value": administrator.new_cookie(SECRET_KEY)}.get(
        kind, code
    )
    answer = site.post(administrator.PATH, f"code={code}".encode(), **FORM)
    assert answer.status_int == 403
    assert "Set-Cookie" not in answer.headers


def test_looking_at_the_page_takes_no_code(site: web.Site, test_store: Store) -> None:
    """Chats and mail programs look at links."""
    code = administrator.new_code(SECRET_KEY, test_store)
    for method in ("GET", "HEAD"):
        answer = site.request(f"{administrator.PATH}?code={code}", method=method)
        assert answer.status_int == 200
        assert "Set-Cookie" not in answer.headers
    assert site.request(administrator.PATH, method="PUT").status_int == 405
    assert sign_in(site, code)


def test_a_page_of_another_site_cannot_sign_a_browser_in(site: web.Site, test_store: Store) -> None:
    code = administrator.new_code(SECRET_KEY, test_store)
    environ = {**FORM, "HTTP_SEC_FETCH_SITE": "cross-site"}
    assert site.post(administrator.PATH, f"code={code}".encode(), **environ).status_int == 403
    assert sign_in(site, code)


def test_no_log_line_has_the_code(
    site: web.Site, test_store: Store, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """Neither when it is good, nor when it is not, nor when Redis cannot be asked."""
    caplog.set_level("DEBUG")
    code = administrator.new_code(SECRET_KEY, test_store)
    sign_in(site, code)
    pages = [site.post(administrator.PATH, f"code={code}".encode(), **FORM)]
    unavailable = Store(f"unix://{tmp_path}/nobody")
    store.use(unavailable)
    pages.append(site.post(administrator.PATH, f"code={code}".encode(), **FORM))
    unavailable.close()
    pages.append(site.post("/broken", f"code={code}".encode(), HTTP_HOST=web.HOST, **FORM))

    assert [page.status_int for page in pages] == [403, 503, 500]
    assert not [page for page in pages if code in page.text or code in str(page.headers)]
    events = [str(record.msg) for record in caplog.records]
    assert [event for event in events if "administrator.sign_in" in event]
    assert [event for event in events if "administrator.refuse" in event]
    assert not [record for record in caplog.records if code in record.getMessage() + str(record.exc_text)]


# --- the cookie ---------------------------------------------------------------------------


def test_a_cookie_among_others_is_found(site: web.Site) -> None:
    value = administrator.new_cookie(SECRET_KEY)
    assert is_administrator(site, f"a=b; {NAME}={value}; c=d")
    assert is_administrator(site, f"{NAME}=planted; {NAME}={value}")
    assert is_administrator(site, f"a=b;{NAME}={value}")


@pytest.mark.parametrize("place", [0, 4, 30, 75])
def test_however_many_another_site_has_planted_ours_is_found(site: web.Site, place: int) -> None:
    """As many as fit into 8 kB: all sites below one domain may set cookies for it."""
    value = administrator.new_cookie(SECRET_KEY)
    cookies = [f"{NAME}={value[:-3]}{number:03}" for number in range(75)]
    cookies.insert(place, f"{NAME}={value}")
    header = "; ".join(cookies)
    assert 8_000 < len(header) <= 8_190

    assert is_administrator(site, header)
    assert not is_administrator(site, "; ".join(cookies[:place] + cookies[place + 1 :]))


def test_the_length_of_a_value_decides_before_its_signature_does() -> None:
    assert len(administrator.new_cookie(SECRET_KEY)) in administrator._CHARACTERS


@pytest.mark.parametrize(
    "forged",
    [
        "",
        "1",
        "true",
        base64.urlsafe_b64encode(b'"administrator"').decode(),
        Signatures("another key than the one of the site").dump_token("administrator", "x"),
        Signatures(SECRET_KEY).dump_token("sign-in", "x"),
        Signatures(SECRET_KEY).dump_token("longtasks", ["x"]),
        Signatures(SECRET_KEY).dump_token("channel", "x"),
    ],
    ids=["empty", "1", "true", "unsigned", "other key", "sign-in", "long tasks", "channel"],
)
def test_only_a_signature_for_this_purpose_counts(site: web.Site, forged: str) -> None:
    assert not is_administrator(site, f"{NAME}={forged}")
    assert not is_administrator(site, f'{NAME}="{forged}"')


def test_each_bit_of_the_signature_counts(site: web.Site) -> None:
    value = administrator.new_cookie(SECRET_KEY)
    for place in range(0, len(value), 7):
        other = "A" if value[place] != "A" else "B"
        assert not is_administrator(site, f"{NAME}={value[:place]}{other}{value[place + 1 :]}")


def test_a_cookie_is_good_for_seven_days(site: web.Site, monkeypatch: pytest.MonkeyPatch) -> None:
    value = administrator.new_cookie(SECRET_KEY)
    assert administrator.COOKIE_SECONDS == 7 * 86_400
    monkeypatch.setattr(administrator, "COOKIE_SECONDS", -1)
    assert not is_administrator(site, f"{NAME}={value}")


def test_a_cookie_of_another_installation_has_another_name(site: web.Site) -> None:
    """Two sites on one machine sign nobody out of each other: browsers keep cookies for all ports."""
    key = "another key than the one of the site"
    assert administrator.cookie_name(key) != NAME
    assert not is_administrator(site, f"{NAME}={administrator.new_cookie(key)}")
    assert not is_administrator(
        site, f"{administrator.cookie_name(key)}={administrator.new_cookie(SECRET_KEY)}"
    )


def test_without_a_key_nobody_is_administrator() -> None:
    assert not administrator.has_cookie({"HTTP_COOKIE": "lastacross_admin_=x"}, "")


# --- signing out --------------------------------------------------------------------------


def test_who_signs_out_is_nobody_any_more_and_a_copy_of_the_cookie_is_worth_nothing(site: web.Site) -> None:
    cookie = f"{NAME}={administrator.new_cookie(SECRET_KEY)}"
    other = f"{NAME}={administrator.new_cookie(SECRET_KEY)}"
    assert is_administrator(site, cookie)
    assert "Sign out" in site.get(administrator.PATH, HTTP_COOKIE=cookie).text

    answer = site.post("/_ah/sign-out", HTTP_COOKIE=cookie)

    assert (answer.status_int, answer.headers["Location"]) == (303, administrator.PATH)
    assert answer.headers["Set-Cookie"].startswith(f"{NAME}=; Max-Age=0; Path=/")
    assert not is_administrator(site, cookie)
    assert is_administrator(site, other)
    assert "Sign out" not in site.get(administrator.PATH).text


def test_another_spelling_of_a_cookie_is_signed_out_with_it(site: web.Site) -> None:
    """The last digit of base64 has bits that nobody reads."""
    value = administrator.new_cookie(SECRET_KEY)
    digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    other = value[:-1] + digits[digits.index(value[-1]) ^ 1]
    assert is_administrator(site, f"{NAME}={other}")

    site.post("/_ah/sign-out", HTTP_COOKIE=f"{NAME}={value}")

    assert not is_administrator(site, f"{NAME}={other}")


def test_another_process_hears_of_it_within_seconds(site: web.Site, monkeypatch: pytest.MonkeyPatch) -> None:
    cookie = f"{NAME}={administrator.new_cookie(SECRET_KEY)}"
    clock = StoppedClock()
    here, there = administrator._SignedOut(clock), administrator._SignedOut(clock)
    monkeypatch.setattr(administrator, "_signed_out", here)
    assert is_administrator(site, cookie)
    monkeypatch.setattr(administrator, "_signed_out", there)
    site.post("/_ah/sign-out", HTTP_COOKIE=cookie)
    monkeypatch.setattr(administrator, "_signed_out", here)

    assert is_administrator(site, cookie)
    clock.advance(administrator.TRUST_SECONDS)
    assert not is_administrator(site, cookie)


def test_signing_out_needs_a_form_of_ours(site: web.Site) -> None:
    cookie = f"{NAME}={administrator.new_cookie(SECRET_KEY)}"
    assert site.get("/_ah/sign-out", HTTP_COOKIE=cookie).status_int == 405
    assert site.post("/_ah/sign-out", HTTP_COOKIE=cookie, HTTP_SEC_FETCH_SITE="same-site").status_int == 403
    assert is_administrator(site, cookie)


def test_only_who_was_signed_in_is_logged_as_signed_out(
    site: web.Site, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    cookie = f"{NAME}={administrator.new_cookie(SECRET_KEY)}"
    for planted in ("", "a=b", f"{NAME}=planted", cookie, cookie):
        answer = site.post("/_ah/sign-out", HTTP_COOKIE=planted)
        assert answer.headers["Set-Cookie"].startswith(f"{NAME}=; Max-Age=0")

    assert len([record for record in caplog.records if "administrator.sign_out" in str(record.msg)]) == 1


def test_with_an_emptied_redis_a_copy_counts_again(site: web.Site, test_store: Store) -> None:
    """As docs/security.md says: a new SECRET_KEY then signs everybody out."""
    cookie = f"{NAME}={administrator.new_cookie(SECRET_KEY)}"
    site.post("/_ah/sign-out", HTTP_COOKIE=cookie)
    assert not is_administrator(site, cookie)
    administrator._signed_out.forget(administrator._sign_ins({"HTTP_COOKIE": cookie}, SECRET_KEY)[0])
    test_store.redis.flushall()

    assert is_administrator(site, cookie)


def test_while_redis_is_unavailable_the_administrator_is_one_and_can_sign_out(
    site: web.Site, tmp_path: Path
) -> None:
    unavailable = Store(f"unix://{tmp_path}/nobody")
    store.use(unavailable)
    cookie = f"{NAME}={administrator.new_cookie(SECRET_KEY)}"
    assert is_administrator(site, cookie)
    assert "Max-Age=0" in site.post("/_ah/sign-out", HTTP_COOKIE=cookie).headers["Set-Cookie"]
    unavailable.close()
