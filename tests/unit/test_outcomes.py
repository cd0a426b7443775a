"""What becomes of an attempt that has ended: done, tried again, or a dead letter."""

import json
import logging
from collections.abc import Callable
from typing import Any, cast

import pytest

from lastacross.broker.record import Leased
from lastacross.broker.steps import Broker
from lastacross.clock import SYSTEM
from lastacross.config import RetryParameters
from lastacross.errors import StoreUnavailableError
from lastacross.taskqueue import TaskRetryOptions
from lastacross.worker.delivery import Outcome
from lastacross.worker.isolation import Crashed
from lastacross.worker.outcomes import MAX_REASON_CHARACTERS, OutcomeRecorder
from tests.support.leased import NOW, leased


class NotingBroker:
    """Notes the steps it is asked for, and does none."""

    def __init__(self, held: bool = True) -> None:
        self.steps: list[tuple[Any, ...]] = []
        self.reached: list[bool] = []
        self.alone: list[bool] = []
        self.attempts: list[str] = []
        self.held = held

    def now(self) -> float:
        """A hundred seconds after the first try."""
        return NOW + 100

    def ack(self, tasks: list[Leased]) -> list[bool]:
        """Note it."""
        self.steps += [("ack", task.name) for task in tasks]
        return [self.held for _ in tasks]

    def retry(
        self,
        task: Leased,
        eta: float,
        status: int | None,
        *,
        was_reached: bool,
        runs_alone: bool,
        attempt: str,
        trace: str,
    ) -> bool:
        """Note it, with the delay."""
        self.steps.append(("retry", round(eta - self.now(), 3), status))
        self.reached.append(was_reached)
        self.alone.append(runs_alone)
        self.attempts.append(attempt)
        return self.held

    def dead_letter(
        self, task: Leased, status: int | None, reason: str, *, attempt: str, handler: str
    ) -> bool:
        """Note it."""
        self.attempts.append(attempt)
        self.steps.append(("dead_letter", status, reason))
        return self.held

    def crash(self, task: Leased) -> str:
        """Note it."""
        self.steps.append(("crash", task.name))
        return "ready" if self.held else "gone"


Retries = Callable[[str], RetryParameters | None]


def queue(**options: Any) -> Retries:
    """queue.yaml with one queue whose retry parameters are these."""
    retry = RetryParameters(**options) if options else None
    return {"default": retry}.get


def settled(outcome: Outcome, retry_of: Retries) -> list[tuple[Any, ...]]:
    """The steps that one outcome leads to."""
    broker = NotingBroker()
    OutcomeRecorder(cast(Broker, broker), retry_of).record([outcome])
    return broker.steps


LIMITS = {"task_retry_limit": 2, "task_age_limit_seconds": 50.0}
OWN = TaskRetryOptions(min_backoff_seconds=7, task_retry_limit=5)


@pytest.mark.parametrize(
    ("options", "queue_options", "expected"),
    [
        ({}, {}, ("retry", 0.1, 503)),
        ({"failures": 3}, {}, ("retry", 0.8, 503)),
        ({"failures": 60}, {}, ("retry", 3600, 503)),
        ({"failures": 1}, {"min_backoff_seconds": 10.0, "max_doublings": 0}, ("retry", 20, 503)),
        ({"failures": 1}, {"task_retry_limit": 2}, ("retry", 0.2, 503)),
        ({"failures": 2}, {"task_retry_limit": 2}, ("dead_letter", 503, "why")),
        ({}, {"task_retry_limit": 0}, ("dead_letter", 503, "why")),
        ({"lost": 4}, {"task_retry_limit": 1}, ("retry", 0.1, 503)),
        ({}, {"task_age_limit_seconds": 50.0}, ("dead_letter", 503, "why")),
        ({}, {"task_age_limit_seconds": 150.0}, ("retry", 0.1, 503)),
        ({"failures": 1}, LIMITS, ("retry", 0.2, 503)),
        ({"failures": 2}, LIMITS, ("dead_letter", 503, "why")),
        ({"retry_options": OWN}, {"task_retry_limit": 0}, ("retry", 7, 503)),
    ],
)
def test_a_failure_is_decided_by_the_tasks_options_or_else_its_queues(
    options: dict[str, Any], queue_options: dict[str, Any], expected: tuple[Any, ...]
) -> None:
    assert settled(Outcome(leased(**options), 503, "why"), queue(**queue_options)) == [expected]


