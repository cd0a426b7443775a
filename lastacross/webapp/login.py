"""Determines who sent a request, and whether a handler's ``login`` admits them."""

import enum
from collections.abc import Mapping
from urllib.parse import quote, urlencode, urlsplit

from lastacross import config
from lastacross.accounts import ADMIN, LINK_NAME, Person
from lastacross.config import Handler, Settings
from lastacross.webapp import administrator, boundary, proxies, sessions
from lastacross.webapp.environ import (
    CRON,
    IS_CROSS_SITE,
    IS_OUTSIDE,
    SYSTEM,
    TASK,
    Environ,
    Refusal,
    path_of,
    wants_json,
)


class Visitor(enum.Enum):
    """The kinds of requesters."""

    ANYBODY = "anybody"
    USER = "user"
    ADMINISTRATOR = "administrator"
    TASK = "task"
    CRON = "cron"
    SYSTEM = "system"


# As on App Engine, pages for signed-in users do not admit tasks and cron. The request that a process makes
# when it starts or stops is not for a page, so `login: required` on all URLs must not block it.
ADMITTED: Mapping[str, frozenset[Visitor]] = {
    "optional": frozenset(Visitor),
    "required": frozenset({Visitor.USER, Visitor.ADMINISTRATOR, Visitor.SYSTEM}),
    "admin": frozenset({Visitor.ADMINISTRATOR, Visitor.TASK, Visitor.CRON, Visitor.SYSTEM}),
}

# The page where people sign in with a password, and its parameter for the path to return to.
SIGN_IN_PATH = "/_ah/signin"
CONTINUE = "continue"
MAX_CONTINUE_CHARACTERS = 2_000

SIGN_IN = "To sign in, run `lastacross admin link` on this site's machine and open the printed link."
SET_PASSWORD = "To let people sign in with a password, run `lastacross admin set-password NAME` there."
ONLY_VIEWER = "Your account is a viewer's: it may look at everything here and change nothing."
LED_HERE = (
    "If you are signed in, a page on another site sent you here, and your sign-in applies only to requests "
    "from this site. Open the address again from the address bar."
)


def visitor(environ: Environ, settings: Settings) -> Visitor:
    """The kind of this request's sender."""
    if environ.get(IS_CROSS_SITE):
        # The browser's user did not intend this request, whoever the user is.
        return Visitor.ANYBODY
    if environ.get(IS_OUTSIDE):
        person = person_of(environ, settings)
        if person is None:
            return Visitor.ANYBODY
        return Visitor.ADMINISTRATOR if person.is_admin else Visitor.USER
    if environ.get(SYSTEM):
        return Visitor.SYSTEM
    if environ.get(TASK):
        return Visitor.TASK
    return Visitor.CRON if environ.get(CRON) else Visitor.ANYBODY


def signed_in(environ: Environ) -> Person | None:
    """The signed-in person who sent this request; None for anybody else, and for tasks and cron.

    Args:
        environ: the request's WSGI environ.
    """
    return person_of(environ, config.current().settings)


def person_of(environ: Environ, settings: Settings) -> Person | None:
    """The person who sent this request from outside, according to these settings; None if nobody has signed
    in.

    A sign-in counts only if no other origin's page led here. Other ports and other subdomains of the same
    domain are the same site for SameSite, and a GET from such a page must not start a cron job.
    """
    if environ.get(IS_CROSS_SITE) or not environ.get(IS_OUTSIDE):
        return None
    person = recognized(environ, settings)
    return None if person is None or boundary.comes_from_elsewhere(environ) else person


def recognized(environ: Environ, settings: Settings) -> Person | None:
    """The person whose browser sent this request, possibly because another site's page led it here."""
    if administrator.has_cookie(environ, settings.secret_key):
        return Person(LINK_NAME, ADMIN, "link")
    return sessions.person_of(environ, settings.secret_key) or proxies.person_of(environ, settings)


def leads_here_from_elsewhere(environ: Environ) -> bool:
    """Whether another site's page led to this address, in which case a valid sign-in does not count."""
    return boundary.comes_from_elsewhere(environ)


def is_administrator(environ: Environ, settings: Settings) -> bool:
    """Whether an administrator sent this request, and no other origin's page led here."""
    person = recognized(environ, settings)
    return person is not None and person.is_admin and not boundary.comes_from_elsewhere(environ)


def for_administrator(environ: Environ) -> str:
    """A message that a page is only for the administrator, with instructions to sign in."""
    hints = [SIGN_IN, LED_HERE] if boundary.comes_from_elsewhere(environ) else [SIGN_IN]
    return " ".join(["This page is only for the administrator.", *hints])


def refusal_of_console(who: Visitor, environ: Environ, settings: Settings) -> Refusal | None:
    """The reason why the console does not admit this visitor, or None if it does."""
    is_safe = environ.get("REQUEST_METHOD") in boundary.SAFE_METHODS
    if who is Visitor.ADMINISTRATOR or (who is Visitor.USER and is_safe):
        return None
    if who is Visitor.USER:
        return Refusal(403, ONLY_VIEWER)
    if who is not Visitor.ANYBODY:
        return Refusal(403, "The console is only for people.")
    unlisted = proxies.unlisted_user(environ, settings)
    if unlisted is not None:
        return Refusal(403, f"{unlisted} is named neither in LASTACROSS_ADMINS nor in LASTACROSS_VIEWERS.")
    return _to_sign_in(environ) or Refusal(403, f"{for_administrator(environ)} {SET_PASSWORD}")


def _to_sign_in(environ: Environ) -> Refusal | None:
    """The redirect to the sign-in page and back; None if the client or the site cannot use it."""
    if wants_json(environ) or path_of(environ).endswith(".json") or not sessions.has_accounts():
        return None
    query = urlencode({CONTINUE: _path_to_continue(environ)})
    # A browser follows 303 with a GET, even if it has just sent a form.
    return Refusal(303, "Please sign in.", [("Location", f"{SIGN_IN_PATH}?{query}")])


def _path_to_continue(environ: Environ) -> str:
    """The page to show after the sign-in: the requested one, or the one with the form that was sent."""
    if environ.get("REQUEST_METHOD") in boundary.SAFE_METHODS:
        path = quote(environ.get("PATH_INFO") or "/", safe="/:@!$&'()*+,;=~-._", encoding="latin-1")
        query = environ.get("QUERY_STRING")
    elif environ.get("HTTP_REFERER") and not boundary.comes_from_elsewhere(environ):
        referer = urlsplit(str(environ["HTTP_REFERER"]))
        path, query = referer.path or "/", referer.query
    else:
        return "/"
    whole = f"{path}?{query}" if query else path
    return next((each for each in (whole, path) if len(each) <= MAX_CONTINUE_CHARACTERS), "/")


def refusal(handler: Handler, who: Visitor, environ: Environ) -> Refusal | None:
    """The reason why this handler does not admit this visitor, or None if it does."""
    if who in ADMITTED[handler.login]:
        return None
    message = "This page is only for signed-in users."
    if handler.login == "admin":
        message = for_administrator(environ)
    if who is not Visitor.ANYBODY:
        return Refusal(403, message)
    if handler.auth_fail_action == "unauthorized":
        return Refusal(401, message, [("WWW-Authenticate", "LastAcross")])
    return _to_sign_in(environ) or Refusal(403, message)
