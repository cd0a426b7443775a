"""What an operator asks of a queue: pause, resume, run one task now, and how it is doing."""

from collections.abc import Callable, Sequence
from typing import Any

from lastacross import logs, store
from lastacross.broker import Broker, KnownQueue, record
from lastacross.errors import BadTaskStateError, InvalidTaskError, StoreUnavailableError, TransientError
from lastacross.rpc import Result
from lastacross.store import PAUSED, translated_errors
from lastacross.taskqueue import checks

DEAD_PER_CALL = 100

_log = logs.get("lastacross.taskqueue")


def fetch_statistics(queue: Any) -> Any:
    """Put in place by the statistics' module, which knows queues; this one is known by them."""
    raise NotImplementedError("import lastacross.taskqueue to read statistics")


class Control:
    """These requests, for ``Queue``: ``UnknownQueueError`` without one, ``TransientError`` without Redis."""

    _name: str
    _known: Callable[[], KnownQueue]

    def pause(self) -> None:
        """Deliver no more of its tasks; adds are accepted, what runs finishes."""
        self._set_paused(True)

    def resume(self) -> None:
        """Deliver again."""
        self._set_paused(False)

    def is_paused(self) -> bool:
        """Whether somebody has paused it. A rate of 0 in queue.yaml is another matter."""
        self._known()
        try:
            with translated_errors():
                return bool(store.current().redis.sismember(PAUSED, self._name))
        except StoreUnavailableError as error:
            raise TransientError(str(error)) from error

    def _set_paused(self, is_paused: bool) -> None:
        self._known()
        try:
            has_changed = Broker(store.current()).pause(self._name, is_paused)
        except StoreUnavailableError as error:
            raise TransientError(str(error)) from error
        if has_changed:
            _log.info("queue.pause" if is_paused else "queue.resume", queue=self._name)

    def run_now(self, name: str) -> None:
        """Let a task run now, whatever its ETA: rate, bucket, concurrency and a pause do not count for it.

        A dead letter runs again, with its retries before it anew.

        Raises:
            InvalidTaskError: the queue has no task of this name.
            BadTaskStateError: it runs already, or waits for its batch to be complete.
        """
        self._known()
        try:
            outcome = Broker(store.current()).run_now(record.task_id(self._name, name))
        except StoreUnavailableError as error:
            raise TransientError(str(error)) from error
        if outcome == "gone":
            raise InvalidTaskError(f"queue {self._name!r} has no task {name!r}")
        if outcome == "running":
            raise BadTaskStateError(f"task {name!r} runs already")
        if outcome == "waiting":
            raise BadTaskStateError(f"task {name!r} runs when its batch is complete")
        _log.info("task.run_now", queue=self._name, task=name)

    def retry_dead(self, names: Sequence[str]) -> list[bool]:
        """Let dead letters be tried again, with their retries before them anew; the queue's limits count.

        Returns:
            For each name whether there was a dead letter of it.
        """
        self._known()
        ids = [record.task_id(self._name, name) for name in names]
        found: list[bool] = []
        try:
            for first in range(0, len(ids), DEAD_PER_CALL):
                found += Broker(store.current()).retry_dead(ids[first : first + DEAD_PER_CALL])
        except StoreUnavailableError as error:
            raise TransientError(str(error)) from error
        return found

    def fetch_statistics(self, deadline: float = 10) -> Any:
        """How it is doing: a ``QueueStatistics``.

        Args:
            deadline: App Engine's, for the whole call; here the answer of Redis has its own.
        """
        checks.check_call_deadline(deadline)
        return fetch_statistics(self)

    def fetch_statistics_async(self) -> Result[Any]:
        """``fetch_statistics`` behind ``get_result()``."""
        return Result.of(self.fetch_statistics)
