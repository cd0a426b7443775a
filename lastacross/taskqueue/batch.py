"""``Batch`` groups tasks that are added together, with a completion task that runs when all have ended.

The batch fires ``on_complete`` exactly once, however many times its members run. Each member has one
completion bit, which is set in the step that ends the member.
"""

import hashlib
import itertools
import re
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType

from lastacross import config, store, tracing
from lastacross.broker import (
    EXISTS,
    MAX_INSTANT,
    NAME_TAKEN,
    NOT_KNOWN,
    TOMBSTONED,
    BatchSteps,
    CurrentTask,
    NewTask,
    current_task,
    queue_directory,
    record,
    refuse_new_tasks,
)
from lastacross.errors import (
    BadTaskStateError,
    InvalidQueueNameError,
    InvalidTaskError,
    InvalidTaskNameError,
    TaskAlreadyExistsError,
    TombstonedTaskError,
    UnknownBatchError,
)
from lastacross.taskqueue.queue import DEFAULT_QUEUE, Queue
from lastacross.taskqueue.task import (
    Targets,
    Task,
    accepting_queue,
    claim_payloads,
    due_at,
    existing_queue,
    record_of,
)

# Adding tasks in chunks keeps each Redis step short, and bounds the memory for iterables of any length.
CHUNK = 200

_MAX_ID_LENGTH = 400
# Each position is a bit in Redis, so a larger position would reserve megabytes.
_MAX_POSITION = 9_999_999
_BATCH_ID = re.compile(rf"[a-zA-Z0-9_-]{{1,{_MAX_ID_LENGTH}}}")


@dataclass(frozen=True, slots=True)
class Progress:
    """A batch's progress, which takes a single read from Redis whatever the size of the batch.

    ``total`` grows until the batch is ``sealed``. Times are in seconds since the epoch. ``eta_seconds`` is
    None until there is enough progress for an estimate.
    """

    total: int
    done: int
    failed: int
    cancelled: int
    sealed: bool
    started_at: float
    finished_at: float | None
    is_cancelled: bool
    per_second: float
    eta_seconds: float | None


