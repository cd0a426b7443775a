"""The steps in a task's life. Each step is one method here and one Lua script that Redis runs.

Times are in seconds since the epoch by the Redis server's clock. Scripts get ``now`` as an argument, but
a lease that starts later reads the server's clock itself.
"""

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, NotRequired, TypedDict, Unpack

from lastacross import events
from lastacross.broker import reports
from lastacross.broker.answers import Maintenance, QueueNumbers, Upload
from lastacross.broker.record import Leased, Value, instant_text, load, without_names
from lastacross.errors import StoreUnavailableError, TransientError
from lastacross.store import (
    LEASE_SCORE_SHIFT_SECONDS,
    PAUSED,
    Arg,
    Store,
    batch_key,
    history_key,
    leased_key,
    translated_errors,
)

ADDED = 0
EXISTS = 10
TOMBSTONED = 11

MAX_PER_QUEUE = 100
# A sweep reads hundreds of tasks per queue, so sweeping 100 queues in one script would block Redis for 0.1 s.
QUEUES_PER_SWEEP = 10
# Reading the statistics of a queue takes Redis up to 0.2 ms.
QUEUES_PER_READ = 25

# The default service's workers form this group.
DEFAULT_GROUP = "default"
LEASE_SCRIPT = "lease_tasks"

NOT_KNOWN = -1
SEALED = -2
NAME_TAKEN = -2
CANCEL_CHUNK = 1000
SWEEP_CHUNK = 1000

_PROGRESS_FIELDS = (
    "total",
    "done",
    "failed",
    "cancelled",
    "sealed",
    "created_at",
    "finished_at",
    "cancelled_at",
    "queue",
)


class NewTask(NamedTuple):
    """A task to be stored, with its id, its earliest start time (None = now) and its flat record.

    ``target`` is a copy of the record's field. ``is_pull`` says whether the task is for a pull queue.
    """

    id: str
    eta: float | None
    fields: list[Value]
    is_named: bool = False
    target: str | None = None
    is_pull: bool = False


class LeaseRequest(TypedDict):
    """A worker's request for at most ``wanted`` leases.

    Lease ids begin with ``token``, which is unique among all running workers. ``number`` is the number of
    the worker's last lease. A throttled queue hands out at most ``free`` tasks, so that threads can start
    them immediately. The step also takes the markers of ``groups`` (by default, the default group).
    """

    token: str
    number: int
    wanted: int
    free: int
    lease_seconds: float
    groups: NotRequired[Sequence[str]]


@dataclass(frozen=True, slots=True)
class LeaseResult:
    """The result of a lease request.

    - ``next_due`` is the time when a throttled queue will have a token again.
    - ``has_more`` says whether more tasks could be leased now.
    - ``missing`` has the queues whose settings are not in Redis.
    - ``must_promote`` says whether tasks were scheduled since the last promotion.
    - ``resume_at_list`` is the list to begin with once a thread is free to start its task immediately.
    - ``unreadable`` has the tasks whose ids are not UTF-8, with their leases. They become dead letters.
    """

    tasks: list[Leased]
    next_due: float | None
    has_more: bool
    missing: list[str]
    must_promote: bool
    resume_at_list: str | None
    unreadable: list[tuple[bytes, bytes]] = field(default_factory=list)


@contextlib.contextmanager
def transient_errors() -> Iterator[None]:
    """Raise TransientError if Redis is unavailable. Only ``refuse_new_tasks`` also raises this error."""
    try:
        with translated_errors():
            yield
    except TransientError:
        raise
    except StoreUnavailableError as error:
        raise TransientError(str(error)) from error


class Steps:
    """Runs steps on one store. Every step raises TransientError if Redis is unavailable."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def now(self) -> float:
        """The Redis server's time in seconds since the epoch."""
        try:
            return self.store.now()
        except StoreUnavailableError:
            with transient_errors():
                raise

    def _run(self, script: str, args: Sequence[Arg]) -> Any:
        try:
            answer = self.store.run(script, (), args)
        except StoreUnavailableError:
            # Enter the block only after an error, because entering it costs as much as a task's checks.
            with transient_errors():
                raise
        if events.subscribers:
            reports.report(script, args, answer)
        return answer

    def _now_text(self) -> str:
        return instant_text(self.now())


