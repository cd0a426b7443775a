"""The boundary to the outside world: strips reserved headers, refuses bad requests, and checks the host."""

import functools
import re
from collections.abc import Sequence
from urllib.parse import unquote_to_bytes, urlsplit

from lastacross.config import Handler
from lastacross.webapp import content_type
from lastacross.webapp.content_type import FORMS, MULTIPART
from lastacross.webapp.environ import (
    IS_CROSS_SITE,
    IS_OUTSIDE,
    Body,
    Environ,
    Layer,
    Refusal,
    Refuse,
    Start,
    Wsgi,
    expect_program,
    path_of,
)

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
# These are requested by machines that know our address but not our name, and the responses do not depend on
# Host.
PROBES = frozenset({"/_ah/health", "/_ah/ready", "/_ah/metrics"})

_OWN = "lastacross."
_RESERVED = (b"HTTPXAPPENGINE", b"HTTPXGOOGLE")
_NOT_ALPHANUMERIC = bytes(set(range(256)) - set(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"))
_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")
_DOT_SEGMENT = re.compile(r"(?:^|/)\.\.?(?:/|$)")


def strip_trusted(application: Wsgi) -> Wsgi:
    """Drop all keys that only the engine may set: ``X-AppEngine-*``, ``X-Google-*`` and ``lastacross.*``.

    Only the letters and digits of header names are compared, because ``X_AppEngine_TaskName`` has the same
    WSGI key as ``X-AppEngine-TaskName`` and servers differ in how they treat other characters.
    """

    def stripped(environ: Environ, start_response: Start) -> Body:
        for key in [key for key in environ if is_reserved(key)]:
            del environ[key]
        environ[IS_OUTSIDE] = True
        return application(environ, start_response)

    return stripped


def take_host_of_target(application: Wsgi) -> Wsgi:
    """Take the host from the request line if it names one (``GET http://host/ HTTP/1.1``).

    In that case the Host header must be ignored (RFC 9112, 3.2.2). This makes all layers check and use the
    same host.
    """

    def taken(environ: Environ, start_response: Start) -> Body:
        target = str(environ.get("RAW_URI", "/"))
        if not target.startswith("/") and "://" in target:
            environ["HTTP_HOST"] = _host_of(target)
        return application(environ, start_response)

    return taken


def _host_of(url: str) -> str:
    """The host and port of a URL; '' if they cannot be determined."""
    try:
        return urlsplit(url).netloc
    except ValueError:
        return ""


@functools.lru_cache(maxsize=256)
def is_reserved(key: str) -> bool:
    """Whether this environ key is one that only the engine may set."""
    # A name may be as long as a header, so avoid creating an object for each character.
    plain = key.upper().encode("latin-1", "replace").translate(None, _NOT_ALPHANUMERIC)
    return key.lower().startswith(_OWN) or plain.startswith(_RESERVED)


def check_request(allowed_hosts: tuple[str, ...], refuse: Refuse) -> Layer:
    """Refuse a foreign Host, an ambiguous address, or an unreadable form.

    Redirects, links in emails and Origin checks all rely on Host. A foreign Host is therefore either an
    attack or a host missing from LASTACROSS_ALLOWED_HOSTS. DNS rebinding also needs a foreign Host.
    """

    def layer(application: Wsgi) -> Wsgi:
        def checked(environ: Environ, start_response: Start) -> Body:
            problem = _problem_of_path(environ)
            if problem is None and environ.get("PATH_INFO") not in PROBES:
                problem = host_problem(environ.get("HTTP_HOST"), allowed_hosts)
            if problem is None and (problem := _problem_of_form(environ)) is not None:
                expect_program(environ)
            if problem is not None:
                return refuse(environ, start_response, Refusal(400, problem))
            return application(environ, start_response)

        return checked

    return layer


def check_cross_site(handlers: Sequence[Handler], refuse: Refuse) -> Layer:
    """Refuse a POST (or another unsafe method) that another site made a browser send.

    Browsers state where a request comes from in Sec-Fetch-Site or, over plain HTTP, only in Origin; no page
    can forge either. A client that sends neither header is not a current browser. If the handler is marked
    ``cross_site: allow``, the request is accepted but treated as anonymous.
    """

    def layer(application: Wsgi) -> Wsgi:
        def checked(environ: Environ, start_response: Start) -> Body:
            if environ.get("REQUEST_METHOD") in SAFE_METHODS or not is_cross_site(environ):
                return application(environ, start_response)
            path = path_of(environ)
            handler = next((each for each in handlers if each.pattern.match(path)), None)
            if handler is not None and handler.allows_cross_site and not f"{path}/".startswith("/_ah/"):
                environ[IS_CROSS_SITE] = True
                return application(environ, start_response)
            message = "This request came from a page on another site, so it was refused."
            return refuse(environ, start_response, Refusal(403, message))

        return checked

    return layer


def is_cross_site(environ: Environ) -> bool:
    """Whether, according to the browser, a page from another origin made this request."""
    site = environ.get("HTTP_SEC_FETCH_SITE")
    if site is not None:
        return site not in ("same-origin", "none")
    origin = environ.get("HTTP_ORIGIN")
    if origin is None:
        return False
    return not _is_own(origin, environ)


def is_embedded(environ: Environ) -> bool:
    """Whether another origin's page embeds or fetches this URL rather than linking to it.

    According to Fetch Metadata, only a link, a redirect or the address bar navigates a whole page. Without
    those headers, only Origin reveals a cross-origin ``fetch()``, and nothing reveals an image.
    """
    leads_here = environ.get("HTTP_SEC_FETCH_MODE"), environ.get("HTTP_SEC_FETCH_DEST")
    return is_cross_site(environ) and leads_here != ("navigate", "document")


def comes_from_elsewhere(environ: Environ) -> bool:
    """Whether a page from another origin led here, by a link or otherwise; False without evidence.

    For a GET over plain HTTP, Referer is the evidence, because Sec-Fetch-Site and Origin are not sent.
    """
    if is_cross_site(environ) or "HTTP_SEC_FETCH_SITE" in environ:
        return is_cross_site(environ)
    referer = environ.get("HTTP_REFERER")
    return referer is not None and not _is_own(referer, environ)


def _is_own(url: str, environ: Environ) -> bool:
    # Compare only the hosts, because behind a proxy that terminates TLS our own scheme may look like http.
    host = _host_of(url).lower()
    return bool(host) and host == str(environ.get("HTTP_HOST", "")).lower()


def _problem_of_path(environ: Environ) -> str | None:
    path = environ.get("PATH_INFO", "").encode("latin-1", "replace")
    query = unquote_to_bytes(environ.get("QUERY_STRING", "").encode("latin-1", "replace"))
    if _CONTROL.search(path):
        return "The address contains a control character."
    try:
        text = path.decode()
        query.decode()
    except UnicodeDecodeError:
        return "The address is not UTF-8."
    if _DOT_SEGMENT.search(text):
        return "The address contains a `.` or `..` segment."
    return None


def _problem_of_form(environ: Environ) -> str | None:
    """The problem, if any, that would make WebOb raise an error before the handler reads a field."""
    if not environ.get("CONTENT_TYPE"):
        return None
    kind = content_type.parse(environ["CONTENT_TYPE"])
    if kind.kind == MULTIPART and kind.boundary is None:
        return "The form's Content-Type has no boundary."
    if kind.kind in FORMS and kind.charset is None:
        return "The form's charset is unknown."
    return None


ANY_HOST = "*"
_HOST = re.compile(
    r"(?P<name>\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._-]{1,253})(?::(?P<port>[0-9]{1,5}))?", re.ASCII
)


def split_host(host: str) -> tuple[str, str | None] | None:
    """The name and the port (None if absent), or None if this is not a valid host."""
    found = _HOST.fullmatch(host)
    return None if found is None else (found["name"], found["port"])


def host_problem(host: str | None, allowed: tuple[str, ...]) -> str | None:
    """The problem with this Host header, as a sentence for its sender; None if it is fine.

    Args:
        host: the header, with or without a port.
        allowed: names in lower case; ``*`` allows any host, ``.example.com`` allows that name and all its
            subdomains.
    """
    found = split_host(host or "")
    if found is None:
        return "The Host header is missing or is not a valid host name."
    name = found[0].lower().removesuffix(".")
    if any(_matches(name, entry) for entry in allowed):
        return None
    return f"This server does not serve the host {name}."


def is_listed_host(host: str, allowed: tuple[str, ...]) -> bool:
    """Whether the host is explicitly listed as one of ours; ``*`` does not count."""
    return host_problem(host, tuple(entry for entry in allowed if entry != ANY_HOST)) is None


def _matches(name: str, entry: str) -> bool:
    if entry.startswith("."):
        return name == entry[1:] or name.endswith(entry)
    return entry in (ANY_HOST, name)
