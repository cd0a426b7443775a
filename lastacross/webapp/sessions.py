"""Keeps people signed in after they gave a password, with a signed cookie that the server can revoke.

The cookie names the account and repeats its ``session_key``. It is valid for twelve hours, unless the browser
signs out, the password changes, or the account is removed. Each process asks the datastore and Redis about a
session at most every five seconds.
"""

import contextlib
import functools
import hmac
import secrets
import threading
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING

from lastacross import accounts, logs
from lastacross.accounts import Person
from lastacross.clock import SYSTEM, Clock
from lastacross.errors import BadSignatureError, DatastoreError
from lastacross.signing import Signatures
from lastacross.webapp import administrator, cookies
from lastacross.webapp.environ import Body, Environ, Headers, Start, is_https

if TYPE_CHECKING:
    from lastacross.accounts import KnownAccount

SESSION_SECONDS = 12 * 3600
# How long a process may rely on what it knows about an account: as long as for an administrator's sign-in.
TRUST_SECONDS = administrator.TRUST_SECONDS
# Only names of real accounts are kept, because the cookie is signed.
MAX_KEPT = 1_000

_PURPOSE = "session"
# Our cookies are always shorter, so we do not compute a signature for any longer value.
_MAX_CHARACTERS = 400
# A browser accepts a cookie with this prefix only over HTTPS, from this very host and for all paths, so no
# other host in the same domain can plant one.
_HOST_PREFIX = "__Host-"

_log = logs.get(__name__)


@dataclass(frozen=True, slots=True)
class Session:
    """A valid cookie's content.

    Attributes:
        name: the account's name.
        key: the account's ``session_key`` at the time of the sign-in.
        id: a random string that distinguishes this sign-in.
    """

    name: str
    key: str
    id: str


def new_cookie(secret_key: str, account: "KnownAccount") -> str:
    """The value of a cookie that signs its bearer in to this account."""
    content = [account.name, account.session_key, secrets.token_urlsafe(12)]
    return Signatures(secret_key).dump_token(_PURPOSE, content)


def set_cookie(
    secret_key: str, value: str, environ: Environ, seconds: int = SESSION_SECONDS
) -> tuple[str, str]:
    """The header that sets the cookie in a browser, or that deletes it if ``seconds`` is 0.

    SameSite is Lax, so that a link in a message leads a signed-in person to a page that asks for
    confirmation.
    """
    secure = "; Secure" if is_https(environ) else ""
    attributes = f"Max-Age={seconds}; Path=/; HttpOnly; SameSite=Lax{secure}"
    return "Set-Cookie", f"{cookie_name(secret_key, is_https(environ))}={value}; {attributes}"


@functools.lru_cache(maxsize=8)
def cookie_name(secret_key: str, https: bool) -> str:
    """The cookie's name, unique per installation, because browsers ignore ports when they match cookies."""
    digest = hmac.digest(secret_key.encode(), b"lastacross.session's cookie", "sha256")
    return f"{_HOST_PREFIX if https else ''}lastacross_session_{digest.hex()[:12]}"


def person_of(environ: Environ, secret_key: str) -> Person | None:
    """The person whose session this request belongs to; None without a valid session."""
    for session in _sessions(environ, secret_key):
        account = _known_accounts.find(session.name)
        if account is None or account.session_key != session.key:
            continue
        if not administrator.is_signed_out(session.id):
            return Person(account.name, account.role, "password")
    return None


def sign_out(environ: Environ, secret_key: str) -> bool:
    """End this request's sessions, including any copies of their cookies; returns whether there were any.

    Raises:
        StoreUnavailableError: Redis cannot record the sign-out, so a copy of the cookie stays valid until it
            expires.
    """
    ended = [
        administrator.end_sign_in(session.id, SESSION_SECONDS) for session in _sessions(environ, secret_key)
    ]
    return any(ended)


def see_other(start_response: Start, path: str, cookies: Headers) -> Body:
    """Redirect with 303 to a path of this application, and set or delete these cookies."""
    headers: Headers = [("Location", path), ("Content-Length", "0"), ("Cache-Control", "no-store"), *cookies]
    start_response(f"303 {HTTPStatus(303).phrase}", headers)
    return []


def has_accounts() -> bool:
    """Whether anybody can sign in with a password; False if the datastore cannot tell."""
    return _known_accounts.has_any()


def _sessions(environ: Environ, secret_key: str) -> list[Session]:
    """The sessions of the request's cookies that have our signature and are not too old."""
    header = str(environ.get("HTTP_COOKIE", ""))
    if not header or not secret_key:
        return []
    found = []
    for value in cookies.values_of(header, cookie_name(secret_key, is_https(environ))):
        if len(value) > _MAX_CHARACTERS:
            continue
        with contextlib.suppress(BadSignatureError):
            content = Signatures(secret_key).load_token(_PURPOSE, value, SESSION_SECONDS)
            # Another release may sign more fields.
            found.append(Session(*(str(each) for each in content[:3])))
    return found


class _KnownAccounts:
    """The accounts of the current sessions, as they were no more than ``TRUST_SECONDS`` ago.

    While the datastore is unavailable, an account stays valid as this process last knew it, because an outage
    is when its owner is needed. An account that the process does not know counts as removed.
    """

    def __init__(self, clock: Clock = SYSTEM) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._kept: dict[str, tuple[float, KnownAccount | None]] = {}
        self._any: tuple[float, bool] = (0.0, False)

    def find(self, name: str) -> "KnownAccount | None":
        """The account with this name, or None."""
        until, account = self._kept.get(name, (0.0, None))
        if self._clock.monotonic() >= until:
            account = self._ask(name, account)
            with self._lock:
                if len(self._kept) >= MAX_KEPT:
                    self._kept.clear()
                self._kept[name] = self._clock.monotonic() + TRUST_SECONDS, account
        return account

    def has_any(self) -> bool:
        """Whether there is an account."""
        until, has_any = self._any
        if self._clock.monotonic() >= until:
            try:
                has_any = accounts.has_any()
            except DatastoreError as error:
                _log.warning("session.unavailable", error=str(error))
            self._any = self._clock.monotonic() + TRUST_SECONDS, has_any
        return has_any

    def forget(self) -> None:
        """Ask again at the next request."""
        with self._lock:
            self._kept.clear()
            self._any = 0.0, False

    def _ask(self, name: str, last_known: "KnownAccount | None") -> "KnownAccount | None":
        try:
            return accounts.find(name)
        except DatastoreError as error:
            _log.warning("session.unavailable", error=str(error))
            return last_known


_known_accounts = _KnownAccounts()


def forget_accounts() -> None:
    """Clear the cached accounts. Call this after changing an account in this process."""
    _known_accounts.forget()
