"""One deadline for a whole fetch, from the name lookup to the last byte."""

from lastacross.clock import Clock
from lastacross.errors import FetchDeadlineExceededError
from lastacross.urlfetch.places import shown


class Deadline:
    """The time at which a fetch is aborted.

    Args:
        clock: a clock whose monotonic time measures the deadline.
        seconds: how far in the future the deadline is.
    """

    def __init__(self, clock: Clock, seconds: float) -> None:
        self._clock = clock
        self.seconds = seconds
        self._ends_at = clock.monotonic() + seconds

    def remaining(self) -> float:
        """The number of seconds left; zero or less if the deadline has passed."""
        return self._ends_at - self._clock.monotonic()

    def require(self, url: str) -> float:
        """The number of seconds left, which is positive.

        Raises:
            FetchDeadlineExceededError: the deadline has passed.
        """
        seconds = self.remaining()
        if seconds <= 0:
            raise self.error(url)
        return seconds

    def error(self, url: str) -> FetchDeadlineExceededError:
        """The error to raise once the deadline has passed."""
        return FetchDeadlineExceededError(
            f"{shown(url)} did not complete its response within {self.seconds:g} s"
        )
