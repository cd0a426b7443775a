"""Defines a task, which is a request to one of the application's handlers, and functions that add tasks.

``Task`` checks and stores the values. The functions below it build the record and pass it to the broker.
Both ``Task.add`` and ``Queue.add`` use these functions. The rules are in docs/appengine.md, under "Tasks" and
"Targets".
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Never

from lastacross import clock, datastore, store, tracing
from lastacross.broker import (
    EXISTS,
    TOMBSTONED,
    Broker,
    Headers,
    KnownQueue,
    NewTask,
    PullSteps,
    Value,
    checked_items,
    is_reserved,
    new_name,
    queue_directory,
    record,
    refuse_new_tasks,
)
from lastacross.config import DEFAULT_SERVICE, Config, service_of
from lastacross.errors import (
    BadTaskStateError,
    DuplicateTaskNameError,
    InvalidQueueModeError,
    InvalidTaskError,
    TaskAlreadyExistsError,
    TombstonedTaskError,
    TooManyTasksError,
    UnknownQueueError,
)
from lastacross.rpc import RPC, Result
from lastacross.taskqueue import body as bodies
from lastacross.taskqueue import checks
from lastacross.taskqueue.calls import result_of
from lastacross.taskqueue.options import TaskRetryOptions

MAX_TASKS_PER_ADD = 100
QUEUE_URL_PREFIX = "/_ah/queue/"
# This prefix marks a service that dispatch.yaml chose, which overrides the queue's own target.
DISPATCHED = "!"

# The number of bytes for a header's colon, space and line break on the wire.
_HEADER_OVERHEAD = 4
# App Engine's client adds this header to each task. We have only one namespace, whose name is empty.
_NAMESPACE = "X-AppEngine-Current-Namespace"


class Task:
    """One unit of work: a request for a push queue, or a task for a pull queue (method PULL).

    Args:
        payload: the body. Text is sent as UTF-8 with a text/plain content type; bytes are sent unchanged.
        name: a name that is unique in its queue and blocked for nine days after use; generated if missing.
        url: a path of this application; by default ``/_ah/queue/<queue>``.
        method: POST (default), GET, HEAD, PUT, DELETE, or PULL.
        params: the form fields for a POST's body or any other method's query; a list repeats its field.
        headers: the headers to send with the request, except headers that the engine sets itself.
        countdown: the number of seconds from now until the task may run; may be negative.
        eta: the earliest time to run, at most 30 days ahead; a naive datetime is in local time.
        retry_options: the task's own options, which replace all of the queue's retry parameters.
        tag: a tag that groups pull tasks.
        target: the ``[instance.][version.]service`` that receives the task.
        dispatch_deadline_usec: the maximum time for one delivery in microseconds, from 15 s to 24 h.

    Raises:
        InvalidTaskError: a value is invalid; the subclasses say which.
        TypeError: a keyword is unknown, or a deadline is not an int.
    """

    _queue_name: str | None = None
    _retry_count = 0
    _was_enqueued = False
    _was_deleted = False
    _payload_row: int | None = None

    def __init__(
        self,
        payload: str | bytes | None = None,
        *,
        name: str | None = None,
        url: str | None = None,
        method: str = "POST",
        params: Mapping[Any, Any] | None = None,
        headers: Mapping[str, Any] | None = None,
        countdown: float | None = None,
        eta: datetime | None = None,
        retry_options: TaskRetryOptions | None = None,
        tag: str | None = None,
        target: str | None = None,
        dispatch_deadline_usec: int | None = None,
        _size_check: bool = True,
        **unknown: Never,
    ) -> None:
        if unknown:
            raise TypeError("Invalid arguments: " + ", ".join(sorted(unknown)))
        self._name = checks.checked_name(name) if name else None
        self._on_queue_url = not url
        path, query = checks.split_url(url) if url else ("", "")
        self._method = checks.checked_method(method)
        checks.check_combination(self._method, query, params, tag)
        if self._method == "PULL":
            checks.check_pull(url, headers, target)
        self._own_headers = checked_items(headers) if headers else ()
        self._payload, self._content_type, query = bodies.encoded(self._method, payload, params, query)
        self._url = f"{path}?{query}" if query else path
        self._relative_url = self._url
        self._target = checks.checked_target(target, self._own_headers) if target else None
        self._set_eta(eta, countdown)
        self._size = self._measure()
        self._tag = tag
        if _size_check:
            checks.check_size(self._method, self._size, tag)
        if dispatch_deadline_usec is not None:
            checks.check_deadline(dispatch_deadline_usec)
        self._dispatch_deadline_usec = dispatch_deadline_usec
        self._retry_options = retry_options

    def _set_eta(self, eta: datetime | None, countdown: float | None) -> None:
        now = clock.SYSTEM.now()
        self._countdown = None if countdown is None else checks.finite_seconds(countdown)
        self._has_eta = eta is not None
        if eta is not None:
            if countdown is not None:
                raise InvalidTaskError("eta and countdown are both given; give only one of them")
            self._eta_posix = checks.instant(eta)
        else:
            self._eta_posix = now + (self._countdown or 0.0)
        checks.check_eta(self._eta_posix, now)

    def _measure(self) -> int:
        # A task without a URL gets its queue's URL, but so far only the prefix of that URL is known.
        url = self._url if self._url or self._method == "PULL" else QUEUE_URL_PREFIX
        size = len(self._method) + len(url) + len(self._payload or b"")
        if not self._own_headers and self._target is None:
            # Compute the same sum without building the mapping, because nearly every task takes this path.
            size += len(_NAMESPACE) + _HEADER_OVERHEAD
            if self._content_type is not None:
                size += len("Content-Type") + len(self._content_type) + _HEADER_OVERHEAD
            return size
        return size + sum(len(name) + len(value) + _HEADER_OVERHEAD for name, value in self.headers.items())

    # --- the caller's values --------------------------------------------------------------

    @property
    def name(self) -> str | None:
        """The task's name, which is unique in its queue. A generated name is None until the task is added."""
        return self._name

    @property
    def url(self) -> str:
        """The path and query; '' if the task goes to its queue's own URL."""
        return self._url

    @property
    def on_queue_url(self) -> bool:
        """Whether the task goes to ``/_ah/queue/<queue>`` because no URL was given."""
        return self._on_queue_url

    @property
    def method(self) -> str:
        """The method in capital letters."""
        return self._method

    @property
    def payload(self) -> bytes | None:
        """The encoded body; None if the task has no body."""
        return self._payload

    @property
    def headers(self) -> Headers:
        """The caller's headers, and the headers that App Engine's client adds."""
        added = [(_NAMESPACE, "")]
        if self._content_type is not None:
            added.append(("Content-Type", self._content_type))
        if self._target is not None:
            added.append(("Host", self._target))
        return Headers([*added, *self._own_headers])

    @property
    def eta(self) -> datetime:
        """The earliest time at which the task may run, in UTC."""
        return clock.utc(self._eta_posix)

    @property
    def eta_posix(self) -> float:
        """The earliest time at which the task may run, in seconds since the epoch."""
        return self._eta_posix

    @property
    def size(self) -> int:
        """The size of method, URL, payload and headers in bytes; each header counts as key + value + 4."""
        return self._size

    @property
    def tag(self) -> str | None:
        """The tag that groups pull tasks."""
        return self._tag

    @property
    def target(self) -> str | None:
        """``[instance.][version.]service``; None means the service that runs this application."""
        return self._target

    @property
    def retry_options(self) -> TaskRetryOptions | None:
        """The task's own retry options; None means the queue's."""
        return self._retry_options

    @property
    def dispatch_deadline_usec(self) -> int | None:
        """The maximum time for one delivery in microseconds; None lets the service's scaling decide."""
        return self._dispatch_deadline_usec

    @property
    def dispatch_deadline_seconds(self) -> float | None:
        """The maximum time for one delivery in seconds; None as for ``dispatch_deadline_usec``."""
        usec = self._dispatch_deadline_usec
        return None if usec is None else usec / 1e6

    def extract_params(self) -> dict[str, str | list[str]]:
        """Parse the form fields from the body of a POST or PULL task, or from the query of any other task.

        A repeated field becomes a list, and any other field becomes a string.

        Raises:
            ValueError: the body or query is not a form.
        """
        if self._method in ("POST", "PULL"):
            return bodies.fields(self.body)
        return bodies.fields(self._url.partition("?")[2].encode())

    def add(self, queue_name: str = "default", transactional: bool = False) -> "Task":
        """Add this task, like ``Queue(queue_name).add(task, transactional)`` and with the same errors."""
        add_tasks(checks.checked_queue_name(queue_name), [self], transactional=transactional)
        return self

    def add_async(
        self, queue_name: str = "default", transactional: bool = False, rpc: RPC | None = None
    ) -> Result["Task"]:
        """Call ``add`` and return its outcome as a ``Result``, or in the given ``rpc``."""
        return result_of(lambda: self.add(queue_name, transactional), rpc)

    # --- after the add --------------------------------------------------------------------

    @property
    def queue_name(self) -> str | None:
        """The queue that the task was added to; None until then."""
        return self._queue_name

    @property
    def retry_count(self) -> int:
        """The number of retries so far; for a pull task, the number of leases."""
        return self._retry_count

    @property
    def was_enqueued(self) -> bool:
        """Whether this object has been added to a queue."""
        return self._was_enqueued

    @property
    def was_deleted(self) -> bool:
        """Whether the task has been deleted through this object."""
        return self._was_deleted

    # --- for the queue --------------------------------------------------------------------

    @property
    def body(self) -> bytes:
        """The payload; empty if the task has none."""
        return self._payload or b""

    @property
    def relative_url(self) -> str:
        """The request's path and query. If the task uses its queue's URL, this is known once it is added."""
        return self._relative_url

    def url_on(self, queue_name: str) -> str:
        """The path and query of the task's request in this queue; '' for a pull task."""
        if not self._on_queue_url or self._method == "PULL":
            return self._url
        return f"{QUEUE_URL_PREFIX}{queue_name}{self._url}"

    def header_items(self) -> list[tuple[str, str]]:
        """The headers to deliver, which are the caller's headers except those that only the engine may set.

        Default headers are not included either, because delivery adds the content type for bytes.
        """
        if not self._own_headers:
            return [] if self._content_type is None else [("Content-Type", self._content_type)]
        return [
            (name, value)
            for name, value in self.headers.items()
            if not is_reserved(name) and (name, value) != (_NAMESPACE, "")
        ]

    def due_at(self, now: float) -> float | None:
        """The earliest time at which the task may run; None means immediately.

        A countdown is relative to this ``now``, so that machines with different clocks agree.
        """
        if self._countdown is not None:
            return now + self._countdown
        return self._eta_posix if self._has_eta else None

    def _mark_enqueued(self, queue_name: str, name: str, url: str | None = None) -> None:
        self._queue_name = queue_name
        self._name = name
        self._relative_url = self.url_on(queue_name) if url is None else url
        self._was_enqueued = True

    def _mark_leased(self, queue_name: str, eta_posix: float, leases: int) -> None:
        self._queue_name = queue_name
        self._retry_count = leases
        self._was_enqueued = True
        self._move_eta(eta_posix)

    def _move_eta(self, eta_posix: float) -> None:
        self._eta_posix = eta_posix

    def _mark_taken_back(self) -> None:
        """Mark the task as not added, because its transaction did not commit."""
        self._queue_name = self._name = None
        self._relative_url = self._url
        self._was_enqueued = False

    @property
    def payload_row(self) -> int | None:
        """The id of the datastore row with the deferred call; None if the task itself contains the call."""
        return self._payload_row

    def _mark_deleted(self) -> None:
        self._was_deleted = True

    def __repr__(self) -> str:
        where = self._tag if self._method == "PULL" else self._relative_url or QUEUE_URL_PREFIX
        return f"<Task {self._name or '(unnamed)'} {self._method} {where}, {self._size} bytes>"


