"""Pull queues: the application leases their tasks, does them, and deletes them.

Rules: docs/appengine.md, "Pull queues". A lease moves the task's eta to the lease's end: until then nobody
else is given it, and after that anybody.
"""

from collections.abc import Callable
from typing import TypeVar

from lastacross import store
from lastacross.broker import KnownQueue, PullSteps, PullTask
from lastacross.errors import (
    BadTaskStateError,
    InvalidLeaseTimeError,
    InvalidMaxTasksError,
    InvalidQueueModeError,
    QueuePausedError,
    StoreUnavailableError,
    TaskLeaseExpiredError,
    TaskQueueError,
    TombstonedTaskError,
    TransientError,
)
from lastacross.rpc import Result
from lastacross.taskqueue import checks
from lastacross.taskqueue.task import Task

MAX_LEASE_SECONDS = 604_800
MAX_TASKS_PER_LEASE = 1000

T = TypeVar("T")


# --- what Queue offers --------------------------------------------------------------------


class PullOperations:
    """The part of ``Queue`` that is for pull queues.

    Each ``…_async`` twin makes the call at once and keeps its end, as all of ``taskqueue`` does.
    """

    _name: str
    _known: Callable[[], KnownQueue]

    def lease_tasks(self, lease_seconds: float, max_tasks: int, deadline: float = 10) -> list[Task]:
        """Lease tasks: nobody else is given them until the lease ends. Delete each when it is done.

        Args:
            lease_seconds: how long, 0 … 604,800 (a week); a fraction is fine.
            max_tasks: the most tasks, 1 … 1,000; more than 32 MiB of payloads do not come in one answer.
            deadline: App Engine's, for the whole call; here the answer of Redis has its own.

        Returns:
            The tasks whose eta has passed, by eta and then by name; empty when there are none.

        Raises:
            InvalidLeaseTimeError, InvalidMaxTasksError, InvalidDeadlineError: out of range; TypeError when no
                number.
            UnknownQueueError, InvalidQueueModeError: no such queue, or a push queue.
            TransientError: Redis is away.
        """
        return self._lease(lease_seconds, max_tasks, None, deadline)

    def lease_tasks_by_tag(
        self, lease_seconds: float, max_tasks: int, tag: str | None = None, deadline: float = 10
    ) -> list[Task]:
        """``lease_tasks``, of one tag only.

        Args:
            lease_seconds: as for ``lease_tasks``.
            max_tasks: as for ``lease_tasks``.
            tag: the tag; None or '': that of the oldest task, and if it has none, those without a tag among
                the oldest ``max_tasks``.
            deadline: as for ``lease_tasks``.

        Raises:
            InvalidTagError: the tag is no text, or too long. Else as ``lease_tasks``.
        """
        checks.check_tag(tag)
        return self._lease(lease_seconds, max_tasks, tag or "", deadline)

    def modify_task_lease(self, task: Task, lease_seconds: float) -> None:
        """Let the lease of a task end ``lease_seconds`` from now; 0 gives it back at once.

        The task's ``eta`` is updated; its ``retry_count`` is not raised.

        Raises:
            TaskLeaseExpiredError: the lease has run out, or somebody else has the task since.
            QueuePausedError: the queue is paused.
            TombstonedTaskError: the task was deleted.
            Error: there never was a task of this name; its subclasses as for ``lease_tasks``.
            BadTaskStateError: the task has no name: it was never added.
        """
        seconds = checked_lease_seconds(lease_seconds)
        if not isinstance(task, Task):
            raise TypeError(f"modify_task_lease takes a task, not {type(task).__name__}")
        if not task.name:
            raise BadTaskStateError("a task without a name has no lease: it was never added")
        self._check_mode()
        code, eta = _transient(
            lambda: PullSteps(store.current()).modify(self._name, str(task.name), task.eta_posix, seconds)
        )
        if eta is None:
            raise self._lease_refusal(task, code)
        task._move_eta(eta)

    def lease_tasks_async(self, lease_seconds: float, max_tasks: int) -> Result[list[Task]]:
        """``lease_tasks`` behind ``get_result()``."""
        return Result.of(lambda: self.lease_tasks(lease_seconds, max_tasks))

    def lease_tasks_by_tag_async(
        self, lease_seconds: float, max_tasks: int, tag: str | None = None
    ) -> Result[list[Task]]:
        """``lease_tasks_by_tag`` behind ``get_result()``."""
        return Result.of(lambda: self.lease_tasks_by_tag(lease_seconds, max_tasks, tag))

    def modify_task_lease_async(self, task: Task, lease_seconds: float) -> Result[None]:
        """``modify_task_lease`` behind ``get_result()``."""
        return Result.of(lambda: self.modify_task_lease(task, lease_seconds))

    def _lease(self, lease_seconds: float, max_tasks: int, tag: str | None, deadline: float) -> list[Task]:
        seconds = checked_lease_seconds(lease_seconds)
        most = checked_max_tasks(max_tasks)
        checks.check_call_deadline(deadline)
        self._check_mode()
        return _transient(
            lambda: PullSteps(store.current()).lease(self._name, seconds, most, tag, self._task_of)
        )

    def _task_of(self, leased: PullTask) -> Task:
        """The task of a lease. Raises as ``Task`` does when its record is damaged."""
        task = Task(leased.body, name=leased.name, method="PULL", tag=leased.tag, _size_check=False)
        task._mark_leased(self._name, leased.eta, leased.leases)
        return task

    def _check_mode(self) -> None:
        if self._known().mode != "pull":
            raise InvalidQueueModeError(
                f"queue {self._name!r} is a push queue in queue.yaml: its tasks are delivered, not leased; "
                "give it 'mode: pull' to lease them"
            )

    def _lease_refusal(self, task: Task, code: str) -> TaskQueueError:
        what = f"task {task.name!r} of queue {self._name!r}"
        if code == "paused":
            return QueuePausedError(
                f"queue {self._name!r} is paused: no lease is changed until it is resumed"
            )
        if code == "expired":
            return TaskLeaseExpiredError(f"the lease of {what} has run out; lease it again")
        # A name that was made up leaves no tombstone, but whoever holds such an object has seen the task.
        if code == "tombstoned" or (task.was_enqueued and task.queue_name == self._name):
            return TombstonedTaskError(f"{what} was deleted, or leased as often as it may be")
        return TaskQueueError(f"{what} is unknown")


