"""Remembers a browser's runs by name in a signed cookie, so that only this browser can cancel them."""

import base64
import contextlib
import hashlib
from typing import Any

from lastacross import config
from lastacross.errors import BadSignatureError
from lastacross.signing import Signatures
from lastacross.webapp import cookies
from lastacross.webapp.environ import IS_CROSS_SITE, is_https

MAX_REMEMBERED = 50
REMEMBERED_SECONDS = 30 * 86_400

# Names may be long but the cookie must stay small, so it holds 96 bits of each name's digest; nobody can find
# a second name with the same bits.
_DIGEST_BYTES = 12


class SignedList:
    """A list of a browser's 50 newest strings, newest first, in one signed cookie.

    Args:
        cookie: the cookie's name.
        purpose: the signature's purpose.
    """

    def __init__(self, cookie: str, purpose: str) -> None:
        self._cookie = cookie
        self._purpose = purpose

    def read(self, request: Any) -> list[str]:
        """The strings; empty if the cookie is missing or has an invalid signature."""
        signatures, texts = _signatures(), list[str]()
        for value in cookies.values_of(request.environ.get("HTTP_COOKIE", ""), self._cookie):
            with contextlib.suppress(BadSignatureError):
                found = signatures.load_token(self._purpose, value)
                texts += found if isinstance(found, list) else []
        return [text for text in texts if isinstance(text, str)]

    def add(self, request: Any, response: Any, text: str) -> None:
        """Insert a string and keep the newest 50; ignore requests that another site made the browser send."""
        if request.environ.get(IS_CROSS_SITE):
            # The browser did not send its existing cookie, and a new one would replace it.
            return
        texts = [text, *(other for other in self.read(request) if other != text)]
        response.set_cookie(
            self._cookie,
            _signatures().dump_token(self._purpose, texts[:MAX_REMEMBERED]),
            max_age=REMEMBERED_SECONDS,
            path="/",
            httponly=True,
            secure=is_https(request.environ),
            samesite="Lax",
        )


_STARTED = SignedList("lastacross_started", "started")


def remember_started(request: Any, response: Any, name: str) -> None:
    """Enable this browser to prove later that it started the run with this name.

    The proof is a signed cookie of at most 1.5 kB for the newest 50 runs, kept for 30 days. Call it at most
    once per response.

    Args:
        request: the request that starts the run.
        response: the response to it.
        name: the run's name, which no other run of the application ever has, such as ``f"quilt:{row_id}"``.
    """
    _STARTED.add(request, response, _digest(name))


def is_started_by(request: Any, name: str) -> bool:
    """Whether the browser that sent this request started the run with this name (``remember_started``).

    It is always False for a request that another site's page made the browser send (``cross_site: allow``).
    Also check ``handler.is_administrator()``, so that the administrator is not locked out.
    """
    return not request.environ.get(IS_CROSS_SITE) and _digest(name) in _STARTED.read(request)


def _digest(name: str) -> str:
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()
    return base64.urlsafe_b64encode(digest[:_DIGEST_BYTES]).decode()


def _signatures() -> Signatures:
    return Signatures(config.current().settings.secret_key)
