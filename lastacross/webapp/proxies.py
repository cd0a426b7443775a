"""Finds the client behind proxies: its address, scheme and requested host.

A company's proxy may also name the signed-in user in a header (LASTACROSS_USER_HEADER).

There are two layers. The outermost layer trusts the proxies listed in LASTACROSS_TRUSTED_PROXIES and drops
all forwarding headers, so that no inner layer reads them differently; WebOb, for example, takes the left-most
address, which the client itself wrote. The inner layer, where error pages are available, refuses unreadable
headers.
"""

import ipaddress
import itertools
from collections.abc import Sequence

from lastacross import logs
from lastacross.accounts import ADMIN, VIEWER, Person
from lastacross.config import Settings
from lastacross.webapp import clients, forwarding, request_limits
from lastacross.webapp.environ import (
    HAS_UNDECLARED_PROXY,
    PROXY_USER,
    Body,
    Environ,
    Layer,
    Refusal,
    Refuse,
    Start,
    Wsgi,
)
from lastacross.webapp.forwarding import Address, UnclearForwardingError

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# Proxies describe the client in these headers. `Via` is not among them, because a proxy that the browser uses
# adds it, too.
HEADERS = (
    "HTTP_FORWARDED",
    "HTTP_X_FORWARDED",
    "HTTP_X_REAL_IP",
    "HTTP_X_CLIENT_IP",
    "HTTP_CLIENT_IP",
    "HTTP_TRUE_CLIENT_IP",
    "HTTP_CF_CONNECTING_IP",
)
REMEDY = (
    "list it in LASTACROSS_TRUSTED_PROXIES if it is yours; until then, its headers about the client are "
    "ignored, and all of its visitors share one per-client limit"
)

MAX_USER_CHARACTERS = 200
ANYBODY = "*"
"""In LASTACROSS_VIEWERS: everyone whom the proxy names."""

_UNCLEAR = "lastacross.unclear_forwarding"

_log = logs.get(__name__)


def layer(trusted: Sequence[Network], user_header: str = "") -> Layer:
    """Set REMOTE_ADDR, ``wsgi.url_scheme`` and HTTP_HOST to the values that a trusted proxy reports.

    Drop such headers from anyone else, set ``HAS_UNDECLARED_PROXY``, and log this once.

    Args:
        trusted: the proxies' networks.
        user_header: the name of the header in which a trusted proxy names the signed-in user; '' for none.
    """
    user_key = f"HTTP_{user_header.upper().replace('-', '_')}" if user_header else ""

    def is_trusted(address: Address) -> bool:
        return any(address in network for network in trusted)

    def behind(application: Wsgi) -> Wsgi:
        undeclared = itertools.count()

        def corrected(environ: Environ, start_response: Start) -> Body:
            if user_key in environ:
                _take_user(environ, user_key, is_trusted)
            given = [key for key in environ if key.startswith(HEADERS)]
            if given:
                peer = _peer(environ)
                if peer is not None and is_trusted(peer):
                    refusal = _believe(environ, given, is_trusted)
                    if refusal is not None:
                        environ[_UNCLEAR] = refusal
                else:
                    environ[HAS_UNDECLARED_PROXY] = True
                    if next(undeclared) == 0:
                        _warn(environ, given)
                for key in given:
                    del environ[key]
            return application(environ, start_response)

        return corrected

    return behind


def refuse_unclear(refuse: Refuse) -> Layer:
    """Refuse a trusted proxy's headers if they are too long or ambiguous."""

    def outer(application: Wsgi) -> Wsgi:
        def checked(environ: Environ, start_response: Start) -> Body:
            refusal: Refusal | None = environ.get(_UNCLEAR)
            if refusal is not None:
                return refuse(environ, start_response, refusal)
            return application(environ, start_response)

        return checked

    return outer


def person_of(environ: Environ, settings: Settings) -> Person | None:
    """The person whom a trusted proxy names; None if it names nobody, or a user who is not listed."""
    user = environ.get(PROXY_USER)
    if user is None:
        return None
    if user.lower() in settings.admins:
        return Person(user, ADMIN, "proxy")
    is_viewer = user.lower() in settings.viewers or ANYBODY in settings.viewers
    return Person(user, VIEWER, "proxy") if is_viewer else None


def unlisted_user(environ: Environ, settings: Settings) -> str | None:
    """The user whom a trusted proxy names, if no list contains that name."""
    user: str | None = environ.get(PROXY_USER)
    return user if user is not None and person_of(environ, settings) is None else None


def _take_user(environ: Environ, key: str, is_trusted: forwarding.IsTrusted) -> None:
    """Believe a trusted proxy's header about the user, and drop it from anybody else."""
    peer = _peer(environ)
    if peer is None or not is_trusted(peer):
        del environ[key]
        return
    user = str(environ[key]).strip()
    # A comma joins two headers with the same name, the first of which may be the client's.
    if user and len(user) <= MAX_USER_CHARACTERS and "," not in user and user.isprintable():
        environ[PROXY_USER] = user


def network_of_peer(trusted: Sequence[Network], peer: object) -> str | None:
    """The network that a connection's limits are counted against; None for a trusted proxy.

    Args:
        trusted: the proxies' networks.
        peer: the connection's address, as the socket reports it.
    """
    environ: Environ = {"REMOTE_ADDR": peer[0]} if isinstance(peer, tuple) else {}
    address = _peer(environ)
    if address is None or any(address in network for network in trusted):
        return None
    return clients.network_of(environ)


def _peer(environ: Environ) -> Address | None:
    """The peer's address; None if the peer has none, because it uses a Unix socket."""
    try:
        # In a link-local address the % is followed by the interface.
        return forwarding.plain(ipaddress.ip_address(str(environ.get("REMOTE_ADDR", "")).partition("%")[0]))
    except ValueError:
        return None


def _believe(environ: Environ, given: Sequence[str], is_trusted: forwarding.IsTrusted) -> Refusal | None:
    """Set the client's details from the proxy's headers; returns a refusal if they cannot be read."""
    for key in given:
        if request_limits.is_too_long(key, environ[key]):
            return request_limits.refusal_of(key)
    try:
        said = forwarding.read(environ, is_trusted)
    except UnclearForwardingError as error:
        return Refusal(400, str(error))
    for key, value in (
        ("REMOTE_ADDR", said.client),
        ("wsgi.url_scheme", said.scheme),
        ("HTTP_HOST", said.host),
    ):
        if value is not None:
            environ[key] = value
    if said.client is not None:
        environ.pop("REMOTE_PORT", None)
    return None


def _warn(environ: Environ, given: list[str]) -> None:
    names = sorted(key.removeprefix("HTTP_").replace("_", "-").title() for key in given)
    _log.warning("proxy.undeclared", address=environ.get("REMOTE_ADDR"), headers=names[:10], remedy=REMEDY)