class Broker(Steps):
    """The steps of push tasks, queues and services."""

    # --- add ---------------------------------------------------------------------------

    def add(self, tasks: Iterable[NewTask]) -> list[int]:
        """Store new tasks; returns ``ADDED``, ``EXISTS`` or ``TOMBSTONED`` for each."""
        args: list[Arg] = [self._now_text()]
        for task in tasks:
            args += (task.id, _eta_text(task.eta), task.target or "", len(task.fields))
            args += task.fields
        return list(self._run("add_tasks", args))

    def add_ready(self, task: NewTask) -> int:
        """Store one ready task that has no target and no chosen name.

        It takes half the time of ``add``, which also checks for targets and tombstones. Returns ``ADDED``,
        or ``EXISTS`` if an earlier attempt of this request has already added the task.
        """
        return int(self._run("add_task", (task.id, *without_names(task.fields))))

    # --- lease and answer ----------------------------------------------------------------

    def lease(self, lists: Sequence[str], **request: Unpack[LeaseRequest]) -> LeaseResult:
        """Lease tasks from queues or side lists (``store.side_list``) in the given order."""
        now = self._verifiable_now(request["lease_seconds"] / 2)
        return lease_result(self._run(LEASE_SCRIPT, _lease_args(now, lists, request)))

    def args_of_later_lease(self, lists: Sequence[str], **request: Unpack[LeaseRequest]) -> list[Arg]:
        """The arguments for running ``LEASE_SCRIPT`` later, when the script reads the server's clock."""
        now = "" if self.store.has_server_time else self._now_text()
        return _lease_args(now, lists, request)

    def ack(self, tasks: Sequence[Leased]) -> list[bool]:
        """Acknowledge completed tasks. Returns False for each task whose lease was already lost."""
        if not tasks:
            return []
        args: list[Arg] = [self._now_text()]
        for task in tasks:
            field = task.fields.get
            args += (
                task.id,
                task.lease_id,
                field(b"batch", b""),
                field(b"tombstone", b""),
                field(b"request", b""),
            )
        held = list(map(bool, self._run("ack_tasks", args)))
        if histories := [
            history_key(task.id)
            for task, is_held in zip(tasks, held, strict=True)
            if b"history" in task.fields and is_held
        ]:
            with contextlib.suppress(StoreUnavailableError), translated_errors():
                self.store.redis.unlink(*histories)
        return held

    def retry(
        self,
        task: Leased,
        eta: float,
        status: int | None,
        *,
        was_reached: bool = True,
        runs_alone: bool = False,
        attempt: str = "",
        trace: str = "",
    ) -> bool:
        """Schedule a failed task for ``eta``; False if its lease was already lost.

        ``status`` is the attempt's HTTP status, if any. ``was_reached`` says whether it reached the
        application, and ``runs_alone`` whether the next one must run alone. ``attempt`` is for the history.
        The next attempt's span is linked to ``trace``, a ``traceparent``.
        """
        args: list[Arg] = [task.id, task.lease_id, instant_text(eta), "" if status is None else status]
        args += [self._now_text(), 1 if was_reached else 0, 1 if runs_alone else 0, attempt, trace]
        return bool(self._run("retry_task", args))

    def dead_letter(
        self, task: Leased, status: int | None, reason: str, *, attempt: str = "", handler: str = ""
    ) -> bool:
        """Turn a task that has no retries left into a dead letter; False if its lease was already lost."""
        args: list[Arg] = [self._now_text(), task.id, task.lease_id, "" if status is None else status]
        # An exception may quote a lone surrogate.
        args += [reason.encode("utf-8", "replace"), *([attempt, handler] if attempt else [])]
        return bool(self._run("dead_letter_task", args))

    def dead_letter_unreadable(self, task_id: bytes, lease_id: bytes, reason: str) -> None:
        """Turn a leased task whose id is not UTF-8 into a dead letter."""
        self._run("dead_letter_task", [self._now_text(), task_id, lease_id, "", reason])

    def release(self, tasks: Sequence[Leased]) -> int:
        """Return unstarted tasks to their queues; returns how many leases were still held."""
        return int(self._run("release_tasks", _ids_and_leases(tasks))) if tasks else 0

    def renew(self, tasks: Sequence[Leased], started: set[str], lease_seconds: float) -> list[bool]:
        """Make leases end ``lease_seconds`` from now. Returns False for each lease that was already lost.

        ``started`` contains the entries of the tasks that have reached a handler.
        """
        if not tasks:
            return []
        args: list[Arg] = [instant_text(self.now() + lease_seconds)]
        for task in tasks:
            args += (task.id, task.lease_id, 1 if task.entry in started else 0)
        return [bool(held) for held in self._run("renew_leases", args)]

    # --- maintenance ---------------------------------------------------------------------

    def promote_due(self, queues: Sequence[str]) -> tuple[int, float | None]:
        """Make due tasks ready. Returns how many became ready, and the eta of the next scheduled task."""
        moved, next_due = self._run("promote_due", [self._now_text(), MAX_PER_QUEUE, *queues])
        return int(moved), float(next_due) if next_due else None

    def maintain(
        self, queues: Sequence[str], *, may_rescue: Callable[[], bool], skew_seconds: float
    ) -> Maintenance:
        """Promote up to 100 tasks per queue, rescue up to 100, and read the upload's stamp.

        ``may_rescue`` is called after the time has been computed, so that it knows of every jump of the
        server's clock that this time reflects. Nothing is rescued if the time differs from the server's clock
        by more than ``skew_seconds``. The reply contains the server's time, which the store's clock uses.
        """
        asked_at = self.store.clock.monotonic()
        now = self._verifiable_now(skew_seconds)
        args: list[Arg] = [now, MAX_PER_QUEUE, 1 if may_rescue() else 0, *queues]
        moved, next_due, rescued, stamp, server_time = self._run("maintain_queues", args)
        self.store.note_server_time(server_time, asked_at)
        return Maintenance(
            int(moved), float(next_due) if next_due else None, _outcomes(rescued), tuple(stamp)
        )

    def rescue_expired(
        self,
        queues: Sequence[str],
        *,
        may_rescue: Callable[[], bool] = lambda: True,
        skew_seconds: float = math.inf,
    ) -> dict[str, str]:
        """Recover tasks whose lease expired. Maps each task id to 'ready', 'poison', 'damaged' or 'gone'.

        The arguments are the same as for ``maintain``.
        """
        now = self._verifiable_now(skew_seconds)
        if not may_rescue():
            return {}
        return _outcomes(self._run("rescue_expired", [now, MAX_PER_QUEUE, *queues]))

    def _verifiable_now(self, skew_seconds: float) -> str:
        """The time in the format that ``trusted_time`` in the scripts expects."""
        now = self._now_text()
        if not self.store.can_compare_time or skew_seconds == math.inf:
            return now
        return f"{now}~{skew_seconds:g}"

    def shorten_leases(self, queues: Sequence[str], ends_at: float) -> int:
        """Make leases that would end later end at ``ends_at``; returns how many there were.

        After the server's clock has been set back, a dead worker's leases would otherwise last that much
        longer.
        """
        score, found = ends_at + LEASE_SCORE_SHIFT_SECONDS, 0
        with transient_errors():
            for queue in queues:
                key = leased_key(queue)
                entries: Any = self.store.redis.zrangebyscore(key, f"({score}", "+inf")
                found += len(entries)
                if entries:
                    # A lease that has ended in the meantime stays ended, and one that now ends earlier is
                    # kept.
                    self.store.redis.zadd(key, dict.fromkeys(entries, score), xx=True, lt=True)
        return found

    def hold(self, token: str, queues: Sequence[str], lease_seconds: float) -> None:
        """Make a worker's leases end ``lease_seconds`` from now, unless they have ended or end later."""
        score, prefix = self.now() + lease_seconds + LEASE_SCORE_SHIFT_SECONDS, f"{token}.".encode()
        with transient_errors():
            for queue in queues:
                key = leased_key(queue)
                entries: Any = self.store.redis.zrange(key, 0, -1)
                own = [entry for entry in entries if entry.partition(b":")[2].startswith(prefix)]
                if own:
                    self.store.redis.zadd(key, dict.fromkeys(own, score), xx=True, gt=True)

    def rescue_worker(
        self, token: str, queues: Sequence[str], started: Sequence[str], *, is_silent: bool = False
    ) -> dict[str, str]:
        """Recover all tasks of a worker whose process has ended.

        ``started`` contains the entries of the tasks that had reached a handler. If the process was silent
        and had to be killed, no crash is counted against them.
        """
        args: list[Arg] = [self._now_text(), token, 1 if is_silent else 0, len(queues), *queues, *started]
        return _outcomes(self._run("rescue_worker", args))

    def crash(self, task: Leased) -> str:
        """Record that a task's own process died. Returns 'ready', 'poison', 'damaged' or 'gone'."""
        return str(self._run("crash_task", [self._now_text(), task.id, task.lease_id]).decode())

    def restore_orphans(self, ids: Sequence[str]) -> list[str]:
        """Restore tasks that are missing from every list. Returns the ids of the restored tasks."""
        return [_shown(entry) for entry in self._run("restore_orphans", ids)] if ids else []

    def sweep_foreign(self, queues: Sequence[str], seen: int = 0) -> list[str]:
        """Restore tasks that another RQ tool removed from our queues; returns their ids.

        ``seen`` is the number of failed jobs that earlier calls have checked, ``MAX_PER_QUEUE`` per call.
        """
        restored: list[str] = []
        for part in _parts(queues):
            answer = self._run("sweep_foreign", [MAX_PER_QUEUE, seen, *part])
            restored += [_shown(entry) for entry in answer]
        return restored

    def reroute(self, queues: Sequence[str], seen: int = 0) -> int:
        """Move ready tasks from the wrong list to the right one. Returns how many were moved.

        ``seen`` is the number of tasks per list that earlier calls have checked, ``MAX_PER_QUEUE`` per call.
        """
        return sum(int(self._run("reroute_tasks", [MAX_PER_QUEUE, seen, *part])) for part in _parts(queues))

    # --- queues and services --------------------------------------------------------------

    def upload(self, upload: Upload) -> list[str]:
        """Upload queue.yaml for all machines; returns the queues that are new or were disabled."""
        args: list[Arg] = [self._now_text(), upload.digest, 1 if upload.resumes else 0]
        args += [len(upload.services), *upload.services, " ".join(upload.backends)]
        for name, fields in upload.queues.items():
            args += (name, 2 * len(fields))
            for pair in fields.items():
                args += pair
        return [queue.decode() for queue in self._run("upload_queues", args)]

    def keep_queue(self, queue: str, fields: Mapping[str, str]) -> bool:
        """Write the settings of a queue that the engine itself uses. Returns whether the queue is new."""
        args: list[Arg] = [queue]
        for pair in fields.items():
            args += pair
        return bool(self._run("keep_queue", args))

    def register_service(self, service: str) -> None:
        """Register a service whose workers have started, so that tasks for this service wait for them."""
        self._run("register_service", [service])

    def pause(self, queue: str, is_paused: bool) -> bool:
        """Pause or resume a queue. Returns whether its state changed."""
        return bool(self._run("pause_queue", [queue, 1 if is_paused else 0]))

    def is_paused(self, queue: str) -> bool:
        """Whether a queue is paused."""
        with transient_errors():
            return bool(self.store.redis.sismember(PAUSED, queue))

    def read_statistics(self, *queues: str) -> list[QueueNumbers]:
        """Read a snapshot of each queue's statistics."""
        answers = []
        for first in range(0, len(queues), QUEUES_PER_READ):
            names = queues[first : first + QUEUES_PER_READ]
            answers += self._run("read_statistics", [self._now_text(), *names])
        return [
            QueueNumbers(
                tasks=tasks,
                leased=leased,
                oldest_eta=float(oldest) if oldest else None,
                executed_last_minute=executed,
                rate=float(rate) if rate else None,
                mode=mode.decode(),
            )
            for tasks, leased, oldest, executed, rate, mode in answers
        ]

    # --- on request ----------------------------------------------------------------------

    def run_now(self, task_id: str) -> str:
        """Run a task now, whatever its eta and queue. Returns 'ready', 'running', 'waiting' or 'gone'."""
        return str(self._run("run_task", [task_id, self._now_text()]).decode())

    def retry_dead(self, ids: Sequence[str]) -> list[bool]:
        """Run dead letters again. Returns False for each id that is not a dead letter."""
        return [bool(was_dead) for was_dead in self._run("retry_dead", [self._now_text(), *ids])]

    def delete(self, ids: Sequence[str]) -> list[bool]:
        """Delete tasks. Returns False for each id that does not exist."""
        return [bool(gone) for gone in self._run("delete_tasks", [self._now_text(), *ids])]

    def delete_dead(self, ids: Sequence[str]) -> list[bool]:
        """Delete dead letters. Returns False for each id that is no longer a dead letter."""
        return [bool(gone) for gone in self._run("delete_dead", [self._now_text(), *ids])]

    def purge(self, queue: str, tell: Callable[[int], object] = lambda _count: None) -> int:
        """Delete all tasks except dead letters; ``tell`` receives each step's count. Returns the total."""
        count, began_at = 0, self._now_text()
        while moved := int(self._run("purge_queue", [self._now_text(), queue, 1000, began_at])):
            count += moved
            tell(moved)
        return count


