"""Determines who sent a request, and whether a handler's ``login`` admits them."""

import enum
from collections.abc import Mapping

from lastacross import config
from lastacross.accounts import ADMIN, Person
from lastacross.config import Handler, Settings
from lastacross.webapp import administrator, boundary
from lastacross.webapp.environ import CRON, IS_CROSS_SITE, IS_OUTSIDE, SYSTEM, TASK, Environ, Refusal


class Visitor(enum.Enum):
    """The kinds of requesters."""

    ANYBODY = "anybody"
    USER = "user"
    ADMINISTRATOR = "administrator"
    TASK = "task"
    CRON = "cron"
    SYSTEM = "system"


# As on App Engine, pages for signed-in users do not admit tasks and cron. The request of a starting or
# stopping process is not for a page, so `login: required` on all URLs must not prevent it from starting.
ADMITTED: Mapping[str, frozenset[Visitor]] = {
    "optional": frozenset(Visitor),
    "required": frozenset({Visitor.USER, Visitor.ADMINISTRATOR, Visitor.SYSTEM}),
    "admin": frozenset({Visitor.ADMINISTRATOR, Visitor.TASK, Visitor.CRON, Visitor.SYSTEM}),
}

SIGN_IN = "To sign in, run `lastacross admin link` on this site's machine and open the printed link."
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
    """The person who sent this request from outside, under these settings; None if nobody has signed in."""
    if environ.get(IS_CROSS_SITE) or not environ.get(IS_OUTSIDE):
        return None
    return Person("administrator", ADMIN, "link") if is_administrator(environ, settings) else None


def is_administrator(environ: Environ, settings: Settings) -> bool:
    """Whether the administrator sent this request: it has the cookie and does not come from another origin.

    SameSite=Strict treats other ports and other subdomains of the same domain as the same site. A GET from
    such a page must not start a cron job's work.
    """
    return administrator.has_cookie(environ, settings.secret_key) and not boundary.comes_from_elsewhere(
        environ
    )


def for_administrator(environ: Environ) -> str:
    """A message that a page is only for the administrator, with instructions to sign in."""
    hints = [SIGN_IN, LED_HERE] if boundary.comes_from_elsewhere(environ) else [SIGN_IN]
    return " ".join(["This page is only for the administrator.", *hints])


def refusal_of_console(who: Visitor, environ: Environ) -> Refusal | None:
    """The reason why the console does not admit this visitor, or None if it does."""
    if who is Visitor.ADMINISTRATOR:
        return None
    if who is not Visitor.USER:
        return Refusal(403, for_administrator(environ))
    return None if environ.get("REQUEST_METHOD") in boundary.SAFE_METHODS else Refusal(403, ONLY_VIEWER)


def refusal(handler: Handler, who: Visitor, environ: Environ) -> Refusal | None:
    """The reason why this handler does not admit this visitor, or None if it does."""
    if who in ADMITTED[handler.login]:
        return None
    message = "This page is only for signed-in users."
    if handler.login == "admin":
        message = for_administrator(environ)
    # App Engine's `redirect` leads to a sign-in page; we have none, so we simply refuse.
    if handler.auth_fail_action == "unauthorized" and who is Visitor.ANYBODY:
        return Refusal(401, message, [("WWW-Authenticate", "LastAcross")])
    return Refusal(403, message)