def checked_lease_seconds(lease_seconds: float) -> float:
    """The length of a lease.

    Raises:
        TypeError: it is no int or float.
        InvalidLeaseTimeError: it is negative, more than a week, or not finite.
    """
    if isinstance(lease_seconds, bool) or not isinstance(lease_seconds, int | float):
        raise TypeError(f"lease_seconds must be an int or a float of seconds, not {lease_seconds!r}")
    if not 0 <= lease_seconds <= MAX_LEASE_SECONDS:
        raise InvalidLeaseTimeError(
            f"lease_seconds must be 0 to {MAX_LEASE_SECONDS} (a week), not {lease_seconds!r}"
        )
    return float(lease_seconds)


def checked_max_tasks(max_tasks: int) -> int:
    """The most tasks of one lease.

    Raises:
        TypeError: it is no int.
        InvalidMaxTasksError: it is outside 1 … 1,000.
    """
    if isinstance(max_tasks, bool) or not isinstance(max_tasks, int):
        raise TypeError(f"max_tasks must be an int, not {max_tasks!r}")
    if not 1 <= max_tasks <= MAX_TASKS_PER_LEASE:
        raise InvalidMaxTasksError(f"max_tasks must be 1 to {MAX_TASKS_PER_LEASE}, not {max_tasks}")
    return max_tasks


def _transient(call: Callable[[], T]) -> T:
    """Make a call to Redis; its absence is TransientError to the caller."""
    try:
        return call()
    except StoreUnavailableError as error:
        raise TransientError(str(error)) from error