# --- adding ------------------------------------------------------------------------------


def add_tasks(queue_name: str, tasks: Sequence[Task], *, transactional: bool) -> None:
    """Add tasks in one Redis step, or as part of the current transaction, like ``Queue.add``."""
    if tracing.active is None:
        _add_tasks(queue_name, tasks, transactional=transactional)
    else:
        with tracing.active.adding(queue_name, len(tasks)):
            _add_tasks(queue_name, tasks, transactional=transactional)


def _add_tasks(queue_name: str, tasks: Sequence[Task], *, transactional: bool) -> None:
    queue = _checked_request(queue_name, tasks)
    if transactional:
        _add_to_outbox(tasks, queue)
    elif tasks:
        _add_now(tasks, queue)


def existing_queue(name: str) -> KnownQueue:
    """Find the queue with this name.

    Raises:
        UnknownQueueError: queue.yaml does not define the queue.
    """
    queue = queue_directory.current().find(name)
    if queue is None:
        names = ", ".join(sorted(queue_directory.current().all()))
        raise UnknownQueueError(f"queue.yaml has no queue {name!r}; its queues are {names}")
    return queue


def accepting_queue(name: str) -> KnownQueue:
    """Find the queue with this name, to which tasks are about to be added.

    Raises:
        UnknownQueueError: queue.yaml does not define the queue.
        TransientError: the queue is draining, so it accepts no new tasks for now.
    """
    queue = existing_queue(name)
    if queue.is_draining:
        refuse_new_tasks(name)
    return queue


