"""``QueueStatistics``: how a queue is doing. Rules: docs/appengine.md, "Statistics"."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from lastacross import config, store
from lastacross.broker import Broker, queue_directory
from lastacross.errors import StoreUnavailableError, TransientError
from lastacross.rpc import Result
from lastacross.taskqueue import checks, control
from lastacross.taskqueue.queue import Queue


@dataclass(frozen=True, slots=True)
class QueueStatistics:
    """A queue at one instant; for a queue that nobody knows ``tasks`` is 0 and the rest None.

    Attributes:
        queue: which.
        tasks: that wait, are scheduled, or are being delivered (or leased, on a pull queue).
        oldest_eta_usec: ETA of the oldest, in microseconds since the epoch; None when there is none.
        executed_last_minute: attempts that ended in the last 60 seconds, well or not.
        in_flight: deliveries under way, or leases.
        enforced_rate: tasks a second that may start now: the queue's rate, 0 while it is paused or disabled.
    """

    queue: Queue
    tasks: int = 0
    oldest_eta_usec: int | None = None
    executed_last_minute: int | None = None
    in_flight: int | None = None
    enforced_rate: float | None = None

    @classmethod
    def fetch(
        cls, queue_or_queues: Queue | str | Iterable[Queue] | Iterable[str], deadline: float = 10
    ) -> Any:
        """The statistics of one queue, or a list of them for several.

        Args:
            queue_or_queues: a queue or its name; or queues, or names.
            deadline: App Engine's, for the whole call; here the answer of Redis has its own.

        Raises:
            TypeError: queues and names are mixed.
            InvalidQueueNameError: a name that no queue can have.
            InvalidDeadlineError: a deadline of nothing.
            TransientError: Redis is away.
        """
        checks.check_call_deadline(deadline)
        if isinstance(queue_or_queues, Queue | str):
            return _read(_queues([queue_or_queues])[0])
        return [_read(queue) for queue in _queues(list(queue_or_queues))]

    @classmethod
    def fetch_async(cls, queue_or_queues: Queue | str | Iterable[Queue] | Iterable[str]) -> Result[Any]:
        """``fetch`` behind ``get_result()``."""
        return Result.of(lambda: cls.fetch(queue_or_queues))


def _queues(given: list[Queue | str]) -> list[Queue]:
    if all(isinstance(each, Queue) for each in given):
        return [each for each in given if isinstance(each, Queue)]
    if all(isinstance(each, str) for each in given):
        return [Queue(str(each)) for each in given]
    raise TypeError("fetch takes queues or names of queues, not both and nothing else")


def _read(queue: Queue) -> QueueStatistics:
    try:
        numbers = Broker(store.current()).read_statistics(queue.name)
    except StoreUnavailableError as error:
        raise TransientError(str(error)) from error
    rate = numbers.rate
    if rate is None:
        # Nothing was uploaded yet, or Redis was emptied: this process's queue.yaml stands in.
        configured = config.current().queues.get(queue.name)
        if configured is None or queue_directory.current().find(queue.name) is None:
            return QueueStatistics(queue)
        rate = configured.rate
    return QueueStatistics(
        queue,
        tasks=numbers.tasks,
        oldest_eta_usec=None if numbers.oldest_eta is None else round(numbers.oldest_eta * 1e6),
        executed_last_minute=numbers.executed_last_minute,
        in_flight=numbers.leased,
        enforced_rate=rate,
    )


control.fetch_statistics = _read
