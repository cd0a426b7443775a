"""The task that the running code was delivered as."""

from contextvars import ContextVar, Token
from dataclasses import dataclass, field


@dataclass(slots=True)
class CurrentTask:
    """What a handler may know of its own delivery.

    ``attempt`` is 1 on the first try; ``retry_count`` is App Engine's count, 0 there. ``member`` is
    ``<batch id>:<index>`` when the task belongs to a batch. A deferred call leaves why it
    failed in ``failure``, and in ``has_failed_for_good`` that no retry can mend it, which its status
    (200) does not tell. ``error`` is what its code raised, whoever made an answer of it. ``request``
    tells a task that was named by its caller from others that had its name.
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
    _batches: int = field(default=0, repr=False)

    @property
    def batch_id(self) -> str | None:
        """The batch that it is a member of."""
        return self.member.rpartition(":")[0] if self.member else None

    def next_batch_id(self) -> str:
        """The id of the next batch without a name that this delivery makes.

        The same ids come in the same order at a second delivery, so that filling can be repeated.
        """
        self._batches += 1
        base = self._unique_id()
        return base if self._batches == 1 else f"{base}-b{self._batches}"

    def _unique_id(self) -> str:
        """The id, and what tells this task from another that has its name when that is free again.

        A batch is remembered longer than a name is refused: a later task would find the earlier one's.
        """
        if self.request:
            return f"{self.id}-{self.request}"
        member = (self.member or "").replace(":", "-")
        return f"{self.id}-{member}" if member and member != self.name else self.id


_current: ContextVar[CurrentTask | None] = ContextVar("lastacross_current_task", default=None)


def current_task() -> CurrentTask | None:
    """The task that is being delivered to the calling code, None outside of one."""
    return _current.get()


class delivering:
    """Make this the current task within the block."""

    __slots__ = ("_task", "_token")

    def __init__(self, task: CurrentTask) -> None:
        self._task = task
        self._token: Token[CurrentTask | None] | None = None

    def __enter__(self) -> None:
        self._token = _current.set(self._task)

    def __exit__(self, *_error: object) -> None:
        if self._token is not None:
            _current.reset(self._token)
