"""The headers of every answer."""

import pytest

from lastacross.webapp import security_headers

HTTP = {"wsgi.url_scheme": "http", "HTTP_HOST": "app.example"}
HTTPS = {"wsgi.url_scheme": "https", "HTTP_HOST": "app.example"}


def test_a_policy_of_the_application_stays() -> None:
    """It may be stricter, or need more."""
    headers = dict(security_headers.secure([("content-security-policy", "default-src 'none'")], HTTP))
    assert headers["content-security-policy"] == "default-src 'none'"
    assert "Content-Security-Policy" not in headers
    assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert headers["Referrer-Policy"] == "same-origin"


def test_a_long_task_page_is_strict_unless_app_yaml_sets_a_policy() -> None:
    strict, name = security_headers.CONTENT_SECURITY_POLICY, security_headers.POLICY
    assert security_headers.policy_of_engine_page({}) == strict
    assert security_headers.policy_of_engine_page({name: "strict"}) == strict
    assert security_headers.policy_of_engine_page({name: "Strict"}) == strict
    assert security_headers.policy_of_engine_page({name: "default-src https:"}) == "default-src https:"
    assert security_headers.policy_of_engine_page({name: None}) is None


def test_versions_of_software_are_not_told() -> None:
    """They say which holes to try."""
    given = [("Server", "thing/1.2"), ("Content-Language", "en"), ("X-Powered-By", "thing")]
    names = {name.lower() for name, _ in security_headers.secure(given, HTTP)}
    assert {"server", "content-language", "x-powered-by"} & names == {"content-language"}


@pytest.mark.parametrize("environ", [HTTP, HTTPS])
def test_only_https_is_told_to_stay_https(environ: dict[str, str]) -> None:
    """Over HTTP the header means nothing, and localhost must not learn it."""
    headers = dict(security_headers.secure([], environ))
    assert ("Strict-Transport-Security" in headers) == (environ is HTTPS)


@pytest.mark.parametrize(
    ("given", "https", "expected"),
    [
        ("a=b", False, "a=b; HttpOnly; SameSite=Lax"),
        ("a=b; Path=/", True, "a=b; Path=/; HttpOnly; SameSite=Lax; Secure"),
        ("a=b; samesite=Strict; httponly; SECURE", True, "a=b; samesite=Strict; httponly; SECURE"),
        ("secure=httponly", True, "secure=httponly; HttpOnly; SameSite=Lax; Secure"),
        ("a=;", False, "a=; HttpOnly; SameSite=Lax"),
    ],
)
def test_a_cookie_gets_the_attributes_that_it_lacks(given: str, https: bool, expected: str) -> None:
    """A cookie's name or value is not an attribute."""
    environ = HTTPS if https else HTTP
    assert ("Set-Cookie", expected) in security_headers.secure([("Set-Cookie", given)], environ)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("http://app.example/quilt/1?a=b#c", "/quilt/1?a=b#c"),
        ("http://app.example", "/"),
        ("http://app.example//evil.example/", "http://app.example//evil.example/"),
        ("https://app.example/", "https://app.example/"),
        ("http://other.example/", "http://other.example/"),
        ("/quilt", "/quilt"),
        ("http://[", "http://["),
    ],
)
def test_a_redirect_to_ourselves_leaves_scheme_and_host_to_the_browser(given: str, expected: str) -> None:
    """Behind a proxy that ends TLS we know neither for sure."""
    assert ("Location", expected) in security_headers.secure([("Location", given)], HTTP)