class Batch:
    """A group of tasks. Use it in a ``with`` statement, because the end of the block seals the batch.

    Args:
        queue_name: the name of the members' queue.
        on_complete: a task that is added once the batch is sealed and every member is done, dead, deleted,
            purged or cancelled.
        on_success: a task that is also added if every member is done.
        name: an id chosen by the caller; filling a batch with the same name again adds the missing members.
        parent: the current task, if it is a member of a batch and must not end before the new batch ends.

    An unnamed batch takes the id of the task that creates it, so a second delivery of that task fills the
    same batch. Outside of a task, the id is 128 random bits. Filling must be deterministic, because a
    member is identified by its position.
    """

    def __init__(
        self,
        queue_name: str = DEFAULT_QUEUE,
        on_complete: Task | None = None,
        on_success: Task | None = None,
        *,
        name: str | None = None,
        parent: CurrentTask | None = None,
    ) -> None:
        self._queue = Queue(queue_name)
        self._on_complete = on_complete
        self._on_success = on_success
        self._parent = parent
        self._size = 0
        self._is_open = False
        self._stays_open = False
        self.id = name if name is not None else _new_id()
        if not _BATCH_ID.fullmatch(self.id):
            raise InvalidTaskNameError(
                f"batch name {self.id!r} must be 1 to 400 letters, digits, hyphens or underscores"
            )
        if parent is not None and parent.member is None:
            raise InvalidTaskError(
                f"task {parent.name!r} is not a member of a batch, so it cannot be a parent"
            )
        for task in (on_complete, on_success):
            _check_completion(task)

    @classmethod
    def get(cls, batch_id: str) -> "Batch":
        """Find the batch with this id.

        Raises:
            UnknownBatchError: the batch does not exist, or it ended more than 30 days ago.
            TransientError: Redis is unavailable.
        """
        found = cls._steps().read(batch_id) if _BATCH_ID.fullmatch(batch_id) else None
        if found is None or "queue" not in found:
            raise UnknownBatchError(f"there is no batch {batch_id!r}")
        try:
            return cls(found["queue"], name=batch_id)
        except InvalidQueueNameError as error:
            raise UnknownBatchError(f"batch {batch_id!r} is damaged: {error}") from error

    def __enter__(self) -> "Batch":
        queue = existing_queue(self._queue.name)
        if queue.is_draining and self._steps().read(self.id) is None:
            refuse_new_tasks(queue.name)
        if queue.mode == "pull":
            raise InvalidTaskError(
                f"queue {queue.name!r} is a pull queue, so nothing would run the batch's members"
            )
        parent = self._parent.member if self._parent else None
        code = self._steps().create(
            self.id,
            queue.name,
            parent=parent,
            on_complete=self._completion(self._on_complete, "complete"),
            on_success=self._completion(self._on_success, "success"),
        )
        if code == NOT_KNOWN:
            raise UnknownBatchError(
                f"batch {self.id!r} cannot be opened: the task that opens it has ended, or that task's "
                "own batch no longer exists"
            )
        if code == NAME_TAKEN:
            raise TaskAlreadyExistsError(
                f"queue {queue.name!r} already has a task named {self.id}-complete or {self.id}-success, "
                "which this batch needs for its own task; choose another name for the batch"
            )
        self._is_open = True
        self._stays_open = False
        self._size = 0
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_open = False
        if error is None:
            if not self._stays_open:
                self._steps().seal(self.id)
        elif current_task() is None:
            # Cancel the batch, because outside of a task nobody would fill it again.
            self.cancel()

    def add(self, tasks: Task | Iterable[Task], *, first: int | None = None) -> None:
        """Add members, which may run immediately. An iterable of any length needs only bounded memory.

        Args:
            tasks: one task or an iterable of tasks.
            first: the position of the first task, for a batch that several tasks fill. Positions may be
                skipped, and a position that already has a member keeps it. By default, the first task
                follows the last task added in this block.

        Raises:
            ValueError: ``first`` is negative or too large for a position.
            BadTaskStateError: the call is outside of the batch's ``with``, another process has sealed the
                batch, or a task object has already been added.
            UnknownBatchError: the batch no longer exists.
            TaskAlreadyExistsError, TombstonedTaskError: a task outside this batch has a member's name.
            TransientError: Redis is unavailable, or the queue is draining; the caller may fill the batch
                again.
        """
        if not self._is_open:
            # A member's position is known only inside the `with` block.
            raise BadTaskStateError(
                f"batch members must be added inside the batch's `with` block: {self.id!r}"
            )
        if first is not None:
            if not 0 <= first <= _MAX_POSITION:
                raise ValueError(f"first must be a position from 0 to {_MAX_POSITION:,}, not {first}")
            self._size = first
        members = iter([tasks] if isinstance(tasks, Task) else tasks)
        while chunk := list(itertools.islice(members, CHUNK)):
            self._add_chunk(chunk)

    def leave_open(self) -> None:
        """Let this block end without sealing the batch, so that another task can add more members.

        The batch completes only after a later block has sealed it. Cancelling the batch also seals it.
        """
        self._stays_open = True

    def cancel(self) -> None:
        """Drop the undelivered members; members that are already running still finish.

        Raises:
            UnknownBatchError: the batch does not exist.
        """
        if not self._steps().cancel(self.id):
            raise UnknownBatchError(f"there is no batch {self.id!r}")

    def progress(self) -> Progress:
        """Read the batch's progress.

        Raises:
            UnknownBatchError: the batch does not exist.
            TransientError: Redis is unavailable.
        """
        found = self._steps().read(self.id)
        now = self._steps().now()
        if found is None:
            raise UnknownBatchError(f"there is no batch {self.id!r}")
        return _progress(found, now)

    # --- inside ------------------------------------------------------------------------

    @staticmethod
    def _steps() -> BatchSteps:
        return BatchSteps(store.current())

    def _completion(self, task: Task | None, word: str) -> NewTask | None:
        if task is None:
            return None
        queue = self._queue.name
        target = self._targets().of(task, queue)
        fields = record_of(task, queue, self._steps().now(), target=target)
        entry = NewTask(record.task_id(queue, f"{self.id}-{word}"), None, fields, target=target)
        claim_payloads([task], [entry])
        return entry

    def _add_chunk(self, tasks: Sequence[Task]) -> None:
        accepting_queue(self._queue.name)
        if tracing.active is None:
            self._add_members(tasks)
        else:
            with tracing.active.adding(self._queue.name, len(tasks)):
                self._add_members(tasks)

    def _add_members(self, tasks: Sequence[Task]) -> None:
        now = self._steps().now()
        targets = self._targets()
        members = [self._member(task, self._size + index, now, targets) for index, task in enumerate(tasks)]
        claim_payloads(tasks, members)
        if any(member.target for member in members):
            queue_directory.current().require_upload()
        codes = self._steps().add(self.id, self._size, members)
        if codes == NOT_KNOWN:
            raise UnknownBatchError(f"batch {self.id!r} no longer exists")
        if isinstance(codes, int):
            raise BadTaskStateError(f"batch {self.id!r} is sealed; nothing can be added to it")
        self._size += len(tasks)
        refusals = []
        for task, member, code in zip(tasks, members, codes, strict=True):
            name = record.split_task_id(member.id)[1]
            if code in (EXISTS, TOMBSTONED):
                refusals.append((name, code))
            else:
                task._mark_enqueued(self._queue.name, name)
        if refusals:
            raise _refusal(self._queue.name, *refusals[0])

    def _targets(self) -> Targets:
        target = existing_queue(self._queue.name).target
        return Targets(target, queue_directory.current().configuration())

    def _member(self, task: Task, index: int, now: float, targets: Targets) -> NewTask:
        if not isinstance(task, Task):
            raise TypeError(f"a batch accepts only tasks, not {type(task).__name__}")
        if task.was_enqueued:
            raise BadTaskStateError(f"task {task.name!r} has already been added; create a new Task")
        if task.method == "PULL":
            raise InvalidTaskError("a pull task cannot be a member of a batch")
        tombstone = config.current().settings.tombstone_seconds if task.name else None
        target = targets.of(task, self._queue.name)
        fields = record_of(
            task,
            self._queue.name,
            now,
            tombstone=tombstone,
            member=f"{self.id}:{index}",
            target=target,
        )
        identifier = record.task_id(self._queue.name, task.name or f"{self.id}-{index}")
        return NewTask(identifier, due_at(task, now), fields, bool(task.name), target)


