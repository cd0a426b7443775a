"""The rule for queues' limits: leases never exceed the rate or the concurrency limit."""

from tests.simulator.snapshot import Snapshot
from tests.simulator.steps import Step, Violation

EPSILON = 1e-3


class Limits:
    """The leases that each queue has granted, by the clocks of the requesting workers.

    A lease carries the time at which it was requested. The bucket's time never goes back, so neither late
    requests nor different clocks allow more than the rate and one full bucket.
    """

    def __init__(self) -> None:
        # Queue → its settings, the latest time, and how far its grants exceeded the rate at that time.
        self._queues: dict[str, tuple[tuple[str, str], float, float]] = {}

    def begin_again(self) -> None:
        """Accept the server's buckets as correct."""
        self._queues = {}

    def check(self, step: Step) -> None:
        """Judge the tasks granted by one lease."""
        now = float(step.text(0))
        by_hand = {task for ids in step.before.run_now.values() for task in ids}
        granted: dict[str, int] = {}
        for task, _lease in step.granted:
            if task not in by_hand:
                queue = task.partition("_")[0]
                granted[queue] = granted.get(queue, 0) + 1
        for queue, count in granted.items():
            self._check_rate(queue, count, now, step.after)
            settings = step.after.settings[queue]
            if settings.get("is_disabled") == "1" or queue in step.before.paused:
                raise Violation(f"{queue} is stopped, but {count} of its tasks were leased")
            most, leased = settings.get("max_concurrent"), len(step.after.leased[queue])
            # A task that is run by hand ignores the concurrency limit, but counts towards it.
            if most and leased > int(most):
                raise Violation(f"{leased} tasks of {queue} are leased; its limit is {most}")

    def _check_rate(self, queue: str, count: int, now: float, seen: Snapshot) -> None:
        settings = seen.settings[queue]
        rate, size = settings["rate"], settings["bucket_size"]
        known = self._queues.get(queue)
        if known is None or known[0] != (rate, size):
            known = ((rate, size), now, 0.0)
        _, latest, excess = known
        passed = max(0.0, now - latest)
        excess = max(0.0, excess - passed * float(rate)) + count
        if excess > float(size) + EPSILON:
            raise Violation(
                f"{queue} let {count} through; that is {excess:.3f} at once, and its bucket has {size}"
            )
        self._queues[queue] = (rate, size), max(now, latest), excess
