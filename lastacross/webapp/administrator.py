"""The administrator's sign-in: a code that works once, and the signed cookie that it is exchanged for.

``lastacross dev`` and ``lastacross admin link`` make a code, with SECRET_KEY and Redis. Redis has the digests
of those that are unused, so that each works once on all machines, and none after Redis was emptied; the
signature keeps out who can write to Redis alone. The cookie is a signature and needs no Redis, so that the
administrator can see what is wrong while that is unavailable.
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
# So long a process may go on believing a cookie that was signed out at another.
TRUST_SECONDS = 5.0

_CODE, _COOKIE = "sign-in", "administrator"
_COOKIE_NAME = "lastacross_admin"
# No cookie of ours has a value of another length, so that no signature is computed for others.
_CHARACTERS = range(40, 120)


# --- codes --------------------------------------------------------------------------------


def new_code(secret_key: str, opened: Store) -> str:
    """A code that signs in once within the next hour.

    Raises:
        StoreUnavailableError: Redis cannot remember it.
    """
    code = Signatures(secret_key).dump_token(_CODE, secrets.token_urlsafe(24))
    with store.translated_errors():
        opened.redis.set(_key(SIGN_IN_PREFIX, code), b"1", ex=CODE_SECONDS)
    return code


def use_code(secret_key: str, code: str) -> bool:
    """Whether the code is good; from now on it is not.

    Raises:
        StoreUnavailableError: Redis cannot tell.
    """
    try:
        Signatures(secret_key).load_token(_CODE, code, CODE_SECONDS)
    except BadSignatureError:
        return False
    with store.translated_errors():
        return bool(store.current().redis.delete(_key(SIGN_IN_PREFIX, code)))


def link(site_url: str, code: str) -> str:
    """The address to open. Browsers send the part after # to no server, so no log and no Referer has it."""
    return f"{site_url.rstrip('/')}{PATH}#{code}"


def _key(prefix: str, token: str) -> str:
    return prefix + hashlib.sha256(token.encode()).hexdigest()


# --- the cookie ---------------------------------------------------------------------------


@functools.lru_cache(maxsize=8)
def cookie_name(secret_key: str) -> str:
    """The cookie's name. Each installation has its own: browsers do not tell the ports of a machine apart."""
    digest = hmac.digest(secret_key.encode(), b"lastacross.administrator's cookie", "sha256")
    return f"{_COOKIE_NAME}_{digest.hex()[:12]}"


def new_cookie(secret_key: str) -> str:
    """The value of a cookie that makes its bearer the administrator."""
    return Signatures(secret_key).dump_token(_COOKIE, secrets.token_urlsafe(12))


def set_cookie(secret_key: str, value: str, seconds: int = COOKIE_SECONDS) -> tuple[str, str]:
    """The header that gives a browser the cookie, and with 0 seconds takes it away.

    Over HTTPS ``Secure`` is added where all cookies get it.
    """
    attributes = f"Max-Age={seconds}; Path=/; HttpOnly; SameSite=Strict"
    return "Set-Cookie", f"{cookie_name(secret_key)}={value}; {attributes}"


def has_cookie(environ: Environ, secret_key: str) -> bool:
    """Whether the request has a cookie that is ours, is not too old, and was not signed out."""
    return any(not _signed_out.has(sign_in) for sign_in in _sign_ins(environ, secret_key))


def sign_out(environ: Environ, secret_key: str) -> bool:
    """Let the cookies of this request be worth nothing any more, copies of them included.

    Returns:
        Whether one of them was worth anything.

    Raises:
        StoreUnavailableError: Redis cannot remember them: a copy is good until it is too old.
    """
    was_signed_in = False
    for sign_in in _sign_ins(environ, secret_key):
        with store.translated_errors():
            key = _key(SIGN_OUT_PREFIX, sign_in)
            is_new = store.current().redis.set(key, b"1", ex=COOKIE_SECONDS, nx=True)
        was_signed_in = was_signed_in or bool(is_new)
        _signed_out.forget(sign_in)
    return was_signed_in


def _sign_ins(environ: Environ, secret_key: str) -> list[str]:
    """The ids that the good cookies of a request are signatures of.

    Not the cookies themselves: base64 has several spellings of one signature.
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
    """Which sign-ins have ended: Redis knows, and is asked for each every few seconds.

    One that cannot be asked for goes on: its signature holds, and the administrator is needed then.
    """

    def __init__(self, clock: Clock = SYSTEM) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._known: dict[str, tuple[float, bool]] = {}

    def has(self, sign_in: str) -> bool:
        """Whether this one has ended."""
        now = self._clock.monotonic()
        until, is_out = self._known.get(sign_in, (0.0, False))
        if now >= until:
            is_out = self._ask(sign_in)
            with self._lock:
                for old in [key for key, (end, _) in self._known.items() if now >= end]:
                    del self._known[old]
                self._known[sign_in] = self._clock.monotonic() + TRUST_SECONDS, is_out
        return is_out

    def forget(self, sign_in: str) -> None:
        """Ask anew for this one."""
        with self._lock:
            self._known.pop(sign_in, None)

    @staticmethod
    def _ask(sign_in: str) -> bool:
        try:
            with store.translated_errors():
                answer: Any = store.current().redis.exists(_key(SIGN_OUT_PREFIX, sign_in))
        except StoreUnavailableError:
            return False
        return bool(answer)


_signed_out = _SignedOut()