def _new_id() -> str:
    task = current_task()
    if task is None:
        return secrets.token_urlsafe(16)
    identifier = task.next_batch_id()
    if len(identifier) <= _MAX_ID_LENGTH:
        return identifier
    return hashlib.sha256(identifier.encode()).hexdigest()


def _refusal(queue_name: str, name: str, code: int) -> InvalidTaskError:
    if code == EXISTS:
        return TaskAlreadyExistsError(
            f"a task named {name!r} is already waiting or running in queue {queue_name!r}"
        )
    return TombstonedTaskError(f"a task named {name!r} was in queue {queue_name!r} before")


def _check_completion(task: Task | None) -> None:
    if task is None:
        return
    if not isinstance(task, Task) or task.method == "PULL":
        raise InvalidTaskError("on_complete and on_success must be push tasks")
    if task.name:
        raise InvalidTaskError(
            "on_complete and on_success must not have a name, because the batch names them"
        )
    if task.due_at(0.0) is not None:
        raise InvalidTaskError(
            "on_complete and on_success must not have an eta or countdown; they run at the end"
        )


def _number(text: str | None) -> float | None:
    """Parse a batch's count or time; None if it is missing or invalid. Workers repair invalid counts."""
    try:
        number = float(text or "nan")
    except ValueError:
        return None
    return number if 0 <= number <= MAX_INSTANT else None


def _progress(found: dict[str, str], now: float) -> Progress:
    total, done, failed, cancelled = (
        int(_number(found.get(name)) or 0) for name in ("total", "done", "failed", "cancelled")
    )
    started_at = _number(found.get("created_at")) or now
    finished_at = _number(found.get("finished_at"))
    elapsed = (finished_at or now) - started_at
    per_second = (done + failed) / elapsed if elapsed > 0 else 0.0
    remaining = total - done - failed - cancelled
    has_speed = finished_at is None and done + failed >= 3 and per_second > 0
    eta_seconds = remaining / per_second if has_speed else None
    return Progress(
        total=total,
        done=done,
        failed=failed,
        cancelled=cancelled,
        sealed=found.get("sealed") == "1",
        started_at=started_at,
        finished_at=finished_at,
        is_cancelled="cancelled_at" in found,
        per_second=per_second,
        eta_seconds=eta_seconds,
    )
