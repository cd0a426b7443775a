"""Signs the administrator in, by exchanging a one-time code for a signed cookie.

``lastacross dev`` and ``lastacross admin link`` create a code with SECRET_KEY and Redis. Redis holds the
digests of unused codes, so each code works once across all machines, and none works after Redis has been
flushed. Because the code is also signed, write access to Redis alone is not enough to forge one. The cookie
is a signature that can be checked without Redis, so the administrator can still see what is wrong while Redis
is unavailable.
"""

import contextlib
import functools
import hashlib
import hmac
import secrets
import threading
from typing import Any

from lastacross import store
from lastacross.clock import SYSTEM, Clock
from lastacross.errors import BadSignatureError, StoreUnavailableError
from lastacross.signing import Signatures
from lastacross.store import SIGN_IN_PREFIX, SIGN_OUT_PREFIX, Store
from lastacross.webapp import cookies
from lastacross.webapp.environ import Environ

PATH = "/_ah/sign-in"
CODE_SECONDS = 3600
COOKIE_SECONDS = 7 * 86_400
# How long a process may keep accepting a cookie after a sign-out in another process.
TRUST_SECONDS = 5.0

_CODE, _COOKIE = "sign-in", "administrator"
_COOKIE_NAME = "lastacross_admin"
# The length of our cookies is always in this range, so we do not compute a signature for a value of any other
# length.
_CHARACTERS = range(40, 120)


# --- codes --------------------------------------------------------------------------------


def new_code(secret_key: str, opened: Store) -> str:
    """Create a code that can be used to sign in once within the next hour.

    Raises:
        StoreUnavailableError: Redis cannot store the code.
    """
    code = Signatures(secret_key).dump_token(_CODE, secrets.token_urlsafe(24))
    with store.translated_errors():
        opened.redis.set(_key(SIGN_IN_PREFIX, code), b"1", ex=CODE_SECONDS)
    return code


def use_code(secret_key: str, code: str) -> bool:
    """Use up the code; returns whether it was valid.

    Raises:
        StoreUnavailableError: Redis cannot check the code.
    """
    try:
        Signatures(secret_key).load_token(_CODE, code, CODE_SECONDS)
    except BadSignatureError:
        return False
    with store.translated_errors():
        return bool(store.current().redis.delete(_key(SIGN_IN_PREFIX, code)))


def link(site_url: str, code: str) -> str:
    """The sign-in address. Browsers never send the part after #, so it appears in no log and no Referer."""
    return f"{site_url.rstrip('/')}{PATH}#{code}"


def _key(prefix: str, token: str) -> str:
    return prefix + hashlib.sha256(token.encode()).hexdigest()


# --- the cookie ---------------------------------------------------------------------------


@functools.lru_cache(maxsize=8)
def cookie_name(secret_key: str) -> str:
    """The cookie's name, unique per installation, because browsers ignore ports when they match cookies."""
    digest = hmac.digest(secret_key.encode(), b"lastacross.administrator's cookie", "sha256")
    return f"{_COOKIE_NAME}_{digest.hex()[:12]}"


def new_cookie(secret_key: str) -> str:
    """The value of a cookie that makes its bearer the administrator."""
    return Signatures(secret_key).dump_token(_COOKIE, secrets.token_urlsafe(12))


def set_cookie(secret_key: str, value: str, seconds: int = COOKIE_SECONDS) -> tuple[str, str]:
    """The header that sets the cookie in a browser, or that deletes it if ``seconds`` is 0.

    Over HTTPS, ``secure`` in security_headers adds ``Secure`` to every cookie.
    """
    attributes = f"Max-Age={seconds}; Path=/; HttpOnly; SameSite=Strict"
    return "Set-Cookie", f"{cookie_name(secret_key)}={value}; {attributes}"


def has_cookie(environ: Environ, secret_key: str) -> bool:
    """Whether the request has a valid cookie whose sign-in has neither expired nor been revoked."""
    return any(not _signed_out.has(sign_in) for sign_in in _sign_ins(environ, secret_key))


def sign_out(environ: Environ, secret_key: str) -> bool:
    """Invalidate this request's cookies, including any copies of them.

    Returns:
        Whether any of the cookies was valid.

    Raises:
        StoreUnavailableError: Redis cannot record the sign-out, so a copy of the cookie stays valid until it
            expires.
    """
    ended = [end_sign_in(sign_in, COOKIE_SECONDS) for sign_in in _sign_ins(environ, secret_key)]
    return any(ended)


def end_sign_in(sign_in: str, seconds: int) -> bool:
    """Invalidate the cookies of one sign-in; returns whether they were valid.

    Args:
        sign_in: the sign-in's id.
        seconds: the maximum lifetime of a cookie.

    Raises:
        StoreUnavailableError: as for ``sign_out``.
    """
    with store.translated_errors():
        is_new = store.current().redis.set(_key(SIGN_OUT_PREFIX, sign_in), b"1", ex=seconds, nx=True)
    _signed_out.forget(sign_in)
    return bool(is_new)


def is_signed_out(sign_in: str) -> bool:
    """Whether this sign-in has ended; the answer may be up to five seconds out of date."""
    return _signed_out.has(sign_in)


def _sign_ins(environ: Environ, secret_key: str) -> list[str]:
    """The sign-in ids in the request's valid cookies.

    This compares ids rather than cookies, because base64 can encode one signature in several ways.
    """
    header = str(environ.get("HTTP_COOKIE", ""))
    if not header or not secret_key:
        return []
    found = []
    for value in cookies.values_of(header, cookie_name(secret_key)):
        if len(value) not in _CHARACTERS:
            continue
        with contextlib.suppress(BadSignatureError):
            found.append(str(Signatures(secret_key).load_token(_COOKIE, value, COOKIE_SECONDS)))
    return found


class _SignedOut:
    """Tracks which sign-ins have ended by polling Redis for each one every few seconds.

    If Redis is unavailable, the sign-in stays valid, because its signature is valid and an outage is when the
    administrator is needed.
    """

    def __init__(self, clock: Clock = SYSTEM) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._cached: dict[str, tuple[float, bool]] = {}

    def has(self, sign_in: str) -> bool:
        """Whether this sign-in has ended."""
        now = self._clock.monotonic()
        until, is_out = self._cached.get(sign_in, (0.0, False))
        if now >= until:
            is_out = self._ask(sign_in)
            with self._lock:
                for old in [key for key, (end, _) in self._cached.items() if now >= end]:
                    del self._cached[old]
                self._cached[sign_in] = self._clock.monotonic() + TRUST_SECONDS, is_out
        return is_out

    def forget(self, sign_in: str) -> None:
        """Drop the cached response for this sign-in."""
        with self._lock:
            self._cached.pop(sign_in, None)

    @staticmethod
    def _ask(sign_in: str) -> bool:
        try:
            with store.translated_errors():
                answer: Any = store.current().redis.exists(_key(SIGN_OUT_PREFIX, sign_in))
        except StoreUnavailableError as error:
            store.current().end_wait(error)
            return False
        return bool(answer)


_signed_out = _SignedOut()
