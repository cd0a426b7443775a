"""A manual worker, which runs one task after another in the test's own process."""

from collections.abc import Iterator
from contextlib import contextmanager

from lastacross import deferred, webapp
from lastacross.broker.record import Leased
from lastacross.broker.steps import Broker
from lastacross.config import Config
from lastacross.store import Store
from lastacross.worker.deadline import Deadlines
from lastacross.worker.delivery import Delivery, Outcome

GROUPS = ("default", "counter")


class Hands:
    """Leases, delivers and settles tasks.

    Args:
        opened: the store that holds the tasks.
        delivery: delivers tasks to the application.
    """

    def __init__(self, opened: Store, delivery: Delivery) -> None:
        self._broker = Broker(opened)
        self._delivery = delivery
        self._leases = 0

    def lease(self, queue: str) -> Leased | None:
        """Lease a queue's next task; returns None if no task is ready."""
        grant = self._broker.lease(
            [queue],
            token="hands",
            number=self._leases,
            wanted=1,
            free=1,
            lease_seconds=60,
            groups=GROUPS,
        )
        self._leases += len(grant.tasks)
        return grant.tasks[0] if grant.tasks else None

    def deliver(self, task: Leased) -> Outcome:
        """Run one attempt but leave the task leased, like a worker that dies before reporting the outcome."""
        return self._delivery.deliver(task)

    def settle(self, outcome: Outcome) -> None:
        """End a task that is done; a failed task is immediately ready again."""
        if outcome.is_success:
            assert self._broker.ack([outcome.task]) == [True]
        else:
            assert self._broker.retry(outcome.task, self._broker.now() - 1, outcome.status)
            self._broker.promote_due([outcome.task.queue])

    def run(self, queue: str, at_most: int = 1000) -> list[Outcome]:
        """Run a queue's ready tasks one after another, and failed tasks again, until none is left."""
        outcomes: list[Outcome] = []
        while len(outcomes) < at_most and (task := self.lease(queue)) is not None:
            outcomes.append(self.deliver(task))
            self.settle(outcomes[-1])
        return outcomes

    def bury(self, task: Leased) -> None:
        """Make a task a dead letter."""
        assert self._broker.dead_letter(task, 500, "answered 500")


@contextmanager
def working_hands(configuration: Config, opened: Store) -> Iterator[Hands]:
    """Provide a manual worker for the application with this configuration."""
    deadlines = Deadlines(on_stuck=print)
    deadlines.start()
    try:
        inside = webapp.inside(configuration, webapp.load_script, {})
        yield Hands(
            opened, Delivery(inside, deadlines, direct_calls={deferred.DEFAULT_URL: deferred.outcome})
        )
    finally:
        deadlines.stop()