@pytest.mark.parametrize("was_reached", [True, False])
def test_a_retry_says_whether_the_attempt_reached_the_application(was_reached: bool) -> None:
    broker = NotingBroker()
    outcome = Outcome(leased(), None, "no connection", was_reached=was_reached)
    OutcomeRecorder(cast(Broker, broker), queue()).record([outcome])
    assert broker.reached == [was_reached]


def test_a_failed_attempt_is_kept_with_its_times_and_two_kilobytes_of_its_answer() -> None:
    broker = NotingBroker()
    ended_at = SYSTEM.monotonic()
    outcome = Outcome(leased(), 503, "é" * 3000, started_at=ended_at - 40, ended_at=ended_at - 30)
    OutcomeRecorder(cast(Broker, broker), queue(), worker="worker-1").record([outcome])

    attempt = json.loads(broker.attempts[0])

    assert attempt.pop("started_at") == pytest.approx(broker.now() - 40, abs=5)
    assert attempt == {
        "seconds": 10.0,
        "status": 503,
        "reason": "é" * 1024,
        "worker": "worker-1",
        "next_at": broker.now() + 0.1,
    }


def test_a_failed_attempt_that_reached_no_thread_is_kept_as_one_of_now_that_took_no_time() -> None:
    broker = NotingBroker()
    OutcomeRecorder(cast(Broker, broker), queue()).record([Outcome(leased(), None, "no connection")])

    attempt = json.loads(broker.attempts[0])

    assert (attempt["started_at"], attempt["seconds"]) == (broker.now(), 0.0)


def test_the_metrics_are_told_how_each_attempt_has_ended() -> None:
    counted: list[Any] = []
    recorder = OutcomeRecorder(cast(Broker, NotingBroker()), queue(task_retry_limit=1), count=counted.extend)

    recorder.record(
        [
            Outcome(leased(), 200, handler="Done"),
            Outcome(leased(), 500, handler="Again"),
            Outcome(leased(failures=1), 500, handler="Never"),
            Crashed(leased(), None, handler="Ended"),
        ]
    )

    assert [(handler, ended) for _, handler, ended, _, _ in counted] == [
        ("Done", "done"),
        ("Again", "retried"),
        ("Never", "dead"),
        ("Ended", "crashed"),
    ]


def test_the_age_counts_from_the_first_try_and_not_from_the_adding() -> None:
    young = leased(first_try_at=f"{NOW + 90:.6f}")
    assert settled(Outcome(young, 500, "why"), queue(task_age_limit_seconds=20.0)) == [("retry", 0.1, 500)]


def test_a_task_of_a_queue_that_is_not_configured_any_more_has_the_defaults() -> None:
    assert settled(Outcome(leased("old-queue"), 500, "why"), queue()) == [("retry", 0.1, 500)]


def test_success_is_acknowledged_together_and_counted() -> None:
    broker = NotingBroker()
    recorder = OutcomeRecorder(cast(Broker, broker), queue())
    recorder.record([Outcome(leased(name="a"), 200), Outcome(leased(name="b"), 204)])
    assert broker.steps == [("ack", "a"), ("ack", "b")]
    assert (recorder.done, recorder.failed) == (2, 0)


ANSWERS = {
    "done": (Outcome(leased(), 200), "task.ack"),
    "retry": (Outcome(leased(), 500), "task.retry"),
    "dead letter": (Outcome(leased(failures=10), 500), "task.dead_letter"),
    "crash": (Crashed(leased(), None), "task.crash"),
}


