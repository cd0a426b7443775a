"""What the programs' pages have in common: long-running operations, as JSON and in words."""

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
    """An id that nobody guesses: 128 random bits, safe in a URL."""
    return secrets.token_urlsafe(16)


def roughly(seconds: float) -> str:
    """A time still to go, no finer than it can be kept."""
    if seconds < 10:
        return "a few seconds"
    if seconds < 55:
        return f"about {-(-seconds // 10) * 10:.0f} s"
    return f"about {max(1, round(seconds / 60))} min"


def plural(count: int, word: str) -> str:
    """``1 square``, ``2 squares``."""
    return f"{count:,} {word}" if count == 1 else f"{count:,} {word}s"


def fetch_problem(error: urlfetch.Error) -> str:
    """Why a fetch brought nothing, for everybody's eyes: of a URL no more than scheme, host and port.

    The rest of an address from the configuration may be a secret of its own.
    """
    return _NO_URL.sub("the URL", _URL.sub(r"\1", str(error)))
