"""Something that is done again and again beside other work, and pauses while what it needs is unavailable."""

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
    """Something done at every tick or more rarely; it pauses while a service that it needs is unavailable.

    Args:
        name: what the log calls it.
        act: does it, given the time in seconds since the epoch.
        every_seconds: the least time from one beginning to the next.
    """

    name: str
    act: Callable[[float], object]
    every_seconds: float = 0.0
    pause_seconds: float = 0.0
    next_at: float = field(default=float("-inf"))

    def run_if_due(self, clock: Clock) -> None:
        """Do it unless it pauses; an outage begins or lengthens the pause."""
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
            # One step's mistake must not keep the others from being done; it is logged each time.
            log.exception(f"{self.name}.failed")
            self.next_at = clock.monotonic() + MAX_PAUSE_SECONDS
        else:
            if self.pause_seconds:
                log.info(f"{self.name}.resume")
            self.pause_seconds = 0.0
            self.next_at = started_at + self.every_seconds