def check_duplicates(tasks: Sequence[Task]) -> None:
    """Raise DuplicateTaskNameError if two tasks in one request have the same name."""
    names = [task.name for task in tasks if task.name]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise DuplicateTaskNameError(
            f"two tasks in one request have the same name: {', '.join(sorted(twice))}"
        )


def _checked_request(queue_name: str, tasks: Sequence[Task]) -> KnownQueue:
    if len(tasks) > MAX_TASKS_PER_ADD:
        raise TooManyTasksError(
            f"{len(tasks)} tasks in one request; at most {MAX_TASKS_PER_ADD} are allowed. Use a Batch"
        )
    for task in tasks:
        if not isinstance(task, Task):
            raise TypeError(f"add accepts only tasks, not {type(task).__name__}")
        if task.was_enqueued:
            raise BadTaskStateError(f"task {task.name!r} has already been added; create a new Task")
    if len(tasks) > 1:
        _check_request(tasks)
    queue = accepting_queue(queue_name)
    if tasks and (tasks[0].method == "PULL") != (queue.mode == "pull"):
        raise InvalidQueueModeError(f"queue {queue_name!r} is a {queue.mode} queue in queue.yaml")
    return queue


def _check_request(tasks: Sequence[Task]) -> None:
    if len({id(task) for task in tasks}) < len(tasks):
        raise BadTaskStateError("one Task object appears twice in the request; create a new Task")
    check_duplicates(tasks)
    if len({task.method == "PULL" for task in tasks}) > 1:
        raise InvalidTaskError("push and pull tasks cannot be added in one request")


