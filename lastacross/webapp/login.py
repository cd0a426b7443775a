"""Who is asking, and whether a handler's ``login`` admits them."""

import enum
import ipaddress
from collections.abc import Mapping

from lastacross.config import Handler, Settings
from lastacross.webapp.environ import CRON, IS_CROSS_SITE, IS_OUTSIDE, SYSTEM, TASK, Environ, Refusal


class Visitor(enum.Enum):
    """Who makes a request."""

    ANYBODY = "anybody"
    USER = "user"
    ADMINISTRATOR = "administrator"
    TASK = "task"
    CRON = "cron"
    SYSTEM = "system"


# As on App Engine: what is made for people who signed in does not admit tasks and cron. A process that
# starts or ends does not come to a page: `login: required` over all URLs must not keep it from starting.
ADMITTED: Mapping[str, frozenset[Visitor]] = {
    "optional": frozenset(Visitor),
    "required": frozenset({Visitor.USER, Visitor.ADMINISTRATOR, Visitor.SYSTEM}),
    "admin": frozenset({Visitor.ADMINISTRATOR, Visitor.TASK, Visitor.CRON, Visitor.SYSTEM}),
}

# What proxies add. Some add only one of these, some none: those must not be put before `dev`.
_PROXY_HEADERS = (
    "HTTP_FORWARDED",
    "HTTP_X_FORWARDED_",
    "HTTP_VIA",
    "HTTP_X_REAL_IP",
    "HTTP_X_CLIENT_IP",
    "HTTP_CLIENT_IP",
    "HTTP_TRUE_CLIENT_IP",
    "HTTP_CF_",
)


def visitor(environ: Environ, settings: Settings) -> Visitor:
    """Who makes this request."""
    if environ.get(IS_CROSS_SITE):
        # Whoever's browser it was, the request is not his.
        return Visitor.ANYBODY
    if environ.get(IS_OUTSIDE):
        return Visitor.ADMINISTRATOR if is_administrator(environ, settings) else Visitor.ANYBODY
    if environ.get(SYSTEM):
        return Visitor.SYSTEM
    if environ.get(TASK):
        return Visitor.TASK
    return Visitor.CRON if environ.get(CRON) else Visitor.ANYBODY


def is_administrator(environ: Environ, settings: Settings) -> bool:
    """Whether this is the developer at the machine: there is no other administrator yet.

    Only under ``dev``, bound to loopback, from loopback, and not through a proxy: one on this
    machine would make everybody look like it.
    """
    return (
        settings.is_dev
        and is_loopback(settings.host)
        and is_loopback(str(environ.get("REMOTE_ADDR") or ""))
        and not any(key.startswith(_PROXY_HEADERS) for key in environ)
    )


def is_loopback(address: str) -> bool:
    """Whether an address or a host's name is this machine's loopback."""
    if address == "localhost":
        return True
    try:
        found = ipaddress.ip_address(address.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    mapped = getattr(found, "ipv4_mapped", None)
    return (mapped or found).is_loopback


def refusal(handler: Handler, who: Visitor) -> Refusal | None:
    """Why this handler does not admit this visitor, None if it does."""
    if who in ADMITTED[handler.login]:
        return None
    for_whom = "the administrator" if handler.login == "admin" else "people who have signed in"
    message = f"This page is for {for_whom}."
    # `redirect` leads to a page to sign in at; while there is none, it is a plain no.
    if handler.auth_fail_action == "unauthorized" and who is Visitor.ANYBODY:
        return Refusal(401, message, [("WWW-Authenticate", "LastAcross")])
    return Refusal(403, message)
