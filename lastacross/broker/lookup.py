"""One task looked up by its name: where it is in its life, in one call of Redis."""

from collections.abc import Sequence
from dataclasses import dataclass

from lastacross import store
from lastacross.broker.readable import MAX_INSTANT
from lastacross.broker.record import task_id
from lastacross.store import record_key, translated_errors

FIELDS = ("status", "eta", "failures", "lost", "dead_at", "error")


@dataclass(frozen=True, slots=True)
class TaskRecord:
    """What Redis knows of a task.

    Args:
        status: RQ's word: ``queued``, ``scheduled``, ``started``, ``failed`` (a dead letter), ``deferred``.
        eta: the earliest instant of its next, or of its running, attempt, in seconds since the epoch.
        failures: attempts that ended with an answer outside 200-299, an exception or a deadline.
        lost: attempts whose worker ended while they ran.
        error: why it is a dead letter, '' if it is none.
    """

    status: str
    eta: float
    failures: int
    lost: int
    error: str = ""

    @property
    def is_dead(self) -> bool:
        """Whether its retries are used up: nobody runs it again but by hand."""
        return self.status == "failed"

    @property
    def waits(self) -> bool:
        """Whether it is ready or scheduled."""
        return self.status in ("queued", "scheduled")


def find(queue_name: str, name: str) -> TaskRecord | None:
    """The task of this name in a queue; None when there is none: it is done, deleted, purged or lost.

    Raises:
        StoreUnavailableError: Redis does not answer.
    """
    return find_all([(queue_name, name)])[0]


def find_all(tasks: Sequence[tuple[str, str]]) -> list[TaskRecord | None]:
    """The same for several tasks, each given by queue and name, in one round trip.

    Raises:
        StoreUnavailableError: Redis does not answer.
    """
    if not tasks:
        return []
    with translated_errors(), store.current().redis.pipeline(transaction=False) as pipeline:
        for queue_name, name in tasks:
            pipeline.hmget(record_key(task_id(queue_name, name)), FIELDS)
        found = pipeline.execute(raise_on_error=False)
    # A record of the wrong type is as good as none; the lease that meets it says so.
    return [loaded(values) if isinstance(values, list) else None for values in found]


def loaded(values: Sequence[bytes | None]) -> TaskRecord | None:
    """What ``FIELDS`` of a task's record say, however they were read; None when there is no record."""
    status, eta, failures, lost, dead_at, error = values
    if status is None or eta is None:
        return None
    text = status.decode("utf-8", "replace")
    if text == "failed" and dead_at is None:
        # Another RQ tool took it for failed: a sweep puts it back.
        text = "queued"
    reason = error.decode("utf-8", "replace") if error else ""
    return TaskRecord(text, _number(eta), int(_number(failures)), int(_number(lost)), reason)


def _number(value: bytes | None) -> float:
    """The number in a field; 0 where it is damaged: the worker that leases the task tells what is wrong."""
    try:
        number = float(value or 0)
    except ValueError:
        return 0.0
    return number if 0 <= number <= MAX_INSTANT else 0.0
