"""``Queue``: an application's and an operator's operations on a queue, with App Engine's errors."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, overload

from lastacross import config, logs, store
from lastacross.broker import Broker, KnownQueue, PullSteps, PullTask, queue_directory, record
from lastacross.errors import (
    BadTaskStateError,
    InvalidQueueModeError,
    InvalidTaskError,
    QueuePausedError,
    TaskLeaseExpiredError,
    TaskQueueError,
    TombstonedTaskError,
)
from lastacross.pickled_names import pickled_as
from lastacross.rpc import Result
from lastacross.taskqueue import checks
from lastacross.taskqueue.task import MAX_TASKS_PER_ADD, Task, add_tasks, check_duplicates, existing_queue

DEFAULT_QUEUE = "default"
DEAD_PER_CALL = 100

_log = logs.get("lastacross.taskqueue")


def add(
    payload: str | bytes | None = None,
    *,
    queue_name: str = DEFAULT_QUEUE,
    transactional: bool = False,
    **task_options: Any,
) -> Task:
    """Add one task: shorthand for ``Queue(queue_name).add(Task(payload, **task_options))``.

    Raises:
        InvalidTaskError: the task is invalid; the subclasses tell why.
        TaskAlreadyExistsError, TombstonedTaskError: the name is in use, or was used recently.
        UnknownQueueError: queue.yaml does not have the queue.
        TransientError: Redis is unavailable; the call may be repeated.
    """
    return Queue(queue_name).add(Task(payload, **task_options), transactional=transactional)


class Queue:
    """One queue of queue.yaml.

    Args:
        name: letters, digits and hyphens, at most 100.

    Raises:
        InvalidQueueNameError: the name has another character or is too long.
    """

    def __init__(self, name: str = DEFAULT_QUEUE) -> None:
        self._name = checks.checked_queue_name(name)

    @property
    def name(self) -> str:
        """The queue's name."""
        return self._name

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Queue) and other._name == self._name

    def __hash__(self) -> int:
        return hash(self._name)

    def __repr__(self) -> str:
        return f"Queue({self._name!r})"

    @overload
    def add(self, task: Task, transactional: bool = False) -> Task: ...
    @overload
    def add(self, task: Iterable[Task], transactional: bool = False) -> list[Task]: ...
    def add(self, task: Task | Iterable[Task], transactional: bool = False) -> Task | list[Task]:
        """Add one task, or up to 100 tasks in one step of Redis.

        If any task is invalid, none is added. A used name does not undo the other adds: one error is raised
        for the request, and the tasks that were added have ``was_enqueued`` set.

        Args:
            task: one task, or several.
            transactional: add if, and only if, the running ``datastore.transaction()`` commits.

        Returns:
            The given tasks, with names.

        Raises:
            TooManyTasksError: the request has more than 100 tasks.
            DuplicateTaskNameError: two tasks of the request have the same name.
            BadTaskStateError: a task object was added before.
            BadTransactionStateError: the call is transactional but outside of a transaction.
            TaskAlreadyExistsError, TombstonedTaskError: the name is in use, or was used recently.
            UnknownQueueError, InvalidQueueModeError: the queue does not exist, or has the other mode.
            TransientError: Redis is unavailable; the call may be repeated.
        """
        tasks = [task] if isinstance(task, Task) else list(task)
        add_tasks(self._name, tasks, transactional=transactional)
        return task if isinstance(task, Task) else tasks

    def add_async(self, task: Task | Iterable[Task], transactional: bool = False) -> Result[Any]:
        """``add`` with its outcome in a ``Result``."""
        return Result.of(lambda: self.add(task, transactional=transactional))

    def delete_tasks_async(self, task: Task | Iterable[Task]) -> Result[Any]:
        """``delete_tasks`` with its outcome in a ``Result``."""
        return Result.of(lambda: self.delete_tasks(task))

    def delete_tasks_by_name_async(self, name: str | Iterable[str]) -> Result[Any]:
        """``delete_tasks_by_name`` with its outcome in a ``Result``."""
        return Result.of(lambda: self.delete_tasks_by_name(name))

    def delete_tasks(self, task: Task | Iterable[Task]) -> Task | list[Task]:
        """Delete tasks wherever they wait; sets ``was_deleted`` on those that existed.

        Raises:
            BadTaskStateError: a task has no name, or was deleted before.
            DuplicateTaskNameError: two tasks of the request have the same name.
            UnknownQueueError: queue.yaml does not have the queue.
        """
        tasks = [task] if isinstance(task, Task) else list(task)
        for each in tasks:
            if not isinstance(each, Task):
                raise TypeError(f"delete_tasks takes tasks, not {type(each).__name__}")
            if not each.name:
                raise BadTaskStateError("a task without a name cannot be deleted: it was never added")
            if each.was_deleted:
                raise BadTaskStateError(f"task {each.name!r} was deleted already")
        check_duplicates(tasks)
        deleted = self._delete([each.name for each in tasks if each.name])
        for each, is_deleted in zip(tasks, deleted, strict=True):
            if is_deleted:
                each._mark_deleted()
        return task if isinstance(task, Task) else tasks

    def delete_tasks_by_name(self, name: str | Iterable[str]) -> Task | list[Task]:
        """Delete tasks by name; ``was_deleted`` of each returned task says whether it existed."""
        names = [name] if isinstance(name, str) else list(name)
        tasks = [Task(name=each) for each in names]
        self.delete_tasks(tasks)
        return tasks[0] if isinstance(name, str) else tasks

    def purge(self) -> None:
        """Delete all tasks of the queue. Their names stay refused as if the tasks had run.

        Raises:
            UnknownQueueError: queue.yaml does not have the queue.
            TransientError: Redis is unavailable.
        """
        self._existing()
        tasks = Broker(store.current()).purge(self._name)
        _log.info("queue.purge", queue=self._name, tasks=tasks)

    def _delete(self, names: Sequence[str]) -> list[bool]:
        self._existing()
        ids = [record.task_id(self._name, name) for name in names]
        deleted: list[bool] = []
        for first in range(0, len(ids), MAX_TASKS_PER_ADD):
            deleted += Broker(store.current()).delete(ids[first : first + MAX_TASKS_PER_ADD])
        return deleted

    def _existing(self) -> KnownQueue:
        return existing_queue(self._name)

    # --- control -----------------------------------------------------------------------

    def pause(self) -> None:
        """Stop delivering the queue's tasks. It still accepts adds, and running tasks finish."""
        self._set_paused(True)

    def resume(self) -> None:
        """Resume delivery."""
        self._set_paused(False)

    def is_paused(self) -> bool:
        """Whether the queue is paused. A rate of 0 in queue.yaml does not count as paused."""
        self._existing()
        return Broker(store.current()).is_paused(self._name)

    def _set_paused(self, is_paused: bool) -> None:
        self._existing()
        has_changed = Broker(store.current()).pause(self._name, is_paused)
        if has_changed:
            _log.info("queue.pause" if is_paused else "queue.resume", queue=self._name)

    def run_now(self, name: str) -> None:
        """Run a task now, whatever its ETA and its queue's rate, bucket, concurrency limit or pause.

        A dead letter runs again with all its retries.

        Raises:
            InvalidTaskError: the queue has no task of this name.
            BadTaskStateError: the task runs already, or waits for its batch to complete.
        """
        self._existing()
        outcome = Broker(store.current()).run_now(record.task_id(self._name, name))
        if outcome == "gone":
            raise InvalidTaskError(f"queue {self._name!r} has no task {name!r}")
        if outcome == "running":
            raise BadTaskStateError(f"task {name!r} runs already")
        if outcome == "waiting":
            raise BadTaskStateError(f"task {name!r} runs when its batch is complete")
        _log.info("task.run_now", queue=self._name, task=name)

    def retry_dead(self, names: Sequence[str]) -> list[bool]:
        """Let dead letters run again with all their retries, within the queue's limits.

        Returns:
            For each name, whether it was a dead letter.
        """
        self._existing()
        ids = [record.task_id(self._name, name) for name in names]
        found: list[bool] = []
        for first in range(0, len(ids), DEAD_PER_CALL):
            found += Broker(store.current()).retry_dead(ids[first : first + DEAD_PER_CALL])
        return found

    def fetch_statistics(self, deadline: float = 10) -> "QueueStatistics":
        """The queue's numbers as a ``QueueStatistics``.

        Args:
            deadline: App Engine's limit for the whole call; the Redis call has its own timeout.
        """
        checks.check_call_deadline(deadline)
        return _read_statistics(self)

    def fetch_statistics_async(self) -> "Result[QueueStatistics]":
        """``fetch_statistics`` with its outcome in a ``Result``."""
        return Result.of(self.fetch_statistics)

    # --- pull queues; each ``…_async`` method makes its call immediately ------------------

    def lease_tasks(self, lease_seconds: float, max_tasks: int, deadline: float = 10) -> list[Task]:
        """Lease tasks: no other caller gets them until the lease ends. Delete each task when it is done.

        Args:
            lease_seconds: the length of the lease, 0 … 604,800 (a week), possibly with a fraction.
            max_tasks: the maximum number of tasks, 1 … 1,000; one call returns at most 32 MiB of payloads.
            deadline: App Engine's limit for the whole call; the Redis call has its own timeout.

        Returns:
            The due tasks, ordered by eta and then by name; empty if there are none.

        Raises:
            InvalidLeaseTimeError, InvalidMaxTasksError, InvalidDeadlineError: the value is out of range;
                TypeError if it is not a number.
            UnknownQueueError, InvalidQueueModeError: the queue does not exist, or is a push queue.
            TransientError: Redis is unavailable.
        """
        return self._lease(lease_seconds, max_tasks, None, deadline)

    def lease_tasks_by_tag(
        self, lease_seconds: float, max_tasks: int, tag: str | None = None, deadline: float = 10
    ) -> list[Task]:
        """``lease_tasks`` for one tag.

        Args:
            lease_seconds: as for ``lease_tasks``.
            max_tasks: as for ``lease_tasks``.
            tag: the tag. With None or '' it is the oldest task's tag; if that task has no tag, the untagged
                tasks among the oldest ``max_tasks`` are leased.
            deadline: as for ``lease_tasks``.

        Raises:
            InvalidTagError: the tag is not a string, or too long. Otherwise as ``lease_tasks``.
        """
        checks.check_tag(tag)
        return self._lease(lease_seconds, max_tasks, tag or "", deadline)

    def modify_task_lease(self, task: Task, lease_seconds: float) -> None:
        """Let a task's lease end ``lease_seconds`` from now; 0 gives the task back immediately.

        The task's ``eta`` is updated, but its ``retry_count`` does not grow.

        Raises:
            TaskLeaseExpiredError: the lease has expired, or another caller has the task since.
            QueuePausedError: the queue is paused.
            TombstonedTaskError: the task was deleted.
            Error: a task of this name never existed; the subclasses as for ``lease_tasks``.
            BadTaskStateError: the task has no name because it was never added.
        """
        seconds = checks.checked_lease_seconds(lease_seconds)
        if not isinstance(task, Task):
            raise TypeError(f"modify_task_lease takes a task, not {type(task).__name__}")
        if not task.name:
            raise BadTaskStateError("a task without a name has no lease: it was never added")
        self._check_mode()
        steps = PullSteps(store.current())
        code, eta = steps.modify(self._name, task.name, task.eta_posix, seconds)
        if eta is None:
            raise self._lease_refusal(task, code)
        task._move_eta(eta)

    def lease_tasks_async(self, lease_seconds: float, max_tasks: int) -> Result[list[Task]]:
        """``lease_tasks`` with its outcome in a ``Result``."""
        return Result.of(lambda: self.lease_tasks(lease_seconds, max_tasks))

    def lease_tasks_by_tag_async(
        self, lease_seconds: float, max_tasks: int, tag: str | None = None
    ) -> Result[list[Task]]:
        """``lease_tasks_by_tag`` with its outcome in a ``Result``."""
        return Result.of(lambda: self.lease_tasks_by_tag(lease_seconds, max_tasks, tag))

    def modify_task_lease_async(self, task: Task, lease_seconds: float) -> Result[None]:
        """``modify_task_lease`` with its outcome in a ``Result``."""
        return Result.of(lambda: self.modify_task_lease(task, lease_seconds))

    def _lease(self, lease_seconds: float, max_tasks: int, tag: str | None, deadline: float) -> list[Task]:
        seconds = checks.checked_lease_seconds(lease_seconds)
        max_count = checks.checked_max_tasks(max_tasks)
        checks.check_call_deadline(deadline)
        self._check_mode()
        return PullSteps(store.current()).lease(self._name, seconds, max_count, tag, self._task_of)

    def _task_of(self, leased: PullTask) -> Task:
        """Make a ``Task`` of a leased task; raises as ``Task`` does if the record is damaged."""
        task = Task(leased.body, name=leased.name, method="PULL", tag=leased.tag, _size_check=False)
        task._mark_leased(self._name, leased.eta, leased.leases)
        return task

    def _check_mode(self) -> None:
        if self._existing().mode != "pull":
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
        # A generated name leaves no tombstone, but a caller with such an object must have seen the task.
        if code == "tombstoned" or (task.was_enqueued and task.queue_name == self._name):
            return TombstonedTaskError(f"{what} was deleted, or leased as often as it may be")
        return TaskQueueError(f"{what} is unknown")


