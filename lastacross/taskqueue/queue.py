"""``Queue`` offers the queue operations of applications and operators, with App Engine's errors."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, overload

from lastacross import config, logs, store
from lastacross.broker import (
    Broker,
    Control,
    KnownQueue,
    PullSteps,
    PullTask,
    QueueNumbers,
    queue_directory,
    record,
)
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
from lastacross.rpc import RPC, Result
from lastacross.taskqueue import checks
from lastacross.taskqueue.calls import result_of
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
    """Add one task. This is a shorthand for ``Queue(queue_name).add(Task(payload, **task_options))``.

    Args:
        payload: the body of the task's request, as in ``Task``.
        queue_name: the queue's name.
        transactional: whether the task is added only if the current transaction commits.
        task_options: the other arguments of ``Task``, such as ``url``, ``params`` and ``countdown``.

    Returns:
        The added task.

    Raises:
        InvalidTaskError: the task is invalid; the subclasses say why.
        TaskAlreadyExistsError, TombstonedTaskError: the name is in use, or was used recently.
        UnknownQueueError: queue.yaml does not define the queue.
        TransientError: Redis is unavailable, or the queue is draining; the call may be retried.
    """
    return Queue(queue_name).add(Task(payload, **task_options), transactional=transactional)


class Queue:
    """A queue that queue.yaml defines.

    Args:
        name: the queue's name, which has at most 100 letters, digits and hyphens.

    Raises:
        InvalidQueueNameError: the name contains another character or is too long.
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
        """Add one task, or up to 100 tasks in a single Redis step.

        If any task is invalid, none is added. But if a name is already used, the other tasks are still added:
        the request raises one error, and ``was_enqueued`` is set on each task that was added.

        Args:
            task: one task, or an iterable of tasks.
            transactional: whether to add the tasks only if the current transaction commits: a
                ``datastore.transaction()``, or one within ``datastore.join`` or ``datastore.join_django``.

        Returns:
            The given tasks, now with names.

        Raises:
            TooManyTasksError: the request has more than 100 tasks.
            DuplicateTaskNameError: two tasks in the request have the same name.
            BadTaskStateError: a task object has already been added.
            BadTransactionStateError: the call is transactional but there is no transaction, or it has failed.
            TaskAlreadyExistsError, TombstonedTaskError: the name is in use, or was used recently.
            UnknownQueueError, InvalidQueueModeError: the queue does not exist, or it has the other mode.
            TransientError: the queue is draining; or Redis is unavailable, and the tasks may or may not have
                been added. A retry adds a named task at most once.
        """
        tasks = [task] if isinstance(task, Task) else list(task)
        add_tasks(self._name, tasks, transactional=transactional)
        return task if isinstance(task, Task) else tasks

    def add_async(
        self, task: Task | Iterable[Task], transactional: bool = False, rpc: RPC | None = None
    ) -> Result[Any]:
        """Call ``add`` and return its outcome as a ``Result``, or in the given ``rpc``."""
        return result_of(lambda: self.add(task, transactional=transactional), rpc)

    def delete_tasks_async(self, task: Task | Iterable[Task], rpc: RPC | None = None) -> Result[Any]:
        """Call ``delete_tasks`` and return its outcome as a ``Result``, or in the given ``rpc``."""
        return result_of(lambda: self.delete_tasks(task), rpc)

    def delete_tasks_by_name_async(
        self, task_name: str | Iterable[str], rpc: RPC | None = None
    ) -> Result[Any]:
        """Call ``delete_tasks_by_name`` and return its outcome as a ``Result``, or in the given ``rpc``."""
        return result_of(lambda: self.delete_tasks_by_name(task_name), rpc)

    def delete_tasks(self, task: Task | Iterable[Task]) -> Task | list[Task]:
        """Delete tasks in any state, and set ``was_deleted`` on each task that existed.

        Raises:
            BadTaskStateError: a task has no name, or has already been deleted.
            DuplicateTaskNameError: two tasks in the request have the same name.
            UnknownQueueError: queue.yaml does not define the queue.
        """
        tasks = [task] if isinstance(task, Task) else list(task)
        for each in tasks:
            if not isinstance(each, Task):
                raise TypeError(f"delete_tasks accepts only tasks, not {type(each).__name__}")
            if not each.name:
                raise BadTaskStateError("a task without a name cannot be deleted, because it was never added")
            if each.was_deleted:
                raise BadTaskStateError(f"task {each.name!r} has already been deleted")
        check_duplicates(tasks)
        deleted = self._delete([each.name for each in tasks if each.name])
        for each, is_deleted in zip(tasks, deleted, strict=True):
            if is_deleted:
                each._mark_deleted()
        return task if isinstance(task, Task) else tasks

    def delete_tasks_by_name(self, task_name: str | Iterable[str]) -> Task | list[Task]:
        """Delete tasks by name. The ``was_deleted`` of each returned task says whether the task existed."""
        names = [task_name] if isinstance(task_name, str) else list(task_name)
        tasks = [Task(name=each) for each in names]
        self.delete_tasks(tasks)
        return tasks[0] if isinstance(task_name, str) else tasks

    def delete_tasks_and_free_names(self, task_name: str | Iterable[str]) -> list[bool]:
        """Delete tasks by name in any state, and let their names be used again immediately.

        ``delete_tasks`` keeps a name blocked for nine days, as App Engine does, so that a repeated add is
        refused. Free a name only if no earlier request to add the task can still arrive.

        Args:
            task_name: a name, or an iterable of names.

        Returns:
            A list that says for each name whether the task existed. Every one of the names is free.

        Raises:
            InvalidTaskNameError: a name is not a valid task name.
            UnknownQueueError: queue.yaml does not define the queue.
            TransientError: Redis is unavailable.
        """
        names = [task_name] if isinstance(task_name, str) else list(task_name)
        for name in names:
            checks.checked_name(name)
        self._existing()
        control = Control(store.current())
        deleted: list[bool] = []
        for first in range(0, len(names), MAX_TASKS_PER_ADD):
            deleted += control.delete_and_free(self._name, names[first : first + MAX_TASKS_PER_ADD])
        return deleted

    def purge(self) -> None:
        """Delete all of the queue's tasks. Their names stay blocked as if the tasks had run.

        Raises:
            UnknownQueueError: queue.yaml does not define the queue.
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
        """Stop delivering the queue's tasks. The queue still accepts new tasks, and running tasks finish."""
        self._set_paused(True)

    def resume(self) -> None:
        """Resume delivering the queue's tasks."""
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

    def drain(self) -> None:
        """Refuse new tasks with a ``TransientError``, but deliver the queue's tasks and their retries.

        Other processes refuse tasks within a second. Transactional tasks whose transaction has committed are
        still delivered.
        """
        self._set_draining(True)

    def undrain(self) -> None:
        """Accept new tasks again."""
        self._set_draining(False)

    def is_draining(self) -> bool:
        """Whether the queue refuses new tasks."""
        return self._existing().is_draining

    def _set_draining(self, is_draining: bool) -> None:
        self._existing()
        directory = queue_directory.current()
        directory.require_upload()
        has_changed = Control(directory.store).drain(self._name, is_draining)
        directory.refresh(is_urgent=True)
        if has_changed:
            _log.info("queue.drain" if is_draining else "queue.undrain", queue=self._name)

    def run_now(self, name: str) -> None:
        """Run a task now, whatever its ETA and its queue's rate, bucket, concurrency limit or pause.

        A dead letter that runs again gets all its retries back.

        Raises:
            InvalidTaskError: the queue has no task with this name.
            BadTaskStateError: the task is already running, or is waiting for its batch to complete.
        """
        self._existing()
        outcome = Broker(store.current()).run_now(record.task_id(self._name, name))
        if outcome == "gone":
            raise InvalidTaskError(f"queue {self._name!r} has no task {name!r}")
        if outcome == "running":
            raise BadTaskStateError(f"task {name!r} is already running")
        if outcome == "waiting":
            raise BadTaskStateError(f"task {name!r} will run when its batch is complete")
        _log.info("task.run_now", queue=self._name, task=name)

    def retry_dead(self, names: Sequence[str]) -> list[bool]:
        """Run dead letters again with all their retries, within the queue's limits.

        Returns:
            A list that says for each name whether the task was a dead letter.
        """
        self._existing()
        ids = [record.task_id(self._name, name) for name in names]
        found: list[bool] = []
        for first in range(0, len(ids), DEAD_PER_CALL):
            found += Broker(store.current()).retry_dead(ids[first : first + DEAD_PER_CALL])
        return found

    def fetch_statistics(self, deadline: float = 10) -> "QueueStatistics":
        """Read the queue's statistics.

        Args:
            deadline: the limit for the whole call on App Engine; here, the Redis call has its own timeout.
        """
        checks.check_call_deadline(deadline)
        return _read_statistics([self])[0]

    def fetch_statistics_async(self, rpc: RPC | None = None) -> "Result[QueueStatistics]":
        """Call ``fetch_statistics`` and return its outcome as a ``Result``, or in the given ``rpc``."""
        return result_of(self.fetch_statistics, rpc)

    # --- pull queues; each ``…_async`` method makes its call immediately ------------------

    def lease_tasks(self, lease_seconds: float, max_tasks: int, deadline: float = 10) -> list[Task]:
        """Lease tasks, so that no other caller gets them until the lease ends. Delete each finished task.

        Args:
            lease_seconds: the length of the lease, from 0 to 604,800 (a week); fractions are allowed.
            max_tasks: the maximum number of tasks, 1 … 1,000; one call returns at most 32 MiB of payloads.
            deadline: the limit for the whole call on App Engine; here, the Redis call has its own timeout.

        Returns:
            The due tasks, ordered by eta and then by name; an empty list if no task is due.

        Raises:
            InvalidLeaseTimeError, InvalidMaxTasksError, InvalidDeadlineError: the value is out of range (a
                value that is not a number raises TypeError).
            UnknownQueueError, InvalidQueueModeError: the queue does not exist, or it is a push queue.
            TransientError: Redis is unavailable.
        """
        return self._lease(lease_seconds, max_tasks, None, deadline)

    def lease_tasks_by_tag(
        self, lease_seconds: float, max_tasks: int, tag: str | None = None, deadline: float = 10
    ) -> list[Task]:
        """Lease tasks with one tag.

        Args:
            lease_seconds: the same as for ``lease_tasks``.
            max_tasks: the same as for ``lease_tasks``.
            tag: the tag; None or '' means the oldest task's tag. If that task has no tag, this leases the
                untagged tasks among the oldest ``max_tasks``.
            deadline: the same as for ``lease_tasks``.

        Raises:
            InvalidTagError: the tag is not a string, or it is too long. For other errors see ``lease_tasks``.
        """
        checks.check_tag(tag)
        return self._lease(lease_seconds, max_tasks, tag or "", deadline)

    def modify_task_lease(self, task: Task, lease_seconds: float) -> None:
        """Make a task's lease end ``lease_seconds`` from now; 0 returns the task immediately.

        This updates the task's ``eta`` but does not increase its ``retry_count``.

        Args:
            task: a task that ``lease_tasks`` returned.
            lease_seconds: the new duration of the lease, in seconds; at most a week.

        Raises:
            TaskLeaseExpiredError: the lease has expired, or another caller has leased the task since then.
            QueuePausedError: the queue is paused.
            TombstonedTaskError: the task was deleted.
            Error: no task with this name ever existed; for the subclasses see ``lease_tasks``.
            BadTaskStateError: the task has no name because it was never added.
        """
        seconds = checks.checked_lease_seconds(lease_seconds)
        if not isinstance(task, Task):
            raise TypeError(f"modify_task_lease accepts a task, not {type(task).__name__}")
        if not task.name:
            raise BadTaskStateError("a task without a name has no lease, because it was never added")
        self._check_mode()
        steps = PullSteps(store.current())
        code, eta = steps.modify(self._name, task.name, task.eta_posix, seconds)
        if eta is None:
            raise self._lease_refusal(task, code)
        task._move_eta(eta)

    def lease_tasks_async(
        self, lease_seconds: float, max_tasks: int, rpc: RPC | None = None
    ) -> Result[list[Task]]:
        """Call ``lease_tasks`` and return its outcome as a ``Result``, or in the given ``rpc``."""
        return result_of(lambda: self.lease_tasks(lease_seconds, max_tasks), rpc)

    def lease_tasks_by_tag_async(
        self, lease_seconds: float, max_tasks: int, tag: str | None = None, rpc: RPC | None = None
    ) -> Result[list[Task]]:
        """Call ``lease_tasks_by_tag`` and return its outcome as a ``Result``, or in the given ``rpc``."""
        return result_of(lambda: self.lease_tasks_by_tag(lease_seconds, max_tasks, tag), rpc)

    def modify_task_lease_async(
        self, task: Task, lease_seconds: float, rpc: RPC | None = None
    ) -> Result[None]:
        """Call ``modify_task_lease`` and return its outcome as a ``Result``, or in the given ``rpc``."""
        return result_of(lambda: self.modify_task_lease(task, lease_seconds), rpc)

    def _lease(self, lease_seconds: float, max_tasks: int, tag: str | None, deadline: float) -> list[Task]:
        seconds = checks.checked_lease_seconds(lease_seconds)
        max_count = checks.checked_max_tasks(max_tasks)
        checks.check_call_deadline(deadline)
        self._check_mode()
        return PullSteps(store.current()).lease(self._name, seconds, max_count, tag, self._task_of)

    def _task_of(self, leased: PullTask) -> Task:
        """Convert a leased task to a ``Task``. A damaged record raises the same errors as ``Task``."""
        task = Task(leased.body, name=leased.name, method="PULL", tag=leased.tag, _size_check=False)
        task._mark_leased(self._name, leased.eta, leased.leases)
        return task

    def _check_mode(self) -> None:
        if self._existing().mode != "pull":
            raise InvalidQueueModeError(
                f"queue {self._name!r} is a push queue in queue.yaml, so its tasks are delivered, not "
                "leased; set 'mode: pull' to lease them"
            )

    def _lease_refusal(self, task: Task, code: str) -> TaskQueueError:
        what = f"task {task.name!r} of queue {self._name!r}"
        if code == "paused":
            return QueuePausedError(
                f"queue {self._name!r} is paused; its leases cannot be changed until it is resumed"
            )
        if code == "expired":
            return TaskLeaseExpiredError(f"the lease of {what} has expired; lease the task again")
        # A generated name leaves no tombstone, but a caller that has this object knows that the task existed.
        if code == "tombstoned" or (task.was_enqueued and task.queue_name == self._name):
            return TombstonedTaskError(f"{what} was deleted, or has used up its leases")
        return TaskQueueError(f"{what} does not exist")


