"""Adds security headers, which restrict what a page may do, to every response including errors.

The engine's own pages always have the strict Content-Security-Policy. A response of app.yaml's handlers has
none, because only its author knows the page's scripts: ``security_headers`` in app.yaml sets one. It also
changes or removes the other headers of these responses.
"""

from collections.abc import Mapping
from urllib.parse import urlsplit

from lastacross.webapp.environ import (
    IS_APPLICATION,
    Body,
    Environ,
    Headers,
    Layer,
    Start,
    Wsgi,
    intercept,
    is_https,
)

POLICY = "Content-Security-Policy"
STRICT = "strict"
"""In app.yaml, the name of CONTENT_SECURITY_POLICY."""

CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'self'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
        "form-action 'self'",
        "object-src 'none'",
    )
)
# The headers of the engine's own responses, unless the response sets them. Referrer-Policy is not
# no-referrer, which would turn the Origin of a page's own POST into `null`. Over plain HTTP, Origin is the
# only header that check_cross_site can use. The value same-origin reveals no more than that to other sites.
DEFAULTS = (
    (POLICY, CONTENT_SECURITY_POLICY),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "same-origin"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
)
STRICT_TRANSPORT_SECURITY = ("Strict-Transport-Security", "max-age=31536000")
NO_CHANGES: Mapping[str, str | None] = {}
# Headers that reveal versions to an attacker.
DROPPED = frozenset({"server", "x-powered-by", "x-aspnet-version", "x-generator"})


def layer(changes: Mapping[str, str | None]) -> Layer:
    """Add the security headers to each response, and fix its cookies and redirects.

    Args:
        changes: app.yaml's ``security_headers``, which map a header's name to its value, or None to omit it.
    """

    def secured_by(application: Wsgi) -> Wsgi:
        def secured(environ: Environ, start_response: Start) -> Body:
            return application(
                environ, intercept(start_response, lambda _status, headers: secure(headers, environ, changes))
            )

        return secured

    return secured_by


def policy_of_engine_page(changes: Mapping[str, str | None]) -> str | None:
    """The Content-Security-Policy of an engine's page inside the application, such as a long task's page.

    Args:
        changes: as for ``layer``. Without a policy of the application, the strict one applies.
    """
    return _policy(changes.get(POLICY, STRICT))


def _policy(given: str | None) -> str | None:
    return CONTENT_SECURITY_POLICY if given is not None and given.lower() == STRICT else given


def secure(headers: Headers, environ: Environ, changes: Mapping[str, str | None] = NO_CHANGES) -> Headers:
    """A response's headers plus ours; policies that the response already has stay unchanged."""
    https = is_https(environ)
    kept = [
        (name, _mend(name.lower(), value, environ, https))
        for name, value in headers
        if name.lower() not in DROPPED
    ]
    given = {name.lower() for name, _ in kept}
    wanted = _wanted(bool(environ.get(IS_APPLICATION)), https, changes)
    return kept + [(name, value) for name, value in wanted.items() if value and name.lower() not in given]


def _wanted(is_application: bool, https: bool, changes: Mapping[str, str | None]) -> dict[str, str | None]:
    wanted: dict[str, str | None] = dict(DEFAULTS)
    if is_application:
        wanted |= {**changes, POLICY: _policy(changes.get(POLICY))}
    # A browser applies this header to the whole host, whichever page has sent it.
    name, usual = STRICT_TRANSPORT_SECURITY
    wanted[name] = changes.get(name, usual) if https else None
    return wanted


def cookie(value: str, https: bool) -> str:
    """A Set-Cookie value with HttpOnly, SameSite (Lax by default) and, over HTTPS, Secure."""
    given = {part.split("=", 1)[0].strip().lower() for part in value.split(";")[1:]}
    wanted = [("httponly", "HttpOnly"), ("samesite", "SameSite=Lax")]
    if https:
        wanted.append(("secure", "Secure"))
    return "; ".join([value.rstrip("; "), *(text for key, text in wanted if key not in given)])


def _mend(name: str, value: str, environ: Environ, https: bool) -> str:
    if name == "set-cookie":
        return cookie(value, https)
    if name == "location":
        return _relative(value, environ)
    return value


def _relative(location: str, environ: Environ) -> str:
    """The target of a redirect to this site, without its scheme and host.

    WebOb makes every Location absolute with the scheme that this server sees. Behind a proxy that terminates
    TLS, such a redirect would send the browser back to http.
    """
    try:
        parts = urlsplit(location)
    except ValueError:
        return location
    is_own = parts.scheme == environ.get("wsgi.url_scheme") and parts.netloc == environ.get("HTTP_HOST")
    if not is_own:
        return location
    path = parts.path or "/"
    # A path that begins with two slashes would be read as another host.
    return location if path.startswith("//") else parts._replace(scheme="", netloc="", path=path).geturl()