# --- statistics ---------------------------------------------------------------------------


@pickled_as("lastacross.taskqueue.statistics")
@dataclass(frozen=True, slots=True)
class QueueStatistics:
    """A queue's numbers at one moment. For an unknown queue ``tasks`` is 0 and the rest None.

    Attributes:
        queue: the queue.
        tasks: tasks that are ready, scheduled, or being delivered (or leased, on a pull queue).
        oldest_eta_usec: the ETA of the oldest task, in microseconds since the epoch; None if there is none.
        executed_last_minute: attempts that ended in the last 60 seconds, successful or not.
        in_flight: running deliveries, or leases.
        enforced_rate: tasks a second that may start now: the queue's rate, 0 while it is paused or
            disabled.
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
        """The statistics of one queue, or a list of them for several queues.

        Args:
            queue_or_queues: a queue or its name; or several queues or names.
            deadline: App Engine's limit for the whole call; the Redis call has its own timeout.

        Raises:
            TypeError: queues and names are mixed.
            InvalidQueueNameError: a name is not valid for a queue.
            InvalidDeadlineError: the deadline leaves no time.
            TransientError: Redis is unavailable.
        """
        checks.check_call_deadline(deadline)
        if isinstance(queue_or_queues, Queue | str):
            return _read_statistics(_queues_of([queue_or_queues])[0])
        return [_read_statistics(queue) for queue in _queues_of(list(queue_or_queues))]

    @classmethod
    def fetch_async(cls, queue_or_queues: Queue | str | Iterable[Queue] | Iterable[str]) -> Result[Any]:
        """``fetch`` with its outcome in a ``Result``."""
        return Result.of(lambda: cls.fetch(queue_or_queues))


def _queues_of(given: list[Queue | str]) -> list[Queue]:
    if all(isinstance(each, Queue) for each in given):
        return [each for each in given if isinstance(each, Queue)]
    if all(isinstance(each, str) for each in given):
        return [Queue(str(each)) for each in given]
    raise TypeError("fetch takes only queues or only names of queues")


def _read_statistics(queue: Queue) -> QueueStatistics:
    numbers = Broker(store.current()).read_statistics(queue.name)
    rate = numbers.rate
    if rate is None:
        # Nothing is uploaded yet, or Redis was emptied, so this process's queue.yaml is used.
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
