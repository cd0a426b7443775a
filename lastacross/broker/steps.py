"""The steps of a task's life, each one Lua file run in Redis: one plain method a step.

Times are seconds since the epoch by the Redis server's clock; ``now`` is an argument of the script,
but where a lease waits for its moment at the server.
"""

import contextlib
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, NotRequired, TypedDict, Unpack

from lastacross.broker.record import Leased, Value, instant_text, load, without_names
from lastacross.errors import StoreUnavailableError, TransientError
from lastacross.store import PAUSED, Arg, Store, batch_key, translated_errors

ADDED = 0
EXISTS = 10
TOMBSTONED = 11

MAX_PER_QUEUE = 100
# Sweeps look at hundreds of tasks of each: a hundred queues in one script would hold up everybody for 0.1 s.
QUEUES_PER_SWEEP = 10

# The workers of the default service.
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
    """A task on its way to Redis: its id, its earliest instant (None = now) and its record, flat.

    ``target`` is the record's field of that name; ``is_pull`` that it goes to a pull queue.
    """

    id: str
    eta: float | None
    fields: list[Value]
    is_named: bool = False
    target: str | None = None
    is_pull: bool = False


class LeaseRequest(TypedDict):
    """A worker's request for at most ``wanted`` leases.

    Lease ids begin with ``token``, which is unique among all running workers; ``number`` is that of the last
    lease it was given. A throttled queue gives no more tasks than ``free`` threads can start immediately.
    The call takes the markers of ``groups``, by default of the default one.
    """

    token: str
    number: int
    wanted: int
    free: int
    lease_seconds: float
    groups: NotRequired[Sequence[str]]


