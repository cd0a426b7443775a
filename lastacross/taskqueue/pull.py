"""Pull queues: the application leases their tasks, does them, and deletes them.

Rules: docs/appengine.md, "Pull queues". A lease moves the task's eta to the lease's end: until then nobody
else is given it, and after that anybody.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from lastacross import logs, store
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
from lastacross.store import Arg, Store
from lastacross.taskqueue import checks
from lastacross.taskqueue.broker import NewTask
from lastacross.taskqueue.known import KnownQueue
from lastacross.taskqueue.names import new_name
from lastacross.taskqueue.record import Value, instant_text
from lastacross.taskqueue.task import Task

MAX_LEASE_SECONDS = 604_800
MAX_TASKS_PER_LEASE = 1000

# A hundred tasks of 1 MiB in one script would hold up everybody for 0.15 s.
PORTION_BYTES = 8 << 20

# Whose tasks a lease takes.
_ALL, _TAG, _OLDEST_TAG = "", "tag", "oldest"

T = TypeVar("T")

_log = logs.get("lastacross.taskqueue")


# --- steps --------------------------------------------------------------------------------


class PullSteps:
    """The steps of a pull task's life, each one Lua file run in Redis.

    Args:
        opened: the store that they run on.
    """

    def __init__(self, opened: Store) -> None:
        self.store = opened

    def _run(self, script: str, args: Sequence[Arg]) -> Any:
        return self.store.run(script, (), args)

    def add(self, tasks: Sequence[NewTask]) -> list[int]:
        """Store new tasks: for each ``ADDED``, ``EXISTS`` or ``TOMBSTONED``."""
        answers: list[int] = []
        for portion in _portions(tasks):
            args: list[Arg] = []
            for task in portion:
                eta = self.store.now() if task.eta is None else task.eta
                args += (task.id, instant_text(eta), len(task.fields))
                args += task.fields
            answers += self._run("add_pull_tasks", args)
        return answers

    def lease(self, queue: str, lease_seconds: float, max_tasks: int, tag: str | None = None) -> list[Task]:
        """Lease up to so many tasks whose eta has passed.

        Args:
            queue: the queue's name.
            lease_seconds: from now.
            max_tasks: the most tasks.
            tag: None: of any tag; '': of the tag of the oldest; else of this one.
        """
        grouping = _ALL if tag is None else _TAG if tag else _OLDEST_TAG
        args: list[Arg] = [instant_text(self.store.now()), queue, lease_seconds, max_tasks]
        tasks, buried = self._run("lease_pull_tasks", [*args, grouping, tag or "", new_name()])
        for name in buried:
            reason = "leased task_retry_limit times without being deleted, or damaged"
            _log.error("task.dead_letter", queue=queue, task=name.decode("utf-8", "replace"), reason=reason)
        return [task for entry in tasks if (task := self._readable(queue, entry)) is not None]

    def _readable(self, queue: str, entry: Sequence[Any]) -> Task | None:
        try:
            return _leased_task(queue, entry)
        except (ValueError, TaskQueueError) as error:
            # Raised, it would keep the other tasks of this answer from everybody until their leases end.
            _log.error("task.dead_letter", queue=queue, task=repr(entry[0]), reason=f"damaged: {error}")
            self._run("bury_pull_task", [instant_text(self.store.now()), queue, entry[0], str(error)])
            return None

    def modify(self, queue: str, task: Task, lease_seconds: float) -> tuple[str, float | None]:
        """Let a lease end so many seconds from now: 'ok' and the new eta, else why not."""
        args: list[Arg] = [
            instant_text(self.store.now()),
            queue,
            str(task.name),
            instant_text(task.eta_posix),
        ]
        code, eta = self._run("modify_pull_lease", [*args, lease_seconds, new_name()])
        return code.decode(), float(eta) if eta else None


def _portions(tasks: Sequence[NewTask]) -> Iterator[list[NewTask]]:
    """The tasks in their order, but for a single larger one at most ``PORTION_BYTES`` at a time."""
    portion: list[NewTask] = []
    size = 0
    for task in tasks:
        own_size = sum(map(len, task.fields))
        if portion and size + own_size > PORTION_BYTES:
            yield portion
            portion, size = [], 0
        portion.append(task)
        size += own_size
    if portion:
        yield portion


def new_pull_task(identifier: str, task: Task, fields: list[Value], now: float) -> NewTask:
    """A pull task on its way to Redis. Unlike a push task's, an eta in the past is kept: it is its rank.

    Args:
        identifier: its id.
        task: what the caller gave.
        fields: its record, without its tag.
        now: seconds since the epoch.
    """
    due = task.due_at(now)
    if task.tag:
        fields = [*fields, "tag", task.tag]
    return NewTask(identifier, now if due is None else due, fields, bool(task.name), is_pull=True)


def _leased_task(queue: str, entry: Sequence[Any]) -> Task:
    name, eta, leases, tag, body = entry
    task = Task(body, name=name.decode(), method="PULL", tag=tag.decode() if tag else None, _size_check=False)
    task._mark_leased(queue, float(eta), leases)
    return task


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
        code, eta = _transient(lambda: PullSteps(store.current()).modify(self._name, task, seconds))
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
        return _transient(lambda: PullSteps(store.current()).lease(self._name, seconds, most, tag))

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
