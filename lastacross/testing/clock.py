"""A clock that stands still until a test or a task's eta moves it."""

from lastacross.clock import SYSTEM

_MICROSECONDS = 1_000_000


class StoppedClock:
    """Implements both clocks of ``lastacross.clock.Clock`` and moves them together.

    Args:
        now: the time in seconds since the epoch, or None for this machine's time.
    """

    def __init__(self, now: float | None = None) -> None:
        self._microseconds = round((SYSTEM.now() if now is None else now) * _MICROSECONDS)

    def now(self) -> float:
        """The time in seconds since the epoch."""
        return self._microseconds / _MICROSECONDS

    def monotonic(self) -> float:
        """The time in seconds since an unspecified starting point."""
        return self._microseconds / _MICROSECONDS

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self._microseconds += round(seconds * _MICROSECONDS)

    def advance_to(self, instant: float) -> None:
        """Move to this time, in seconds since the epoch; never goes back."""
        self._microseconds = max(self._microseconds, round(instant * _MICROSECONDS))