@dataclass(frozen=True, slots=True)
class LeaseResult:
    """The answer to a request for leases.

    ``next_due`` is when a throttled queue has a token again; ``has_more`` that more could be leased now;
    ``missing`` the queues whose settings are not in Redis; ``must_promote`` that tasks were scheduled since;
    ``resume_at_list`` the list to begin with once a thread is free, as a task must start immediately there;
    ``unreadable`` tasks, with their leases, whose ids are not UTF-8: they become dead letters.
    """

    tasks: list[Leased]
    next_due: float | None
    has_more: bool
    missing: list[str]
    must_promote: bool
    resume_at_list: str | None
    unreadable: list[tuple[bytes, bytes]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Maintenance:
    """The result of one round of maintenance.

    ``moved`` tasks became ready; ``next_due`` is the eta of the next scheduled one; ``rescued`` is task id →
    'ready', 'poison', 'damaged' or 'gone'; ``stamp`` tells one upload of queue.yaml from another.
    """

    moved: int
    next_due: float | None
    rescued: dict[str, str]
    stamp: tuple[bytes | None, ...]


@dataclass(frozen=True, slots=True)
class Upload:
    """The contents of queue.yaml and its like, on their way to Redis.

    ``queues`` has each one's settings. ``backends`` are the services of backends.yaml: an upload without one
    makes it unknown. ``resumes`` is whether paused queues go on.
    """

    digest: str
    queues: Mapping[str, Mapping[str, str]]
    services: Sequence[str] = ()
    backends: Sequence[str] = ()
    resumes: bool = False


@dataclass(frozen=True, slots=True)
class QueueNumbers:
    """A queue at one instant; ``oldest_eta`` in seconds since the epoch, ``rate`` in tasks a second.

    ``rate`` is what is enforced now; None for a queue that was never uploaded.
    """

    tasks: int
    leased: int
    oldest_eta: float | None
    executed_last_minute: int
    rate: float | None
    mode: str


def new_token() -> str:
    """A worker's lease token, unique among all that run.

    Long enough that no entry of a registry of leased tasks has 64 bytes or less: those of a few workers
    Redis would keep in a list, and search it at each step.
    """
    return secrets.token_hex(24)


@contextlib.contextmanager
def transient_errors() -> Iterator[None]:
    """Raise TransientError where Redis is unavailable: the one place that makes it."""
    try:
        with translated_errors():
            yield
    except TransientError:
        raise
    except StoreUnavailableError as error:
        raise TransientError(str(error)) from error


class Steps:
    """Runs steps on one store. Each raises TransientError while Redis is unavailable."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def now(self) -> float:
        """Seconds since the epoch by the Redis server's clock."""
        try:
            return self.store.now()
        except StoreUnavailableError:
            with transient_errors():
                raise

    def _run(self, script: str, args: Sequence[Arg]) -> Any:
        try:
            return self.store.run(script, (), args)
        except StoreUnavailableError:
            # Not around the call: entering takes as long as the checks of a task.
            with transient_errors():
                raise

    def _now_text(self) -> str:
        return instant_text(self.now())


class Broker(Steps):
    """The steps of push tasks, queues and services."""

    # --- add ---------------------------------------------------------------------------

    def add(self, tasks: Iterable[NewTask]) -> list[int]:
        """Store new tasks: for each ``ADDED``, ``EXISTS`` or ``TOMBSTONED``."""
        args: list[Arg] = [self._now_text()]
        for task in tasks:
            args += (task.id, _eta_text(task.eta), task.target or "", len(task.fields))
            args += task.fields
        return list(self._run("add_tasks", args))

    def add_ready(self, task: NewTask) -> int:
        """Store one new task that is ready, has no target and no name of its caller's.

        ``add`` does the same in twice the time: it looks for what this task cannot have. Returns ``ADDED``,
        or ``EXISTS``: this very request has added it before.
        """
        return int(self._run("add_task", (task.id, *without_names(task.fields))))

    # --- lease and answer ----------------------------------------------------------------

    def lease(self, lists: Sequence[str], **request: Unpack[LeaseRequest]) -> LeaseResult:
        """Lease tasks from these lists: queues, or side lists (``store.side_list``), served in this order."""
        return lease_result(self._run(LEASE_SCRIPT, _lease_args(self._now_text(), lists, request)))

    def args_of_later_lease(self, lists: Sequence[str], **request: Unpack[LeaseRequest]) -> list[Arg]:
        """What to run ``LEASE_SCRIPT`` with at a moment not known yet: the server looks at its clock then."""
        now = "" if self.store.has_server_time else self._now_text()
        return _lease_args(now, lists, request)

    def ack(self, tasks: Sequence[Leased]) -> list[bool]:
        """End tasks that are done; False where the lease was lost before."""
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
        return [bool(held) for held in self._run("ack_tasks", args)]

    def retry(self, task: Leased, eta: float, status: int | None, *, was_reached: bool = True) -> bool:
        """Let a failed task wait until ``eta``; False where the lease was lost before.

        ``status`` is the answer's, None without one; ``was_reached`` whether the application saw the attempt.
        """
        args: list[Arg] = [task.id, task.lease_id, instant_text(eta), "" if status is None else status]
        args += [self._now_text(), 1 if was_reached else 0]
        return bool(self._run("retry_task", args))

    def dead_letter(self, task: Leased, status: int | None, reason: str) -> bool:
        """Keep a task whose retries are used up; False where the lease was lost before."""
        args: list[Arg] = [self._now_text(), task.id, task.lease_id, "" if status is None else status, reason]
        return bool(self._run("dead_letter_task", args))

    def dead_letter_unreadable(self, task_id: bytes, lease_id: bytes, reason: str) -> None:
        """Make a dead letter of a leased task whose id is not UTF-8."""
        self._run("dead_letter_task", [self._now_text(), task_id, lease_id, "", reason])

    def release(self, tasks: Sequence[Leased]) -> int:
        """Give back tasks that have not started; returns how many were still held."""
        return int(self._run("release_tasks", _ids_and_leases(tasks))) if tasks else 0

    def renew(self, tasks: Sequence[Leased], started: set[str], lease_seconds: float) -> list[bool]:
        """Keep leased tasks for ``lease_seconds`` from now; False where the lease was lost before.

        ``started`` has the entries of those that have reached a handler.
        """
        if not tasks:
            return []
        args: list[Arg] = [instant_text(self.now() + lease_seconds)]
        for task in tasks:
            args += (task.id, task.lease_id, 1 if task.entry in started else 0)
        return [bool(held) for held in self._run("renew_leases", args)]

    # --- upkeep --------------------------------------------------------------------------

    def promote_due(self, queues: Sequence[str]) -> tuple[int, float | None]:
        """Make due tasks ready: how many were moved, and the eta of the next one."""
        moved, next_due = self._run("promote_due", [self._now_text(), MAX_PER_QUEUE, *queues])
        return int(moved), float(next_due) if next_due else None

    def maintain(self, queues: Sequence[str], *, rescues: bool) -> Maintenance:
        """Promote, rescue if ``rescues``, at most 100 tasks of a queue each; and look at the last upload."""
        args: list[Arg] = [self._now_text(), MAX_PER_QUEUE, 1 if rescues else 0, *queues]
        moved, next_due, rescued, stamp = self._run("maintain_queues", args)
        return Maintenance(
            int(moved), float(next_due) if next_due else None, _outcomes(rescued), tuple(stamp)
        )

    def rescue_expired(self, queues: Sequence[str]) -> dict[str, str]:
        """Give back tasks whose lease ran out: task id → 'ready', 'poison' or 'gone'."""
        return _outcomes(self._run("rescue_expired", [self._now_text(), MAX_PER_QUEUE, *queues]))

    def rescue_worker(self, token: str, queues: Sequence[str], started: Sequence[str]) -> dict[str, str]:
        """Give back all that a worker held whose process is known to have ended.

        ``started`` has the entries of the tasks that had reached a handler.
        """
        args: list[Arg] = [self._now_text(), token, len(queues), *queues, *started]
        return _outcomes(self._run("rescue_worker", args))

    def crash(self, task: Leased) -> str:
        """The process that ran this one task alone has ended: 'ready', 'poison' or 'gone'."""
        return str(self._run("crash_task", [self._now_text(), task.id, task.lease_id]).decode())

    def restore_orphans(self, ids: Sequence[str]) -> list[str]:
        """Put back tasks that were seen in no list; returns those that needed it."""
        return [_shown(entry) for entry in self._run("restore_orphans", ids)] if ids else []

    def sweep_foreign(self, queues: Sequence[str], seen: int = 0) -> list[str]:
        """Put back tasks that another RQ tool took out of our queues; returns the task ids.

        ``seen`` is how many failed jobs earlier calls have looked at: ``MAX_PER_QUEUE`` each.
        """
        restored: list[str] = []
        for part in _parts(queues):
            answer = self._run("sweep_foreign", [MAX_PER_QUEUE, seen, *part])
            restored += [_shown(entry) for entry in answer]
        return restored

    def reroute(self, queues: Sequence[str], seen: int = 0) -> int:
        """Move ready tasks that wait in the wrong list; returns how many there were.

        ``seen`` is how many of each list earlier calls have looked at: ``MAX_PER_QUEUE`` each.
        """
        return sum(int(self._run("reroute_tasks", [MAX_PER_QUEUE, seen, *part])) for part in _parts(queues))

    # --- queues and services --------------------------------------------------------------

    def upload(self, upload: Upload) -> list[str]:
        """Make a queue.yaml what all machines go by; returns the queues that are new, or were disabled."""
        args: list[Arg] = [self._now_text(), upload.digest, 1 if upload.resumes else 0]
        args += [len(upload.services), *upload.services, " ".join(upload.backends)]
        for name, fields in upload.queues.items():
            args += (name, 2 * len(fields))
            for pair in fields.items():
                args += pair
        return [queue.decode() for queue in self._run("upload_queues", args)]

    def keep_queue(self, queue: str, fields: Mapping[str, str]) -> bool:
        """Give a queue of the engine's own its settings; returns whether it is new."""
        args: list[Arg] = [queue]
        for pair in fields.items():
            args += pair
        return bool(self._run("keep_queue", args))

    def register_service(self, service: str) -> None:
        """Workers of this service have come: what is targeted at it waits for them."""
        self._run("register_service", [service])

    def pause(self, queue: str, is_paused: bool) -> bool:
        """Hand out no more tasks of a queue, or go on; returns whether that changed anything."""
        return bool(self._run("pause_queue", [queue, 1 if is_paused else 0]))

    def is_paused(self, queue: str) -> bool:
        """Whether somebody has paused a queue."""
        with transient_errors():
            return bool(self.store.redis.sismember(PAUSED, queue))

    def read_statistics(self, queue: str) -> QueueNumbers:
        """How a queue is doing at this moment."""
        tasks, leased, oldest, executed, rate, mode = self._run("read_statistics", [self._now_text(), queue])
        return QueueNumbers(
            tasks=tasks,
            leased=leased,
            oldest_eta=float(oldest) if oldest else None,
            executed_last_minute=executed,
            rate=float(rate) if rate else None,
            mode=mode.decode(),
        )

    # --- on request ----------------------------------------------------------------------

    def run_now(self, task_id: str) -> str:
        """Let a task run now, whatever its eta and its queue: 'ready', 'running', 'waiting', 'gone'."""
        return str(self._run("run_task", [task_id, self._now_text()]).decode())

    def retry_dead(self, ids: Sequence[str]) -> list[bool]:
        """Let dead letters be tried again; False where there is none of that id."""
        return [bool(was_dead) for was_dead in self._run("retry_dead", [self._now_text(), *ids])]

    def delete(self, ids: Sequence[str]) -> list[bool]:
        """Forget tasks; False where there is none of that id."""
        return [bool(gone) for gone in self._run("delete_tasks", [self._now_text(), *ids])]

    def purge(self, queue: str) -> int:
        """Forget all tasks of a queue but its dead letters; returns how many there were."""
        count = 0
        began_at = self._now_text()
        while moved := int(self._run("purge_queue", [self._now_text(), queue, 1000, began_at])):
            count += moved
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
        """Open a batch: 1 opened, 0 it was there already.

        ``NOT_KNOWN`` for the parent's batch, ``NAME_TAKEN`` for one of the tasks that would wait for it.
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
        """Add members with successive indices: a code for each, or ``NOT_KNOWN``, ``SEALED`` for all."""
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
        """Nothing more is added: returns how many members there are, or ``NOT_KNOWN``."""
        return int(self._run("seal_batch", [self._now_text(), batch_id]))

    def cancel(self, batch_id: str) -> bool:
        """Drop what has not been delivered; False when the batch is not known."""
        index = 0
        while index >= 0:
            index = int(self._run("cancel_batch", [self._now_text(), batch_id, index, CANCEL_CHUNK]))
        return index == -1

    def sweep(self, rank: int, index: int) -> tuple[int, int]:
        """Cancel members whose record is gone, ``SWEEP_CHUNK`` of them at a time, and abandoned batches.

        Begins with the open batch of this rank and its member of this index; returns both for the next call.
        """
        args: list[Arg] = [self._now_text(), rank, index, SWEEP_CHUNK]
        rank, index, *abandoned = self._run("sweep_batches", args)
        for batch_id in abandoned:
            self.cancel(batch_id.decode("utf-8", "replace"))
        return rank, index

    def read(self, batch_id: str) -> dict[str, str] | None:
        """The batch's counts and instants in one read; None when it is not known."""
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
    # An id may be of another program: it is only logged.
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
    """The answer of ``LEASE_SCRIPT``."""
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
