"""A clock that stands still until a test, or a task's eta, moves it."""

from lastacross.clock import SYSTEM

_MICROSECONDS = 1_000_000


class StoppedClock:
    """Both clocks of ``lastacross.clock.Clock``, moved together.

    Each look at the time of day is a microsecond later than the one before, so that what was added first
    is known to be first.

    Args:
        now: seconds since the epoch; None = this machine's time.
    """

    def __init__(self, now: float | None = None) -> None:
        self._microseconds = round((SYSTEM.now() if now is None else now) * _MICROSECONDS)

    def now(self) -> float:
        """Seconds since the epoch."""
        self._microseconds += 1
        return self._microseconds / _MICROSECONDS

    def monotonic(self) -> float:
        """Seconds since an unknown instant."""
        return self._microseconds / _MICROSECONDS

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self._microseconds += round(seconds * _MICROSECONDS)

    def advance_to(self, instant: float) -> None:
        """Let it be this instant, in seconds since the epoch; it never goes back."""
        self._microseconds = max(self._microseconds, round(instant * _MICROSECONDS))