@pytest.mark.parametrize("answer", ANSWERS)
def test_an_answer_whose_lease_was_lost_is_said_to_be_refused_and_not_counted(
    answer: str, caplog: pytest.LogCaptureFixture
) -> None:
    outcome, event = ANSWERS[answer]
    recorder = OutcomeRecorder(cast(Broker, NotingBroker(held=False)), queue(task_retry_limit=10))
    with caplog.at_level(logging.INFO):
        recorder.record([outcome])
    assert (recorder.done, recorder.failed) == (0, 0)
    [line] = [cast(dict[str, Any], record.msg) for record in caplog.records]
    assert (line["event"], line.get("outcome", line.get("refused"))) == (
        event,
        "gone" if answer == "crash" else "the lease was lost",
    )


@pytest.mark.parametrize("kind", [Outcome, Crashed])
def test_the_log_counts_attempts_whose_worker_was_lost_too(
    kind: type[Outcome], caplog: pytest.LogCaptureFixture
) -> None:
    outcome = kind(leased(failures=3, lost=2), None, "why")
    with caplog.at_level(logging.INFO):
        OutcomeRecorder(cast(Broker, NotingBroker()), queue()).record([outcome])

    [line] = [cast(dict[str, Any], record.msg) for record in caplog.records]
    assert (line["attempt"], line["reason"]) == (6, "why")


def test_a_crash_is_not_a_failure_of_the_handler() -> None:
    steps = settled(Crashed(leased(), None, "its process ended"), queue(task_retry_limit=0))
    assert steps == [("crash", "t1")]


def test_what_no_retry_can_mend_is_a_dead_letter_at_once() -> None:
    steps = settled(Outcome(leased(), 200, "PermanentTaskFailure: no use", is_final=True), queue())
    assert steps == [("dead_letter", 200, "PermanentTaskFailure: no use")]


def test_a_reason_without_end_is_cut() -> None:
    [(_, _, reason)] = settled(Outcome(leased(), 500, "x" * 100_000), queue(task_retry_limit=0))
    assert len(reason) == MAX_REASON_CHARACTERS


class FailingBroker(NotingBroker):
    """Raises these errors at its first acks, then works."""

    def __init__(self, *errors: Exception) -> None:
        super().__init__()
        self.errors = list(errors)

    def ack(self, tasks: list[Leased]) -> list[bool]:
        """Fail, or note it."""
        if self.errors:
            raise self.errors.pop(0)
        return super().ack(tasks)


UNAVAILABLE = StoreUnavailableError("no answer")


@pytest.mark.parametrize("errors", [[UNAVAILABLE], [RuntimeError("one of them is damaged"), UNAVAILABLE]])
def test_outcomes_are_settled_again_after_redis_was_unavailable(errors: list[Exception]) -> None:
    """Redis may go while all are settled together, or while they are settled one by one."""
    broker = FailingBroker(*errors)
    recorder = OutcomeRecorder(cast(Broker, broker), queue())
    outcomes = [Outcome(leased(name="t1"), 200), Outcome(leased(name="t2"), 200)]

    with pytest.raises(StoreUnavailableError):
        recorder.record(outcomes)
    assert (broker.steps, recorder.done) == ([], 0)

    recorder.record(outcomes)
    assert broker.steps == [("ack", "t1"), ("ack", "t2")]
    assert recorder.done == 2


def test_an_outcome_that_cannot_be_settled_does_not_stop_the_others() -> None:
    damaged = RuntimeError("its record is damaged")
    broker = FailingBroker(damaged, damaged)
    recorder = OutcomeRecorder(cast(Broker, broker), queue())

    recorder.record([Outcome(leased(name="t1"), 200), Outcome(leased(name="t2"), 200)])

    assert (broker.steps, recorder.done) == ([("ack", "t2")], 1)
