"""Places for open streams: so many a process, so many a token. Pure."""

import threading
from collections import Counter


class Slots:
    """Counts open streams; each one holds a thread of the web server.

    Args:
        total: streams of the process.
        per_token: streams of one token, so that one page cannot take all.
    """

    def __init__(self, total: int, per_token: int) -> None:
        self._total = total
        self._per_token = per_token
        self._lock = threading.Lock()
        self._taken: Counter[str] = Counter()

    @property
    def taken(self) -> int:
        """How many streams are open."""
        with self._lock:
            return self._taken.total()

    def has_room(self, token: str) -> bool:
        """Whether ``take`` would succeed now."""
        with self._lock:
            return self._has_room(token)

    def take(self, token: str) -> bool:
        """Take a place; whether there was one."""
        with self._lock:
            if not self._has_room(token):
                return False
            self._taken[token] += 1
            return True

    def release(self, token: str) -> None:
        """Give a place back."""
        with self._lock:
            self._taken[token] -= 1
            if self._taken[token] <= 0:
                del self._taken[token]

    def _has_room(self, token: str) -> bool:
        return self._taken.total() < self._total and self._taken[token] < self._per_token
