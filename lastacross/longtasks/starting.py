"""Starts a long task by storing its row and queued task in one transaction, or joins an identical task."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from sqlalchemy.exc import IntegrityError

from lastacross import clock, datastore, taskqueue
from lastacross.broker import listing
from lastacross.datastore import LongTask, LongTaskFile
from lastacross.errors import StoreUnavailableError, TransientError
from lastacross.longtasks import looking, model, quotas
from lastacross.longtasks.parameters import UploadedFile
from lastacross.taskqueue import TaskRetryOptions

JOINS = 3
"""The maximum number of attempts in a race; after each lost race, the next look-up finds the winner."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """A request to start a long task.

    Attributes:
        path: the handler's path, percent-encoded.
        method: the request's method.
        title: the task's title on the page.
        given: the original parameters, as JSON.
        prepared: the parameters after ``prepare_task``, or None if it did not change them.
        files: the uploaded files that ``given`` and ``prepared`` refer to.
        join_key: a key shared by requests that join the same task, or None if the request must not join any.
        expires_seconds: how long the result is kept.
        is_exempt: whether the request is exempt from the application's limits.
        network: the requesting network, for its share of these limits; '' for no particular network.
        queue_name, target, deadline_seconds, retry: the options of the queued task.
    """

    path: str
    method: str
    title: str
    given: str
    prepared: str | None
    files: Sequence[UploadedFile]
    join_key: str | None
    expires_seconds: float
    is_exempt: bool
    network: str
    queue_name: str
    retry: TaskRetryOptions
    target: str | None = None
    deadline_seconds: float | None = None
    at: float = field(default_factory=clock.SYSTEM.now)

    @property
    def size(self) -> int:
        """Return the number of bytes that the task stores."""
        texts = len(self.path) + len(self.given) + len(self.prepared or "")
        return quotas.ROW_BYTES + texts + sum(len(file.body) for file in self.files)


@dataclass(frozen=True)
class Begun:
    """An open long task, and whether this request started or joined it."""

    task: LongTask
    is_new: bool


class Admit(Protocol):
    """Admits a client: ``admission.admit`` bound to a handler."""

    def __call__(self, *, is_counted: bool) -> None:
        """Check or count the start; raise StartRefusedError to refuse it."""


def begin(request: Request, admit: Admit) -> Begun:
    """Store the task and add it to its queue, or find the identical task that it joins.

    Args:
        request: the request to start the task.
        admit: a callable to admit the client. If no task is joined, it is called twice: to check before
            any expensive step, and to count the start.

    Raises:
        StartRefusedError: the application's limits are reached.
        DatastoreUnavailableError: the datastore does not answer.
        UnknownQueueError: queue.yaml does not define the queue.
    """
    for turn in range(JOINS):
        joined = _joined(request.join_key)
        if joined is not None:
            return Begun(joined, is_new=False)
        if turn == 0:
            admit(is_counted=False)
            if not request.is_exempt:
                quotas.check(request.size, request.network)
            # Count the start last, so that a start refused by the quotas does not use up the client's limit.
            admit(is_counted=True)
        try:
            return Begun(_insert(request), is_new=True)
        except IntegrityError:
            if request.join_key is None:
                raise
    return Begun(_insert(request), is_new=True)


def _insert(request: Request) -> LongTask:
    task = LongTask(
        id=model.new_id(),
        path=request.path,
        method=request.method,
        title=request.title,
        status="ready",
        queue_name=request.queue_name,
        join_key=request.join_key,
        attempts=0,
        failures=0,
        delivery=0,
        created_at=request.at,
        expires_at=request.at + request.expires_seconds,
        expires_seconds=request.expires_seconds,
        given=request.given,
        parameters=request.prepared,
        result_size=0,
        stored_bytes=request.size,
    )
    deadline = request.deadline_seconds
    with datastore.transaction() as transaction:
        added = taskqueue.add(
            url=request.path,
            params=_task_params(task, request),
            queue_name=request.queue_name,
            target=request.target,
            retry_options=request.retry,
            dispatch_deadline_usec=None if deadline is None else int(deadline * 1e6),
            transactional=True,
        )
        task.task_name = added.name
        transaction.session.add(task)
        transaction.session.flush()
        transaction.session.add_all(
            LongTaskFile(task_id=task.id, position=position, body=file.body)
            for position, file in enumerate(request.files)
        )
        transaction.session.flush()
        quotas.charge(transaction.session, request.size, is_exempt=request.is_exempt)
    return task


def _task_params(task: LongTask, request: Request) -> dict[str, str]:
    params = {looking.JOB: "execute", looking.ID: task.id}
    return {**params, looking.NETWORK: request.network} if request.network else params


def _joined(join_key: str | None) -> LongTask | None:
    """Find an identical open task to join; if its queue has lost it, end it instead."""
    if join_key is None:
        return None
    found = model.find_joined(join_key)
    if found is None:
        return None
    try:
        [record] = listing.find_all([(found.queue_name, found.task_name or "")])
    except StoreUnavailableError:
        return found
    if record is None or record.is_dead:
        looking.mark_lost(found, record)
        found = model.find_joined(join_key)
    return found


def cancel(task: LongTask) -> bool:
    """End a task at its user's request; return False if it was already over.

    A waiting task is deleted from its queue. A running attempt notices at its next progress report.
    """
    if not model.cancel(task, clock.SYSTEM.now()):
        return False
    if task.status == "started":
        return True
    # If Redis is unavailable, the task is delivered anyway and finds that it is over.
    with contextlib.suppress(TransientError):
        taskqueue.Queue(task.queue_name).delete_tasks_by_name(task.task_name or "")
    return True
