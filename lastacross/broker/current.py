"""Gives running code access to the task that it belongs to."""

from contextvars import ContextVar, Token
from dataclasses import dataclass, field

from lastacross import log_context
from lastacross.pickled_names import pickled_as


@pickled_as("lastacross.taskqueue.current")
@dataclass(slots=True)
class CurrentTask:
    """The task that is being delivered, as its handler sees it.

    ``attempt`` is 1 on the first try. ``retry_count`` is App Engine's count, which starts at 0. ``member``
    is ``<batch id>:<index>`` when the task belongs to a batch. A failed deferred call stores its reason in
    ``failure`` and sets ``has_failed_for_good`` if it must not be retried, because its status is 200 either
    way. ``error`` is the exception that the handler raised, even if it was turned into a response.
    ``request`` distinguishes a task from an earlier task with the same chosen name. ``handler`` is
    the name of the route or function that runs, as the metrics show it.
    """

    id: str
    name: str
    queue_name: str
    attempt: int
    retry_count: int
    execution_count: int
    member: str | None = None
    failure: str = ""
    has_failed_for_good: bool = False
    request: str = ""
    error: BaseException | None = field(default=None, repr=False)
    handler: str = field(default="", repr=False)
    _batches: int = field(default=0, repr=False)

    def __getstate__(self) -> tuple[None, dict[str, object]]:
        # The previous release has no `handler` field, and a deferred call may carry this object to it.
        return None, {name: getattr(self, name) for name in self.__slots__ if name != "handler"}

    def __setstate__(self, state: tuple[None, dict[str, object]]) -> None:
        self.handler = ""
        for name, value in state[1].items():
            setattr(self, name, value)

    @property
    def batch_id(self) -> str | None:
        """The id of the task's batch."""
        return self.member.rpartition(":")[0] if self.member else None

    def next_batch_id(self) -> str:
        """The id of the next unnamed batch that this delivery creates.

        A second delivery gets the same ids in the same order, so it fills the same batches again.
        """
        self._batches += 1
        base = self._unique_id()
        return base if self._batches == 1 else f"{base}-b{self._batches}"

    def _unique_id(self) -> str:
        """A version of the task's id that stays unique when a name is reused.

        A batch outlives its task's tombstone, so a later task with the same name would find the old batch.
        """
        if self.request:
            return f"{self.id}-{self.request}"
        member = (self.member or "").replace(":", "-")
        return f"{self.id}-{member}" if member and member != self.name else self.id


# Log records read the same variable.
_current: ContextVar[CurrentTask | None] = log_context.task_in_progress


@pickled_as("lastacross.taskqueue.current")
def current_task() -> CurrentTask | None:
    """The task that is being delivered to the calling code; None outside of a delivery."""
    return _current.get()


class delivering:
    """Makes the given task the current one inside the ``with`` block."""

    __slots__ = ("_task", "_token")

    def __init__(self, task: CurrentTask) -> None:
        self._task = task
        self._token: Token[CurrentTask | None] | None = None

    def __enter__(self) -> None:
        self._token = _current.set(self._task)

    def __exit__(self, *_error: object) -> None:
        if self._token is not None:
            _current.reset(self._token)