def _add_now(tasks: Sequence[Task], queue: KnownQueue) -> None:
    broker = Broker(store.current())
    entries = _entries(tasks, queue, broker.now())
    claim_payloads(tasks, entries)
    refusals = []
    for task, entry, code in zip(tasks, entries, _send(broker, entries), strict=True):
        if code == TOMBSTONED or (code == EXISTS and entry.is_named):
            refusals.append((task, code))
        else:
            # If a generated name exists, this request has already added the task, but the reply was lost.
            _mark(task, queue, entry)
    if refusals:
        raise _refusal(queue.name, *refusals[0])


def _send(broker: Broker, entries: Sequence[NewTask]) -> Sequence[int]:
    first = entries[0]
    if first.is_pull:
        return PullSteps(broker.store).add(entries)
    if len(entries) == 1 and first.eta is None and first.target is None and not first.is_named:
        return (broker.add_ready(first),)
    if any(entry.target for entry in entries):
        queue_directory.current().require_upload()
    return broker.add(entries)


def _add_to_outbox(tasks: Sequence[Task], queue: KnownQueue) -> None:
    transaction = datastore.transaction_of_add("transactional=True")
    named = [task.name for task in tasks if task.name]
    if named:
        raise InvalidTaskError(f"a transactional task cannot have a name: {named[0]!r}")
    entries = _entries(tasks, queue, datastore.outbox.now(), tombstone=datastore.outbox.MARKER_SECONDS)
    datastore.outbox.write(transaction, entries)
    claim_payloads(tasks, entries, transaction)
    for task, entry in zip(tasks, entries, strict=True):
        _mark(task, queue, entry)
        transaction.after_rollback(task._mark_taken_back)


