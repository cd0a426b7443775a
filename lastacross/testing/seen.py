"""Tasks as a test sees them: what was enqueued, and each attempt to deliver it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from urllib.parse import parse_qsl

from lastacross.broker import STATES, Listing, WholeTask, queue_directory
from lastacross.store import Store

# More than a test is likely to add; a count above it would be wrong.
MAX_TASKS_PER_QUEUE = 100_000
_FORM = "application/x-www-form-urlencoded"


@dataclass(frozen=True)
class EnqueuedTask:
    """A task in a queue.

    Attributes:
        queue: the name of its queue.
        name: the task's name, given by the caller or generated.
        method: ``POST``, ``GET``, ``PULL`` …
        url: the path and the query, or '' for a pull task.
        eta: the eta in seconds since the epoch.
        payload: the body, or ``b""`` if there is none.
        headers: its own headers.
        state: ``ready``, ``scheduled``, ``leased``, ``dead``, or ``waiting`` for its batch.
        target: the service that the task is for, or None for the default service.
        error: the reason why the task is dead.
    """

    queue: str
    name: str
    method: str
    url: str
    eta: float
    payload: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    state: str = "ready"
    target: str | None = None
    error: str | None = None

    @property
    def params(self) -> dict[str, str]:
        """The task's ``params``, from the body or the query; the last value of a repeated name wins."""
        text = self.payload.decode("utf-8", "replace") if self._is_form else self.url.partition("?")[2]
        return dict(parse_qsl(text, keep_blank_values=True))

    @property
    def path(self) -> str:
        """The URL without its query."""
        return self.url.partition("?")[0]

    @property
    def _is_form(self) -> bool:
        given = {name.lower(): value for name, value in self.headers.items()}
        return given.get("content-type", "").startswith(_FORM)

    def __str__(self) -> str:
        return f"{self.queue}: {self.name}, {self.method} {self.url} ({self.state})"


@dataclass(frozen=True)
class DeliveredTask:
    """A completed attempt.

    Attributes:
        queue: the name of the task's queue.
        name: the task's name.
        method: such as ``POST``.
        url: the path and the query.
        attempt: the attempt's number; the first is 1.
        status: the response's status, or None without a response.
        reason: the reason for a failure, or '' for a success.
    """

    queue: str
    name: str
    method: str
    url: str
    attempt: int
    status: int | None
    reason: str = ""

    @property
    def is_success(self) -> bool:
        """Whether the task is done."""
        return not self.reason

    def __str__(self) -> str:
        end = self.reason or f"answered {self.status}"
        return f"{self.queue}: {self.name}, {self.method} {self.url}, attempt {self.attempt}, {end}"


def enqueued(
    opened: Store,
    queue: str | None = None,
    *,
    url: str | None = None,
    name: str | None = None,
    states: Iterable[str] = ("ready", "scheduled"),
) -> list[EnqueuedTask]:
    """The tasks in one or all queues, ordered by eta.

    Args:
        opened: the store.
        queue: the queue's name, or None for all queues.
        url: a path (with any query), or a path and query, to filter by.
        name: a task name to filter by.
        states: the states to include; dead tasks are included only if "dead" is listed.

    Raises:
        ValueError: a state is unknown.
    """
    wanted = tuple(states)
    wrong = [state for state in wanted if state not in STATES]
    if wrong:
        raise ValueError(f"there is no task state {wrong[0]!r}; the states are {', '.join(STATES)}")
    found = [task for each in _queues(opened, queue) for task in _tasks_of(opened, each, wanted)]
    kept = [task for task in found if url in (None, task.url, task.path) and name in (None, task.name)]
    return sorted(kept, key=lambda task: task.eta)


def _queues(opened: Store, queue: str | None) -> Sequence[str]:
    if queue is None:
        return sorted(queue_directory.of(opened).all())
    mode_of(opened, queue)
    return [queue]


def mode_of(opened: Store, queue: str) -> str:
    """``push`` or ``pull``.

    Raises:
        ValueError: the queue does not exist.
    """
    found = queue_directory.of(opened).find(queue)
    if found is None:
        names = ", ".join(sorted(queue_directory.of(opened).all()))
        raise ValueError(f"there is no queue {queue!r}; the queues are {names}")
    return found.mode


def _tasks_of(opened: Store, queue: str, states: Sequence[str]) -> Iterable[EnqueuedTask]:
    listing = Listing(opened)
    for task in listing.tasks(queue, states, MAX_TASKS_PER_QUEUE):
        whole = listing.find(queue, task.name)
        if whole is not None:
            yield _enqueued(whole)


def _enqueued(whole: WholeTask) -> EnqueuedTask:
    task = whole.task
    return EnqueuedTask(
        queue=task.queue,
        name=task.name,
        method=task.method,
        url=task.url,
        eta=task.eta or 0.0,
        payload=whole.body,
        headers=dict(whole.headers),
        state=task.state,
        target=task.target,
        error=task.error,
    )
