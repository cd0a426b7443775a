"""Runs tasks in a test the way a worker does, one after another, with a clock that moves to each eta."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lastacross import config
from lastacross.broker import DEFAULT_GROUP, Broker, Leased, LeaseResult, queue_directory
from lastacross.cronruns import recording
from lastacross.errors import DeadlineExceededError, RunTasksError, TaskFailedError
from lastacross.store import READY_PREFIX, Store, record_key
from lastacross.testing.clock import StoppedClock
from lastacross.testing.seen import DeliveredTask
from lastacross.worker import Delivery, Outcome, OutcomeRecorder, Serving

MAX_ATTEMPTS = 10_000
LEASE_SECONDS = 86_400.0
_NEVER = float("inf")


@dataclass(frozen=True, slots=True)
class Attempt:
    """An attempt as a test sees it, and its outcome."""

    seen: DeliveredTask
    outcome: Outcome


class TaskRunner:
    """Leases tasks, delivers them and records their outcomes.

    Args:
        opened: the store with the tasks.
        delivery: the object that delivers tasks to the application.
        clock: the store's clock.
    """

    def __init__(self, opened: Store, delivery: Delivery, clock: StoppedClock) -> None:
        self._store = opened
        self._delivery = delivery
        self._clock = clock
        self._broker = Broker(opened)
        self._recorder = OutcomeRecorder(self._broker, queue_directory.of(opened).retry_of, recording.note)
        self._leases = 0

    def attempts(
        self,
        queues: Sequence[str] = (),
        *,
        retry: bool = False,
        within_seconds: float | None = None,
        at_most: int = MAX_ATTEMPTS,
    ) -> "list[Attempt]":
        """Run all tasks as they become due, until none is left or one has failed.

        Args:
            queues: the only queues to run, or an empty list for all push queues.
            retry: whether to retry failed tasks according to their retry options. Otherwise the first failure
                ends the run and makes its task a dead letter.
            within_seconds: how far to move the clock, in seconds; only tasks that are due by then are run.
                None runs all waiting tasks.
            at_most: the maximum number of attempts.

        Raises:
            RunTasksError: tasks are left after ``at_most`` attempts.
        """
        until = _NEVER if within_seconds is None else self._store.now() + within_seconds
        made: list[Attempt] = []
        while (task := self._next(queues, until)) is not None:
            if len(made) >= at_most:
                self._broker.release([task])
                raise RunTasksError(
                    f"{at_most} attempts were made, but tasks are left; the next one is {task.id}. Do they "
                    "add or retry one another forever? Limit the time with within_seconds, or raise at_most"
                )
            outcome = self._delivery.deliver(task)
            made.append(Attempt(_seen(task, outcome), outcome))
            if outcome.is_success or retry:
                self._recorder.record([outcome])
            else:
                self._broker.dead_letter(task, outcome.status, outcome.reason)
                break
        return made

    def _next(self, queues: Sequence[str], until: float) -> Leased | None:
        """Lease the next task, and move the clock to its eta unless that is too late."""
        while True:
            serving = self._serving(queues)
            scheduled_at = self._promote(serving.queues)
            task, throttled_until = self._lease(serving)
            if task is not None:
                return task
            wakes_at = min(scheduled_at, throttled_until)
            if wakes_at > until or wakes_at == _NEVER:
                if until != _NEVER:
                    self._clock.advance_to(until)
                return None
            self._clock.advance_to(wakes_at)

    def _serving(self, queues: Sequence[str]) -> Serving:
        """The current queues; tasks for services that normally run elsewhere also run here."""
        configuration = config.current()
        queue_directory.upload_if_missing(self._store, lambda: configuration)
        there = queue_directory.of(self._store)
        there.refresh(is_urgent=True)
        services = {configuration.settings.service, *configuration.services, *there.services()}
        return Serving(there, [DEFAULT_GROUP, *sorted(services - {DEFAULT_GROUP})], queues)

    def _promote(self, queues: Sequence[str]) -> float:
        """Make due tasks ready; returns the time at which the next one is due."""
        moved, next_due = 1, None
        while moved:
            moved, next_due = self._broker.promote_due(queues)
        return _NEVER if next_due is None else next_due

    def _lease(self, serving: Serving) -> tuple[Leased | None, float]:
        """Lease the oldest task that may run now, or return the time when a throttled queue may continue."""
        throttled_until = _NEVER
        for each in self._by_age(serving.lists):
            grant = self._lease_from(each, serving)
            while grant.has_more and not grant.tasks:
                # The first entry belonged to a deleted task; a cancelled batch leaves such entries behind.
                grant = self._lease_from(each, serving)
            if grant.tasks:
                return grant.tasks[0], _NEVER
            if grant.next_due is not None:
                throttled_until = min(throttled_until, grant.next_due)
        return None, throttled_until

    def _lease_from(self, ready_list: str, serving: Serving) -> LeaseResult:
        self._leases += 1
        return self._broker.lease(
            [ready_list],
            token="test",
            number=self._leases,
            wanted=1,
            free=1,
            lease_seconds=LEASE_SECONDS,
            groups=serving.groups,
        )

    def _by_age(self, lists: Sequence[str]) -> list[str]:
        """The lists ordered by the age of their first tasks, oldest first, with empty lists at the end.

        Empty lists are included, because a task that is to be run immediately waits in a list of its own.
        """
        redis: Any = self._store.redis
        with redis.pipeline(transaction=False) as pipeline:
            for each in lists:
                pipeline.lindex(READY_PREFIX + each, 0)
            first = pipeline.execute()
            for identifier in first:
                pipeline.hget(record_key((identifier or b"-").decode()), "eta")
            etas = pipeline.execute()
        ages = {each: float(eta) if eta else _NEVER for each, eta in zip(lists, etas, strict=True)}
        return sorted(lists, key=lambda each: (ages[each], each))


def raise_failure(attempt: Attempt) -> None:
    """Raise this attempt's failure, if any, in the test, as the handler's own exception if it raised one."""
    if attempt.seen.is_success:
        return
    error = attempt.outcome.error
    if error is None or isinstance(error, SystemExit):
        raise TaskFailedError(str(attempt.seen)) from error
    if not isinstance(error, KeyboardInterrupt | DeadlineExceededError):
        error.add_note(f"raised in the task {attempt.seen}")
    raise error


def _seen(task: Leased, outcome: Outcome) -> DeliveredTask:
    method, url = task.method_and_url
    reason = "" if outcome.is_success else outcome.reason or f"answered {outcome.status}"
    attempt = task.failures + task.lost + 1
    return DeliveredTask(task.queue, task.name, method, url, attempt, outcome.status, reason)
