"""How many tasks a worker leases before a thread is free for them.

Too few, and its threads wait while it asks for more: whoever runs short tasks without a pause lets the main
thread have the interpreter only now and then. Too many, and another queue's task waits behind them, or they
wait themselves while another worker is idle.
"""

from lastacross.clock import SYSTEM, Clock
from lastacross.worker.runners import Runners

# As long as it is not known how fast they are.
FIRST = 50
MOST = 100
# It leases what it will have run in so long, going by what it has run just now.
AHEAD_SECONDS = 0.01
# Of so many times too much the rest is given back.
FAR_TOO_MUCH = 4
# When every thread has been busy for so long, its tasks are not short.
SLOW_SECONDS = 0.05


class Prefetch:
    """What the main thread goes by when it leases.

    Args:
        runners: the threads of this process.
        clock: monotonic time.

    Attributes:
        must_run_dry: a task was left that has to start at once: none is leased before a thread is free.
    """

    def __init__(self, runners: Runners, *, clock: Clock = SYSTEM) -> None:
        self._runners = runners
        self._clock = clock
        self._ahead = FIRST
        self._ended = 0
        self._counted_from_at = clock.monotonic()
        self.must_run_dry = False

    def note_leased(self) -> None:
        """Tasks are about to be given to the threads: how long those had nothing to do does not count."""
        if self._runners.is_idle:
            self._ended, self._counted_from_at = 0, self._clock.monotonic()

    def note_ended(self, count: int) -> None:
        """So many tasks more have ended."""
        self._ended += count
        now = self._clock.monotonic()
        elapsed = now - self._counted_from_at
        if elapsed >= AHEAD_SECONDS:
            soon = round(self._ended * AHEAD_SECONDS / elapsed)
            self._ahead = min(max(self._runners.threads, soon), MOST)
            self._ended, self._counted_from_at = 0, now

    @property
    def wanted(self) -> int:
        """How many tasks to lease now; 0 while there are enough."""
        if self._is_slow or (self.must_run_dry and not self._runners.free):
            return 0
        lacking = self._ahead - self._runners.waiting
        return lacking if 2 * lacking > self._ahead else 0

    @property
    def kept(self) -> int | None:
        """How many of the waiting tasks to keep, so that a free worker may take the others; None for all."""
        waiting = self._runners.waiting
        if waiting and self._is_slow:
            return 0
        return self._ahead if waiting > FAR_TOO_MUCH * self._ahead else None

    @property
    def _is_slow(self) -> bool:
        """Every thread is busy, and has been for longer than a short task takes."""
        return self._runners.is_full and self._clock.monotonic() - self._runners.last_start > SLOW_SECONDS
