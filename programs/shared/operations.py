"""Code that the programs' pages share: long-running operations, as JSON and in words."""

import re
import secrets

from lastacross import urlfetch
from lastacross.webapp import ENDS, Operation, duration, instant

__all__ = [
    "ENDS",
    "Operation",
    "duration",
    "fetch_problem",
    "instant",
    "new_id",
    "plural",
    "roughly",
]

_URL = re.compile(r"(?<![\w+.-])([+.-]*+\w[\w+.-]*+://[^/\s'\"]*)[^\s'\"]*")
_NO_URL = re.compile(r"'(?!\w[\w+.-]*://)[^'\s]*'(?= does not begin)")


def new_id() -> str:
    """An unguessable id: 128 random bits, safe in a URL."""
    return secrets.token_urlsafe(16)


def roughly(seconds: float) -> str:
    """A remaining time in words, rounded to a sensible precision."""
    if seconds < 10:
        return "a few seconds"
    if seconds < 55:
        return f"about {-(-seconds // 10) * 10:.0f} s"
    return f"about {max(1, round(seconds / 60))} min"


def plural(count: int, word: str) -> str:
    """The count and the word, in the plural if needed: ``1 square``, ``2 squares``."""
    return f"{count:,} {word}" if count == 1 else f"{count:,} {word}s"


def fetch_problem(error: urlfetch.Error) -> str:
    """The reason why a fetch failed, safe to publish: URLs are reduced to scheme, host and port.

    The rest of a configured URL may be secret.
    """
    return _NO_URL.sub("the URL", _URL.sub(r"\1", str(error)))