class BatchSteps(Steps):
    """The steps of a batch."""

    def create(
        self,
        batch_id: str,
        queue: str,
        *,
        parent: str | None,
        on_complete: NewTask | None,
        on_success: NewTask | None,
    ) -> int:
        """Open a batch. Returns 1 if the batch is new, 0 if it already exists.

        Returns ``NOT_KNOWN`` if the parent's batch does not exist, and ``NAME_TAKEN`` if another task has
        the name of a completion task.
        """
        args: list[Arg] = [self._now_text(), batch_id, queue, parent or ""]
        for task in (on_complete, on_success):
            if task is None:
                args += ("", 0)
            else:
                args += (task.id, len(task.fields))
                args += task.fields
        return int(self._run("create_batch", args))

    def add(self, batch_id: str, first_index: int, members: Sequence[NewTask]) -> list[int] | int:
        """Add members at consecutive indices. Returns a code per member, or ``NOT_KNOWN`` or ``SEALED``."""
        args: list[Arg] = [self._now_text(), batch_id, first_index]
        for member in members:
            args += (
                member.id,
                _eta_text(member.eta),
                member.target or "",
                1 if member.is_named else 0,
                len(member.fields),
            )
            args += member.fields
        reply = self._run("add_members", args)
        return reply if isinstance(reply, int) else list(reply)

    def seal(self, batch_id: str) -> int:
        """Close a batch to new members. Returns the number of its members, or ``NOT_KNOWN``."""
        return int(self._run("seal_batch", [self._now_text(), batch_id]))

    def cancel(self, batch_id: str) -> bool:
        """Drop a batch's undelivered members; False if the batch does not exist."""
        index = 0
        while index >= 0:
            index = int(self._run("cancel_batch", [self._now_text(), batch_id, index, CANCEL_CHUNK]))
        return index == -1

    def sweep(self, rank: int, index: int) -> tuple[int, int]:
        """Check up to ``SWEEP_CHUNK`` members. Cancel members without a record and abandoned batches.

        Starts at the open batch with the given rank, and at its member with the given index. Returns the rank
        and the index at which the next call should start.
        """
        args: list[Arg] = [self._now_text(), rank, index, SWEEP_CHUNK]
        rank, index, *abandoned = self._run("sweep_batches", args)
        for batch_id in abandoned:
            self.cancel(batch_id.decode("utf-8", "replace"))
        return rank, index

    def read(self, batch_id: str) -> dict[str, str] | None:
        """Read a batch's counts and times together; None if the batch does not exist."""
        with transient_errors():
            values: list[bytes | None] = self.store.redis.hmget(batch_key(batch_id), _PROGRESS_FIELDS)  # type: ignore[assignment]
        if all(value is None for value in values):
            return None
        found = zip(_PROGRESS_FIELDS, values, strict=True)
        return {name: value.decode("utf-8", "replace") for name, value in found if value is not None}