def _entries(
    tasks: Sequence[Task], queue: KnownQueue, now: float, *, tombstone: int | None = None
) -> list[NewTask]:
    targets = Targets(queue.target, queue_directory.current().configuration())
    return [_entry(task, queue.name, targets, now, tombstone) for task in tasks]


def _entry(task: Task, queue: str, targets: "Targets", now: float, tombstone: int | None) -> NewTask:
    name = task.name or new_name()
    if task.name:
        tombstone = max(targets.configuration.settings.tombstone_seconds, tombstone or 0)
    identifier = record.task_id(queue, name)
    is_pull = task.method == "PULL"
    target = None if is_pull else targets.of(task, queue)
    fields = record_of(task, queue, now, tombstone=tombstone, target=target)
    if task.name:
        fields += ("request", new_name())
    if is_pull:
        return new_pull_task(identifier, task, fields, now)
    return NewTask(identifier, due_at(task, now), fields, bool(task.name), target)


def _mark(task: Task, queue: KnownQueue, entry: NewTask) -> None:
    task._mark_enqueued(queue.name, record.split_task_id(entry.id)[1])


def _refusal(queue: str, task: Task, code: int) -> InvalidTaskError:
    if code == EXISTS:
        return TaskAlreadyExistsError(
            f"a task named {task.name!r} is already waiting or running in queue {queue!r}"
        )
    return TombstonedTaskError(
        f"a task named {task.name!r} was in queue {queue!r}; its name cannot be reused yet"
    )


# --- the record ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Targets:
    """Finds the targets of tasks that one process adds to one queue with the target ``own`` ('' = none)."""

    queue_target: str
    configuration: Config

    def of(self, task: Task, queue: str) -> str | None:
        """The value for the record's ``target``; None if the queue alone decides.

        A rule for the task's URL in dispatch.yaml takes precedence, unless the target names a version. Next
        come the queue's target, which the scripts know, then the task's target, and finally the service of
        the process that adds the task.
        """
        configuration, target = self.configuration, task.target
        if configuration.dispatch and "." not in (self.queue_target or target or ""):
            service = configuration.dispatched_service(task.url_on(queue).partition("?")[0])
            if service is not None:
                return DISPATCHED + self._named(service)
        if target is not None:
            return self._named(service_of(target))
        own = configuration.settings.service
        return None if own == DEFAULT_SERVICE or self.queue_target else own

    def _named(self, service: str) -> str:
        return DEFAULT_SERVICE if service == self.configuration.app.service else service


def record_of(
    task: Task,
    queue: str,
    now: float,
    *,
    tombstone: int | None = None,
    member: str | None = None,
    target: str | None = None,
) -> list[Value]:
    """Build a new task's flat record. The other arguments are passed to ``broker.record.dump``."""
    options = task.retry_options
    fields = record.dump(
        f"{task.method} {task.url_on(queue)}",
        queue,
        now,
        eta=due_at(task, now) or now,
        body=task.body or b"",
        is_pull=task.method == "PULL",
        headers=task.header_items(),
        retry=None if options is None else options.parameters,
        deadline=task.dispatch_deadline_seconds,
        target=target,
        tombstone=tombstone,
        member=member,
    )
    if tracing.active is not None and (traceparent := tracing.active.traceparent()):
        fields += ("traceparent", traceparent)
    return fields


def due_at(task: Task, now: float) -> float | None:
    """The earliest start time of a task, in seconds since the epoch; None if it is now or in the past."""
    due = task.due_at(now)
    return due if due is not None and due > now else None


def new_pull_task(identifier: str, task: Task, fields: list[Value], now: float) -> NewTask:
    """Build a pull task to be stored. A past eta is kept (unlike a push task's) to order the tasks."""
    due = task.due_at(now)
    if task.tag:
        fields = [*fields, "tag", task.tag]
    return NewTask(identifier, now if due is None else due, fields, bool(task.name), is_pull=True)


def claim_payloads(
    tasks: Sequence[Task], entries: Sequence[NewTask], transaction: "datastore.Unit | None" = None
) -> None:
    """Record which task needs which datastore row; see ``outbox.claim_payloads``."""
    needs = [
        (task.payload_row, entry.id)
        for task, entry in zip(tasks, entries, strict=True)
        if task.payload_row is not None
    ]
    if needs:
        datastore.outbox.claim_payloads(needs, transaction)
