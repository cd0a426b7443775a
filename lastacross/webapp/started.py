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

# Names may be long and the cookie must stay small; a second name for the same 96 bits cannot be found.
_DIGEST_BYTES = 12


class SignedList:
    """The newest 50 texts in one signed cookie of a browser, newest first.

    Args:
        cookie: the cookie's name.
        purpose: the signature's purpose.
    """

    def __init__(self, cookie: str, purpose: str) -> None:
        self._cookie = cookie
        self._purpose = purpose

    def read(self, request: Any) -> list[str]:
        """The texts; empty if the cookie is missing or its signature is not ours."""
        signatures, texts = _signatures(), list[str]()
        for value in cookies.values_of(request.environ.get("HTTP_COOKIE", ""), self._cookie):
            with contextlib.suppress(BadSignatureError):
                found = signatures.load_token(self._purpose, value)
                texts += found if isinstance(found, list) else []
        return [text for text in texts if isinstance(text, str)]

    def add(self, request: Any, response: Any, text: str) -> None:
        """Insert a text at the front and drop the oldest beyond 50. Does nothing for another site's page."""
        if request.environ.get(IS_CROSS_SITE):
            # The browser withheld its existing cookie, which the new one would replace.
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
    """Let this browser prove later that it started the run with this name.

    The proof is a signed cookie of at most 1.5 kB for the newest 50 runs, kept for 30 days. Call it once per
    response.

    Args:
        request: the request that starts the run.
        response: the answer to it.
        name: the run's name, different from every other run's of the application, now or later:
            ``f"quilt:{row_id}"``, not a reusable name.
    """
    _STARTED.add(request, response, _digest(name))


def is_started_by(request: Any, name: str) -> bool:
    """Whether this request's browser started the run with this name (``remember_started``).

    Always False for a request that another site's page made it send (``cross_site: allow``). To keep the
    administrator from being locked out, also check ``handler.is_administrator()``.
    """
    return not request.environ.get(IS_CROSS_SITE) and _digest(name) in _STARTED.read(request)


def _digest(name: str) -> str:
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()
    return base64.urlsafe_b64encode(digest[:_DIGEST_BYTES]).decode()


def _signatures() -> Signatures:
    return Signatures(config.current().settings.secret_key)
