"""One deadline for the whole of a fetch: name, connection, redirects, the last byte."""

from lastacross.clock import Clock
from lastacross.errors import FetchDeadlineExceededError
from lastacross.urlfetch.places import shown


class Deadline:
    """The instant at which a fetch is given up.

    Args:
        clock: its monotonic time counts.
        seconds: from now.
    """

    def __init__(self, clock: Clock, seconds: float) -> None:
        self._clock = clock
        self.seconds = seconds
        self._ends_at = clock.monotonic() + seconds

    def remaining(self) -> float:
        """Seconds until then; zero or less when it has passed."""
        return self._ends_at - self._clock.monotonic()

    def require(self, url: str) -> float:
        """The seconds that are left.

        Raises:
            FetchDeadlineExceededError: none are.
        """
        seconds = self.remaining()
        if seconds <= 0:
            raise self.error(url)
        return seconds

    def error(self, url: str) -> FetchDeadlineExceededError:
        """What to raise when it has passed."""
        return FetchDeadlineExceededError(f"{shown(url)} gave no whole answer within {self.seconds:g} s")
