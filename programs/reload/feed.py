"""The address of the status feed, and a small built-in feed for the batch reload.

``ACCOUNT_FEED_URL`` is the feed's address, to which an account's key is appended. Without this variable, the
built-in feed is used. It works only under ``dev``, because elsewhere strangers could use its slow accounts to
block our threads. For a key it always gives the same response; some accounts fail, and some are slow.
"""

import hashlib
import os
import threading
from urllib.parse import quote

from webob import exc

from lastacross import config, webapp

VARIABLE = "ACCOUNT_FEED_URL"
SLOW_SECONDS = 1.5

STATUSES = (
    "At my desk",
    "At lunch, back at two",
    "Out running; last across the finish line buys the coffee",
    "Reading the manual",
    "In a meeting that could have been a task",
    "On the train, somewhere between here and there",
    "Away from the keyboard",
    "Listening to the rain",
)
_TROUBLES = {
    0: (503, "the feed is out of order for this account"),
    1: (503, "the feed is out of order for this account"),
    2: (404, "the feed does not know this account"),
    3: (404, "the feed does not know this account"),
    4: (500, "the feed stumbled over this account"),
}
_SLOW = 5


def url_of(key: str) -> str:
    """The URL of this account's status."""
    return (elsewhere() or own_url()) + quote(key, safe="")


def elsewhere() -> str:
    """The address of an external feed, or ''."""
    return os.environ.get(VARIABLE, "").strip()


def own_url() -> str:
    """The URL of the built-in feed, as seen from this machine, which serves the pages under ``dev``."""
    settings = config.current().settings
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)
    return f"http://{f'[{host}]' if ':' in host else host}:{settings.port}/feed/"


def lot(key: str) -> int:
    """Map a key to a fixed number below 100 that determines how the feed behaves."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big") % 100


def is_failing(key: str) -> bool:
    """Whether the feed fails for an account, as it does for 5 in 100 accounts."""
    return lot(key) in _TROUBLES


def is_slow(key: str) -> bool:
    """Whether the feed is slow for an account, as it is for 1 in 100 accounts."""
    return lot(key) == _SLOW


def status_of(key: str) -> str:
    """The status that the feed returns for an account, unless it fails."""
    return STATUSES[hashlib.sha256(key.encode()).digest()[4] % len(STATUSES)]


class FeedHandler(webapp.RequestHandler):
    """One account's status as plain text."""

    def get(self, key: str) -> None:
        """Answer with the status (for some keys after a delay) or an error; with 404 outside of ``dev``."""
        if elsewhere() or not config.current().settings.is_dev:
            raise exc.HTTPNotFound(
                f"This feed is part of lastacross dev. Set {VARIABLE} to the address of your own feed."
            )
        if is_slow(key):
            # This event is never set. The wait lets other threads run.
            threading.Event().wait(SLOW_SECONDS)
        status, text = _TROUBLES.get(lot(key), (200, status_of(key)))
        self.response.status = status
        self.response.headers["Cache-Control"] = "no-store"
        self.response.content_type = "text/plain"
        self.response.charset = "utf-8"
        self.response.text = text
