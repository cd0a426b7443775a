"""``Queue``: what an application or an operator asks of a queue, with App Engine's checks and errors."""

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
from lastacross.rpc import Result
from lastacross.taskqueue import checks
from lastacross.taskqueue.task import MAX_TASKS_PER_ADD, Task, add_tasks, check_duplicates, known_queue

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
        InvalidTaskError: the task cannot be used as it is; its subclasses say what is wrong.
        TaskAlreadyExistsError, TombstonedTaskError: the name is in use, or was until lately.
        UnknownQueueError: queue.yaml has no such queue.
        TransientError: Redis is away; the call may be repeated.
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
        """Add a task, or up to 100 tasks in one step of Redis.

        Nothing is added when any task is bad in itself. A name in use on one task does not undo the others:
        one error is raised for the request, and the tasks that were added have ``was_enqueued`` set.

        Args:
            task: one, or several.
            transactional: add if, and only if, the running ``datastore.transaction()`` commits.

        Returns:
            What was given, with names.

        Raises:
            TooManyTasksError: more than 100.
            DuplicateTaskNameError: one name twice in the request.
            BadTaskStateError: a task object was added before.
            BadTransactionStateError: transactional outside of a transaction.
            TaskAlreadyExistsError, TombstonedTaskError: the name is in use, or was until lately.
            UnknownQueueError, InvalidQueueModeError: of the queue.
            TransientError: Redis is away; the call may be repeated.
        """
        tasks = [task] if isinstance(task, Task) else list(task)
        add_tasks(self._name, tasks, transactional=transactional)
        return task if isinstance(task, Task) else tasks

    def add_async(self, task: Task | Iterable[Task], transactional: bool = False) -> Result[Any]:
        """``add`` behind ``get_result()``."""
        return Result.of(lambda: self.add(task, transactional=transactional))

    def delete_tasks_async(self, task: Task | Iterable[Task]) -> Result[Any]:
        """``delete_tasks`` behind ``get_result()``."""
        return Result.of(lambda: self.delete_tasks(task))

    def delete_tasks_by_name_async(self, name: str | Iterable[str]) -> Result[Any]:
        """``delete_tasks_by_name`` behind ``get_result()``."""
        return Result.of(lambda: self.delete_tasks_by_name(name))

    def delete_tasks(self, task: Task | Iterable[Task]) -> Task | list[Task]:
        """Delete tasks, wherever they wait; sets ``was_deleted`` on those that were there.

        Raises:
            BadTaskStateError: a task has no name, or was deleted before.
            DuplicateTaskNameError: one name twice in the request.
            UnknownQueueError: queue.yaml has no such queue.
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
        """Delete tasks by their names; ``was_deleted`` of the answer says which were there."""
        names = [name] if isinstance(name, str) else list(name)
        tasks = [Task(name=each) for each in names]
        self.delete_tasks(tasks)
        return tasks[0] if isinstance(name, str) else tasks

    def purge(self) -> None:
        """Delete all tasks of the queue; their names stay refused as if they had run.

        Raises:
            UnknownQueueError: queue.yaml has no such queue.
            TransientError: Redis is away.
        """
        self._known()
        tasks = Broker(store.current()).purge(self._name)
        _log.info("queue.purge", queue=self._name, tasks=tasks)

    def _delete(self, names: Sequence[str]) -> list[bool]:
        self._known()
        ids = [record.task_id(self._name, name) for name in names]
        deleted: list[bool] = []
        for first in range(0, len(ids), MAX_TASKS_PER_ADD):
            deleted += Broker(store.current()).delete(ids[first : first + MAX_TASKS_PER_ADD])
        return deleted

    def _known(self) -> KnownQueue:
        return known_queue(self._name)

    # --- control -----------------------------------------------------------------------

    def pause(self) -> None:
        """Deliver no more of its tasks; adds are accepted, what runs finishes."""
        self._set_paused(True)

    def resume(self) -> None:
        """Deliver again."""
        self._set_paused(False)

    def is_paused(self) -> bool:
        """Whether somebody has paused it. A rate of 0 in queue.yaml is another matter."""
        self._known()
        return Broker(store.current()).is_paused(self._name)

    def _set_paused(self, is_paused: bool) -> None:
        self._known()
        has_changed = Broker(store.current()).pause(self._name, is_paused)
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
        outcome = Broker(store.current()).run_now(record.task_id(self._name, name))
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
        for first in range(0, len(ids), DEAD_PER_CALL):
            found += Broker(store.current()).retry_dead(ids[first : first + DEAD_PER_CALL])
        return found

    def fetch_statistics(self, deadline: float = 10) -> "QueueStatistics":
        """How it is doing: a ``QueueStatistics``.

        Args:
            deadline: App Engine's, for the whole call; here the answer of Redis has its own.
        """
        checks.check_call_deadline(deadline)
        return _read_statistics(self)

    def fetch_statistics_async(self) -> "Result[QueueStatistics]":
        """``fetch_statistics`` behind ``get_result()``."""
        return Result.of(self.fetch_statistics)

    # --- pull queues: each ``…_async`` twin makes the call at once and keeps its end ------

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
        seconds = checks.checked_lease_seconds(lease_seconds)
        most = checks.checked_max_tasks(max_tasks)
        checks.check_call_deadline(deadline)
        self._check_mode()
        return PullSteps(store.current()).lease(self._name, seconds, most, tag, self._task_of)

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


# --- statistics ---------------------------------------------------------------------------


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
            return _read_statistics(_queues_of([queue_or_queues])[0])
        return [_read_statistics(queue) for queue in _queues_of(list(queue_or_queues))]

    @classmethod
    def fetch_async(cls, queue_or_queues: Queue | str | Iterable[Queue] | Iterable[str]) -> Result[Any]:
        """``fetch`` behind ``get_result()``."""
        return Result.of(lambda: cls.fetch(queue_or_queues))


def _queues_of(given: list[Queue | str]) -> list[Queue]:
    if all(isinstance(each, Queue) for each in given):
        return [each for each in given if isinstance(each, Queue)]
    if all(isinstance(each, str) for each in given):
        return [Queue(str(each)) for each in given]
    raise TypeError("fetch takes queues or names of queues, not both and nothing else")


def _read_statistics(queue: Queue) -> QueueStatistics:
    numbers = Broker(store.current()).read_statistics(queue.name)
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
