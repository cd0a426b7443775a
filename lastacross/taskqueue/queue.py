"""``Queue``: what an application asks of a queue, with App Engine's checks and errors."""

import re
from collections.abc import Iterable, Sequence
from typing import Any, overload

from lastacross import config, datastore, logs, store
from lastacross.broker import (
    EXISTS,
    TOMBSTONED,
    Broker,
    KnownQueue,
    NewTask,
    PullSteps,
    new_name,
    queue_directory,
    record,
)
from lastacross.datastore import outbox
from lastacross.errors import (
    BadTaskStateError,
    BadTransactionStateError,
    DuplicateTaskNameError,
    InvalidQueueModeError,
    InvalidQueueNameError,
    InvalidTaskError,
    StoreUnavailableError,
    TaskAlreadyExistsError,
    TombstonedTaskError,
    TooManyTasksError,
    TransientError,
    UnknownQueueError,
)
from lastacross.rpc import Result
from lastacross.taskqueue import task as tasks_module
from lastacross.taskqueue.control import Control
from lastacross.taskqueue.new_tasks import claim_payloads, due_at, new_pull_task, record_of
from lastacross.taskqueue.pull import PullOperations
from lastacross.taskqueue.targets import Targets
from lastacross.taskqueue.task import Task

DEFAULT_QUEUE = "default"
MAX_TASKS_PER_ADD = 100

_log = logs.get("lastacross.taskqueue")
_QUEUE_NAME = re.compile(r"[a-zA-Z0-9-]{1,100}")


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


