"""The one place that reads a clock.

``now()`` is seconds since the epoch with a fraction; it may jump, and it is what gets stored.
``monotonic()`` never jumps and is never stored. Code takes a ``Clock``, so that tests stop time.
"""

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """What the engine needs of time."""

    def now(self) -> float:
        """Seconds since the epoch, with a fraction."""

    def monotonic(self) -> float:
        """Seconds since an unknown instant; only differences mean something."""


class SystemClock:
    """This machine's clocks."""

    def now(self) -> float:
        """Seconds since the epoch by this machine's clock."""
        return time.time()

    def monotonic(self) -> float:
        """Seconds since an unknown instant."""
        return time.monotonic()


class ServerClock:
    """The Redis server's time, so that all machines agree whatever their own clocks say.

    It is the monotonic clock plus an offset; ``observe`` feeds it answers of the server.
    """

    # An older measurement is replaced by a slower one after this long: monotonic clocks drift.
    MEASUREMENT_LIFE_SECONDS = 60.0

    def __init__(self) -> None:
        self._offset = time.time() - time.monotonic()
        self._round_trip = float("inf")
        self._measured_at = 0.0

    def now(self) -> float:
        """Seconds since the epoch by the Redis server's clock."""
        return time.monotonic() + self._offset

    def monotonic(self) -> float:
        """Seconds since an unknown instant."""
        return time.monotonic()

    def observe(self, server_time: float, asked_at: float, answered_at: float) -> None:
        """Take in one answer of the server; the one with the shortest round trip wins.

        Args:
            server_time: seconds since the epoch, as the server said.
            asked_at: monotonic instant at which it was asked.
            answered_at: monotonic instant at which the answer was there.
        """
        round_trip = answered_at - asked_at
        is_stale = answered_at - self._measured_at > self.MEASUREMENT_LIFE_SECONDS
        offset = server_time - (asked_at + answered_at) / 2
        has_stepped = abs(offset - self._offset) > round_trip + self._round_trip
        if round_trip <= self._round_trip or is_stale or has_stepped:
            self._offset = offset
            self._round_trip = round_trip
            self._measured_at = answered_at


def utc(instant: float) -> datetime:
    """The aware UTC datetime of an instant in seconds since the epoch."""
    return datetime.fromtimestamp(instant, UTC)


def iso(instant: float | None) -> str | None:
    """An instant as JSON shows it (RFC 3339, UTC, milliseconds), None as None."""
    if instant is None:
        return None
    return utc(instant).isoformat(timespec="milliseconds").replace("+00:00", "Z")


SYSTEM = SystemClock()
