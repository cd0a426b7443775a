"""Slots for open streams, with limits per process, per token and per client. Pure."""

import threading
from collections import Counter
from typing import Literal

Lack = Literal["total", "token", "client"]


class Slots:
    """Counts open streams, each of which occupies a thread of the web server.

    Args:
        total: the maximum number of streams for the process.
        per_token: the maximum for one token, so that a single page cannot take all slots.
        per_client: the maximum for one client's network.
    """

    def __init__(self, total: int, per_token: int, per_client: int) -> None:
        self._total = total
        self._per_token = per_token
        self._per_client = per_client
        self._lock = threading.Lock()
        self._tokens: Counter[str] = Counter()
        self._clients: Counter[str] = Counter()

    @property
    def taken(self) -> int:
        """The number of open streams."""
        with self._lock:
            return self._tokens.total()

    def lack(self, token: str, client: str | None) -> Lack | None:
        """The limit that ``take`` would hit now, or None if it would succeed."""
        with self._lock:
            return self._lack(token, client)

    def take(self, token: str, client: str | None) -> Lack | None:
        """Take a slot.

        Args:
            token: the stream's token.
            client: the client's network, or None if unknown, which exempts it from the limit per client.

        Returns:
            None if the slot was taken, otherwise the limit that was reached.
        """
        with self._lock:
            lack = self._lack(token, client)
            if lack is None:
                self._tokens[token] += 1
                if client is not None:
                    self._clients[client] += 1
            return lack

    def release(self, token: str, client: str | None) -> None:
        """Give back a slot."""
        with self._lock:
            _take_one(self._tokens, token)
            if client is not None:
                _take_one(self._clients, client)

    def _lack(self, token: str, client: str | None) -> Lack | None:
        if self._tokens.total() >= self._total:
            return "total"
        if self._tokens[token] >= self._per_token:
            return "token"
        return "client" if client is not None and self._clients[client] >= self._per_client else None


def _take_one(counts: Counter[str], key: str) -> None:
    counts[key] -= 1
    if counts[key] <= 0:
        del counts[key]
