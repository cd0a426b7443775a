"""A periodic step that runs alongside other work and pauses while a service that it needs is unavailable."""

from collections.abc import Callable
from dataclasses import dataclass, field

from lastacross import logs
from lastacross.clock import Clock
from lastacross.errors import DatastoreError, StoreUnavailableError

FIRST_PAUSE_SECONDS = 1.0
MAX_PAUSE_SECONDS = 10.0

log = logs.get("lastacross.step")


@dataclass
class Step:
    """A step that runs at every tick or less often, and pauses while a service that it needs is unavailable.

    Args:
        name: the step's name in the log.
        act: a callable that takes the time in seconds since the epoch and does the work.
        every_seconds: the minimum time between two starts.
    """

    name: str
    act: Callable[[float], object]
    every_seconds: float = 0.0
    pause_seconds: float = 0.0
    next_at: float = field(default=float("-inf"))

    def run_if_due(self, clock: Clock) -> None:
        """Run the step unless it is paused; an outage starts or extends a pause."""
        started_at = clock.monotonic()
        if started_at < self.next_at:
            return
        try:
            self.act(clock.now())
        except (StoreUnavailableError, DatastoreError) as error:
            if not self.pause_seconds:
                log.warning(f"{self.name}.pause", error=str(error))
            self.pause_seconds = min(max(FIRST_PAUSE_SECONDS, self.pause_seconds * 2), MAX_PAUSE_SECONDS)
            self.next_at = clock.monotonic() + self.pause_seconds
        except Exception:
            # A bug in one step must not prevent the others from running; it is logged each time.
            log.exception(f"{self.name}.failed")
            self.next_at = clock.monotonic() + MAX_PAUSE_SECONDS
        else:
            if self.pause_seconds:
                log.info(f"{self.name}.resume")
            self.pause_seconds = 0.0
            self.next_at = started_at + self.every_seconds