class Queue(Control, PullOperations):
    """One queue of queue.yaml.

    Args:
        name: letters, digits and hyphens, at most 100.

    Raises:
        InvalidQueueNameError: the name has another character or is too long.
    """

    def __init__(self, name: str = DEFAULT_QUEUE) -> None:
        if not isinstance(name, str) or not _QUEUE_NAME.fullmatch(name):
            raise InvalidQueueNameError(
                f"queue name {name!r} must be 1 to 100 letters, digits and hyphens, without an underscore"
            )
        self._name = name

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
        queue = self._check_request(tasks)
        if transactional:
            self._check_transaction(tasks)
            self._add_to_outbox(tasks, queue)
        elif tasks:
            self._add_now(tasks, queue)
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
        self._check_duplicates(tasks)
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
        try:
            tasks = Broker(store.current()).purge(self._name)
        except StoreUnavailableError as error:
            raise TransientError(str(error)) from error
        _log.info("queue.purge", queue=self._name, tasks=tasks)

    # --- checks ------------------------------------------------------------------------

    def _known(self) -> KnownQueue:
        queue = queue_directory.current().find(self._name)
        if queue is None:
            names = ", ".join(sorted(queue_directory.current().all()))
            raise UnknownQueueError(f"queue.yaml has no queue {self._name!r}; it has {names}")
        return queue

    def _targets(self) -> Targets:
        return Targets(self._known().target, config.current())

    def _check_request(self, tasks: Sequence[Task]) -> KnownQueue:
        if len(tasks) > MAX_TASKS_PER_ADD:
            raise TooManyTasksError(
                f"{len(tasks)} tasks in one request; at most {MAX_TASKS_PER_ADD}, or use a Batch"
            )
        for task in tasks:
            if not isinstance(task, Task):
                raise TypeError(f"add takes tasks, not {type(task).__name__}")
            if task.was_enqueued:
                raise BadTaskStateError(f"task {task.name!r} was added already; make a new Task")
        if len(tasks) > 1:
            self._check_together(tasks)
        queue = self._known()
        if tasks and (tasks[0].method == "PULL") != (queue.mode == "pull"):
            raise InvalidQueueModeError(f"queue {self._name!r} is a {queue.mode} queue in queue.yaml")
        return queue

    def _check_together(self, tasks: Sequence[Task]) -> None:
        if len({id(task) for task in tasks}) < len(tasks):
            raise BadTaskStateError("one Task object is twice in the request; make a new Task")
        self._check_duplicates(tasks)
        if len({task.method == "PULL" for task in tasks}) > 1:
            raise InvalidTaskError("push and pull tasks cannot be added in one request")

    @staticmethod
    def _check_duplicates(tasks: Sequence[Task]) -> None:
        names = [task.name for task in tasks if task.name]
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            raise DuplicateTaskNameError(
                f"names given to two tasks of one request: {', '.join(sorted(twice))}"
            )

    @staticmethod
    def _check_transaction(tasks: Sequence[Task]) -> None:
        if datastore.current_transaction() is None:
            raise BadTransactionStateError("transactional=True needs a running datastore.transaction()")
        named = [task.name for task in tasks if task.name]
        if named:
            raise InvalidTaskError(f"a transactional task cannot have a name: {named[0]!r}")

    # --- adding ------------------------------------------------------------------------

    def _add_now(self, tasks: Sequence[Task], queue: KnownQueue) -> None:
        broker = Broker(store.current())
        try:
            entries = self._entries(tasks, queue, broker.now())
            claim_payloads(tasks, entries)
            codes = self._send(broker, entries)
        except StoreUnavailableError as error:
            raise TransientError(str(error)) from error
        refusals = []
        for task, entry, code in zip(tasks, entries, codes, strict=True):
            if code == TOMBSTONED or (code == EXISTS and entry.is_named):
                refusals.append((task, code))
            else:
                # A name of our own that exists is this very request, repeated after a lost answer.
                self._mark(task, entry)
        if refusals:
            raise self._refusal(*refusals[0])

    @staticmethod
    def _send(broker: Broker, entries: Sequence[NewTask]) -> Sequence[int]:
        first = entries[0]
        if first.is_pull:
            return PullSteps(broker.store).add(entries)
        if len(entries) == 1 and first.eta is None and first.target is None and not first.is_named:
            return (broker.add_ready(first),)
        if any(entry.target for entry in entries):
            queue_directory.current().require_upload()
        return broker.add(entries)

    def _add_to_outbox(self, tasks: Sequence[Task], queue: KnownQueue) -> None:
        transaction = datastore.current_transaction()
        assert transaction is not None
        entries = self._entries(tasks, queue, outbox.now(), tombstone=outbox.MARKER_SECONDS)
        outbox.write(transaction, entries)
        claim_payloads(tasks, entries, transaction)
        for task, entry in zip(tasks, entries, strict=True):
            self._mark(task, entry)
            transaction.after_rollback(task._mark_taken_back)

    def _entries(
        self, tasks: Sequence[Task], queue: KnownQueue, now: float, *, tombstone: int | None = None
    ) -> list[NewTask]:
        targets = Targets(queue.target, config.current())
        return [self._entry(task, targets, now, tombstone) for task in tasks]

    def _entry(self, task: Task, targets: Targets, now: float, tombstone: int | None) -> NewTask:
        name = task.name or new_name()
        if task.name:
            tombstone = max(targets.configuration.settings.tombstone_seconds, tombstone or 0)
        identifier = record.task_id(self._name, name)
        is_pull = task.method == "PULL"
        target = None if is_pull else targets.of(task, self._name)
        fields = record_of(task, self._name, now, tombstone=tombstone, target=target)
        if task.name:
            fields += ("request", new_name())
        if is_pull:
            return new_pull_task(identifier, task, fields, now)
        return NewTask(identifier, due_at(task, now), fields, bool(task.name), target)

    def _mark(self, task: Task, entry: NewTask) -> None:
        task._mark_enqueued(self._name, record.split_task_id(entry.id)[1])

    def _refusal(self, task: Task, code: int) -> InvalidTaskError:
        if code == EXISTS:
            return TaskAlreadyExistsError(f"a task named {task.name!r} waits or runs in queue {self._name!r}")
        return TombstonedTaskError(
            f"a task named {task.name!r} has been in queue {self._name!r}; its name is not free again yet"
        )

    def _delete(self, names: Sequence[str]) -> list[bool]:
        self._known()
        ids = [record.task_id(self._name, name) for name in names]
        deleted: list[bool] = []
        try:
            for first in range(0, len(ids), MAX_TASKS_PER_ADD):
                deleted += Broker(store.current()).delete(ids[first : first + MAX_TASKS_PER_ADD])
        except StoreUnavailableError as error:
            raise TransientError(str(error)) from error
        return deleted


def _add_to_queue(task: Task, queue_name: str, transactional: bool) -> Task:
    return Queue(queue_name).add(task, transactional=transactional)


tasks_module.add_to_queue = _add_to_queue