def _eta_text(eta: float | None) -> str:
    return "" if eta is None else instant_text(eta)


def _shown(identifier: bytes) -> str:
    return identifier.decode("utf-8", "replace")


def _parts(queues: Sequence[str]) -> list[Sequence[str]]:
    return [queues[first : first + QUEUES_PER_SWEEP] for first in range(0, len(queues), QUEUES_PER_SWEEP)]


def _ids_and_leases(tasks: Sequence[Leased]) -> list[Arg]:
    args: list[Arg] = []
    for task in tasks:
        args += (task.id, task.lease_id)
    return args


def _outcomes(flat: list[bytes]) -> dict[str, str]:
    # Ids may belong to another program and are only logged.
    return {flat[i].decode("utf-8", "replace"): flat[i + 1].decode() for i in range(0, len(flat), 2)}


def _lease_args(now: str, lists: Sequence[str], request: LeaseRequest) -> list[Arg]:
    groups = request.get("groups", (DEFAULT_GROUP,))
    args: list[Arg] = [
        now,
        request["lease_seconds"],
        request["token"],
        request["number"],
        request["wanted"],
        request["free"],
    ]
    return [*args, len(groups), *groups, *lists]


def lease_result(answer: Any) -> LeaseResult:
    """Parse the reply of ``LEASE_SCRIPT``."""
    if events.subscribers:
        reports.report_lease(answer)
    tasks, next_due, has_more, missing, must_promote, resume_at_list = answer
    loaded, unreadable = [], []
    for task in tasks:
        try:
            loaded.append(load(*task))
        except UnicodeDecodeError:
            unreadable.append((task[0], task[1]))
    return LeaseResult(
        loaded,
        float(next_due) if next_due else None,
        bool(has_more),
        [queue.decode() for queue in missing],
        bool(must_promote),
        resume_at_list.decode() or None,
        unreadable,
    )