# --- statistics ---------------------------------------------------------------------------


@pickled_as("lastacross.taskqueue.statistics")
@dataclass(frozen=True, slots=True)
class QueueStatistics:
    """A snapshot of a queue's statistics. For an unknown queue, ``tasks`` is 0 and the others are None.

    Attributes:
        queue: the queue.
        tasks: the number of ready, scheduled and running tasks (or leased tasks, in a pull queue).
        oldest_eta_usec: the oldest task's ETA in microseconds since the epoch; None if there are no tasks.
        executed_last_minute: the number of attempts that ended in the last 60 seconds, successful or not.
        in_flight: the number of running deliveries, or of leases in a pull queue.
        enforced_rate: the number of tasks per second that may start now, which is the queue's rate, or 0
            while the queue is paused or disabled.
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
        """Read the statistics of one queue, or a list of statistics for several queues.

        Args:
            queue_or_queues: a queue or its name, or an iterable of either queues or names.
            deadline: the limit for the whole call on App Engine; here, the Redis call has its own timeout.

        Raises:
            TypeError: the iterable mixes queues and names.
            InvalidQueueNameError: a name is not a valid queue name.
            InvalidDeadlineError: the deadline leaves no time.
            TransientError: Redis is unavailable.
        """
        checks.check_call_deadline(deadline)
        if isinstance(queue_or_queues, Queue | str):
            return _read_statistics(_queues_of([queue_or_queues]))[0]
        return _read_statistics(_queues_of(list(queue_or_queues)))

    @classmethod
    def fetch_async(
        cls, queue_or_queues: Queue | str | Iterable[Queue] | Iterable[str], rpc: RPC | None = None
    ) -> Result[Any]:
        """Call ``fetch`` and return its outcome as a ``Result``, or in the given ``rpc``."""
        return result_of(lambda: cls.fetch(queue_or_queues), rpc)


def _queues_of(given: list[Queue | str]) -> list[Queue]:
    if all(isinstance(each, Queue) for each in given):
        return [each for each in given if isinstance(each, Queue)]
    if all(isinstance(each, str) for each in given):
        return [Queue(str(each)) for each in given]
    raise TypeError("fetch accepts either queues or names of queues, not both")


def _read_statistics(queues: Sequence[Queue]) -> list[QueueStatistics]:
    found = Broker(store.current()).read_statistics(*(queue.name for queue in queues))
    return [_statistics(queue, numbers) for queue, numbers in zip(queues, found, strict=True)]


def _statistics(queue: Queue, numbers: QueueNumbers) -> QueueStatistics:
    rate = numbers.rate
    if rate is None:
        # Use this process's queue.yaml, because nothing is uploaded yet or Redis was flushed.
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
