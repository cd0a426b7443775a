"""The steps in the life of a pull task. Redis runs each step as one Lua script.

A lease moves the task's eta to the end of the lease. Until then, no other client can lease the task.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from lastacross import logs
from lastacross.broker.record import instant_text, new_name
from lastacross.broker.steps import NewTask, Steps
from lastacross.errors import TaskQueueError
from lastacross.store import Arg

# Adding a hundred tasks of 1 MiB in one script would block Redis for 0.15 s.
PORTION_BYTES = 8 << 20

# A lease can take all tasks, tasks with a given tag, or tasks with the oldest task's tag.
_ALL, _TAG, _OLDEST_TAG = "", "tag", "oldest"

T = TypeVar("T")

_log = logs.get("lastacross.taskqueue")


@dataclass(frozen=True, slots=True)
class PullTask:
    """A leased pull task. Its ``eta`` is the time when the lease ends, in seconds since the epoch."""

    name: str
    eta: float
    leases: int
    tag: str | None
    body: bytes


class PullSteps(Steps):
    """The steps of a pull task."""

    def add(self, tasks: Sequence[NewTask]) -> list[int]:
        """Store new tasks; returns ``ADDED``, ``EXISTS`` or ``TOMBSTONED`` for each."""
        answers: list[int] = []
        for portion in _portions(tasks):
            args: list[Arg] = []
            for task in portion:
                eta = self.now() if task.eta is None else task.eta
                args += (task.id, instant_text(eta), len(task.fields))
                args += task.fields
            answers += self._run("add_pull_tasks", args)
        return answers

    def lease(
        self,
        queue: str,
        lease_seconds: float,
        max_tasks: int,
        tag: str | None,
        read: Callable[[PullTask], T],
    ) -> list[T]:
        """Lease due tasks with any tag (None), the oldest task's tag ('') or the given tag.

        ``read`` converts a leased task to the caller's type. If it raises ValueError or TaskQueueError, the
        task counts as damaged and becomes a dead letter.
        """
        grouping = _ALL if tag is None else _TAG if tag else _OLDEST_TAG
        args: list[Arg] = [self._now_text(), queue, lease_seconds, max_tasks]
        tasks, dead = self._run("lease_pull_tasks", [*args, grouping, tag or "", new_name()])
        for name in dead:
            reason = "leased task_retry_limit times without being deleted, or damaged"
            _log.error("task.dead_letter", queue=queue, task=name.decode("utf-8", "replace"), reason=reason)
        return [task for entry in tasks if (task := self._read(queue, entry, read)) is not None]

    def _read(self, queue: str, entry: Sequence[Any], read: Callable[[PullTask], T]) -> T | None:
        try:
            return read(_leased_task(entry))
        except (ValueError, TaskQueueError) as error:
            # An exception here would make the other leased tasks unavailable until their leases end.
            _log.error("task.dead_letter", queue=queue, task=repr(entry[0]), reason=f"damaged: {error}")
            self._run("dead_letter_pull_task", [self._now_text(), queue, entry[0], str(error)])
            return None

    def modify(self, queue: str, name: str, eta: float, lease_seconds: float) -> tuple[str, float | None]:
        """Make a lease end ``lease_seconds`` from now. Returns 'ok' and the new eta, or an error code."""
        args: list[Arg] = [self._now_text(), queue, name, instant_text(eta)]
        code, eta = self._run("modify_pull_lease", [*args, lease_seconds, new_name()])
        return code.decode(), float(eta) if eta else None


def _portions(tasks: Sequence[NewTask]) -> Iterator[list[NewTask]]:
    """Split the tasks, in order, into portions of at most ``PORTION_BYTES``; a larger task gets its own."""
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


def _leased_task(entry: Sequence[Any]) -> PullTask:
    name, eta, leases, tag, body = entry
    return PullTask(name.decode(), float(eta), int(leases), tag.decode() or None, body)
