"""The only module that reads a clock.

``now()`` returns seconds since the epoch with a fraction; it may jump, and its values may be stored.
``monotonic()`` never jumps, and its values must not be stored. Code takes a ``Clock`` as an argument, so that
tests can stop time.
"""

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """The engine's interface to time."""

    def now(self) -> float:
        """Return the seconds since the epoch, with a fraction."""

    def monotonic(self) -> float:
        """Return the seconds since an unspecified time; only differences are meaningful."""


class SystemClock:
    """This machine's clocks."""

    def now(self) -> float:
        """Return the seconds since the epoch, according to this machine's clock."""
        return time.time()

    def monotonic(self) -> float:
        """Return the seconds since an unspecified time."""
        return time.monotonic()


class ServerClock:
    """The Redis server's time, so that all machines agree whatever their own clocks say.

    The time is computed from the monotonic clock plus an offset that ``observe`` derives from the server's
    replies.
    """

    # After this time, even a slower measurement replaces the old one, because monotonic clocks drift.
    MEASUREMENT_LIFE_SECONDS = 60.0
    # The server's clock was changed if a reply differs by this much more than the round trips explain.
    JUMP_SECONDS = 1.0

    def __init__(self) -> None:
        # How often this process has noticed that the server's clock was changed, and by how much the last
        # time.
        self.jumps = 0
        self.jump_seconds = 0.0
        self._offset = time.time() - time.monotonic()
        self._round_trip = float("inf")
        self._measured_at = 0.0

    def now(self) -> float:
        """Return the Redis server's time, in seconds since the epoch."""
        return time.monotonic() + self._offset

    def monotonic(self) -> float:
        """Return the seconds since an unspecified time."""
        return time.monotonic()

    def observe(self, server_time: float, asked_at: float, answered_at: float) -> None:
        """Use one of the server's replies; the reply with the shortest round trip wins.

        Args:
            server_time: the server's time, in seconds since the epoch.
            asked_at: the monotonic time of the request.
            answered_at: the monotonic time of the reply.
        """
        round_trip = answered_at - asked_at
        is_stale = answered_at - self._measured_at > self.MEASUREMENT_LIFE_SECONDS
        offset = server_time - (asked_at + answered_at) / 2
        step, uncertainty = offset - self._offset, round_trip + self._round_trip
        has_stepped = abs(step) > uncertainty
        if abs(step) > uncertainty + self.JUMP_SECONDS:
            # Count the jump first, so that whoever computes a time with the new offset can see that it
            # jumped.
            self.jump_seconds = step
            self.jumps += 1
        if round_trip <= self._round_trip or is_stale or has_stepped:
            self._offset = offset
            self._round_trip = round_trip
            self._measured_at = answered_at


def utc(instant: float) -> datetime:
    """Convert seconds since the epoch to an aware UTC datetime."""
    return datetime.fromtimestamp(instant, UTC)


def iso(instant: float | None) -> str | None:
    """Format seconds since the epoch for JSON (RFC 3339, UTC, with milliseconds); None stays None."""
    if instant is None:
        return None
    return utc(instant).isoformat(timespec="milliseconds").replace("+00:00", "Z")


SYSTEM = SystemClock()
