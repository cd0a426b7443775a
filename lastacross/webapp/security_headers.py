"""Adds security headers, which restrict what a page may do, to every response including errors."""

from urllib.parse import urlsplit

from lastacross.webapp.environ import Body, Environ, Headers, Start, Wsgi, intercept, is_https

CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'self'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
        "form-action 'self'",
        "object-src 'none'",
    )
)
# The defaults for headers that a response does not set. Referrer-Policy is not no-referrer, which would turn
# the Origin of a page's own POST into `null`. Over plain HTTP, Origin is the only header that
# check_cross_site can use. The value same-origin reveals no more than no-referrer to other sites.
DEFAULTS = (
    ("Content-Security-Policy", CONTENT_SECURITY_POLICY),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "same-origin"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
)
STRICT_TRANSPORT_SECURITY = ("Strict-Transport-Security", "max-age=31536000")
# Headers that reveal versions to an attacker.
DROPPED = frozenset({"server", "x-powered-by", "x-aspnet-version", "x-generator"})


def layer(application: Wsgi) -> Wsgi:
    """Add the security headers to each response, and fix its cookies and redirects."""

    def secured(environ: Environ, start_response: Start) -> Body:
        return application(
            environ, intercept(start_response, lambda _status, headers: secure(headers, environ))
        )

    return secured


def secure(headers: Headers, environ: Environ) -> Headers:
    """A response's headers plus ours; policies that the response already has stay unchanged."""
    https = is_https(environ)
    kept = [
        (name, _mend(name.lower(), value, environ, https))
        for name, value in headers
        if name.lower() not in DROPPED
    ]
    given = {name.lower() for name, _ in kept}
    wanted = [*DEFAULTS, STRICT_TRANSPORT_SECURITY] if https else DEFAULTS
    return kept + [(name, value) for name, value in wanted if name.lower() not in given]


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
