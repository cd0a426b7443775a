"""The steps of a task's life, each one Lua file run in Redis: one plain method a step.

Times are seconds since the epoch by the Redis server's clock; ``now`` is always an argument of the script.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from lastacross.store import TASK_KEYS, Arg, Store
from lastacross.taskqueue.record import Leased, Value, instant_text, load

ADDED = 0
EXISTS = 10
TOMBSTONED = 11

MOST_PER_QUEUE = 100

# Every worker serves this group until queues have targets.
DEFAULT_GROUP = "default"


@dataclass(frozen=True, slots=True)
class NewTask:
    """A task on its way to Redis: its id, its earliest instant (None = now) and its record, flat."""

    id: str
    eta: float | None
    fields: list[Value]
    is_named: bool = False


@dataclass(frozen=True, slots=True)
class Grant:
    """What one call for leases gave.

    ``next_due`` is when a throttled queue has a token again; ``has_more`` that more could be leased now;
    ``missing`` the queues whose settings are not in Redis; ``must_promote`` that tasks were scheduled since.
    """

    tasks: list[Leased]
    next_due: float | None
    has_more: bool
    missing: list[str]
    must_promote: bool


class Broker:
    """The steps, on one store."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def now(self) -> float:
        """Seconds since the epoch by the Redis server's clock."""
        return self.store.now()

    def _run(self, script: str, args: Sequence[Arg]) -> Any:
        return self.store.run(script, TASK_KEYS, args)

    def _now_text(self) -> str:
        return instant_text(self.store.now())

    # --- add ---------------------------------------------------------------------------

    def add(self, tasks: Iterable[NewTask]) -> list[int]:
        """Store new tasks: for each ``ADDED``, ``EXISTS`` or ``TOMBSTONED``."""
        args: list[Arg] = [self._now_text()]
        for task in tasks:
            args += (task.id, _eta_text(task.eta), len(task.fields))
            args += task.fields
        return list(self._run("add_tasks", args))

    # --- lease and answer ----------------------------------------------------------------

    def lease(
        self,
        queues: Sequence[str],
        *,
        token: str,
        number: int,
        wanted: int,
        free: int,
        lease_seconds: float,
        group: str = DEFAULT_GROUP,
    ) -> Grant:
        """Lease up to ``wanted`` tasks; from a throttled queue no more than ``free``.

        Args:
            queues: in the order in which they are served.
            token: this worker's, unique among all that run; the lease ids begin with it.
            number: of the last lease that this worker was given.
            wanted: the most tasks.
            free: threads that can start a task at once.
            lease_seconds: how long the leases last without being renewed.
            group: whose marker this call takes.
        """
        args: list[Arg] = [self._now_text(), lease_seconds, token, number, wanted, free, group, *queues]
        tasks, next_due, has_more, missing, must_promote = self._run("lease_tasks", args)
        return Grant(
            [load(*task) for task in tasks],
            float(next_due) if next_due else None,
            bool(has_more),
            [queue.decode() for queue in missing],
            bool(must_promote),
        )

    def ack(self, tasks: Sequence[Leased]) -> list[bool]:
        """End tasks that are done; False where the lease was lost before."""
        if not tasks:
            return []
        args: list[Arg] = [self._now_text(), *_ids_and_leases(tasks)]
        return [bool(held) for held in self._run("ack_tasks", args)]

    def retry(self, task: Leased, eta: float, status: int | None) -> bool:
        """Let a failed task wait until ``eta``; False where the lease was lost before."""
        args: list[Arg] = [task.id, task.lease_id, instant_text(eta), "" if status is None else status]
        args.append(self._now_text())
        return bool(self._run("retry_task", args))

    def dead_letter(self, task: Leased, status: int | None, reason: str) -> bool:
        """Keep a task whose retries are used up; False where the lease was lost before."""
        args: list[Arg] = [self._now_text(), task.id, task.lease_id, "" if status is None else status, reason]
        return bool(self._run("dead_letter_task", args))

    def release(self, tasks: Sequence[Leased]) -> int:
        """Give back tasks that have not started; returns how many were still held."""
        return int(self._run("release_tasks", _ids_and_leases(tasks))) if tasks else 0

    def renew(self, tasks: Sequence[Leased], started: set[str], lease_seconds: float) -> list[bool]:
        """Keep leased tasks for another ``lease_seconds``; False where the lease was lost before.

        Args:
            tasks: all that this worker holds.
            started: the entries of those that have reached a handler.
            lease_seconds: from now.
        """
        if not tasks:
            return []
        args: list[Arg] = [instant_text(self.store.now() + lease_seconds)]
        for task in tasks:
            args += (task.id, task.lease_id, 1 if task.entry in started else 0)
        return [bool(held) for held in self._run("renew_leases", args)]

    # --- upkeep --------------------------------------------------------------------------

    def promote_due(self, queues: Sequence[str]) -> tuple[int, float | None]:
        """Make due tasks ready: how many were moved, and the eta of the next one."""
        moved, next_due = self._run("promote_due", [self._now_text(), MOST_PER_QUEUE, *queues])
        return int(moved), float(next_due) if next_due else None

    def rescue_expired(self, queues: Sequence[str]) -> dict[str, str]:
        """Give back tasks whose lease ran out: task id → 'ready', 'poison' or 'gone'."""
        return _outcomes(self._run("rescue_expired", [self._now_text(), MOST_PER_QUEUE, *queues]))

    def rescue_worker(self, token: str, queues: Sequence[str], started: Sequence[str]) -> dict[str, str]:
        """Give back all that a worker held whose process is known to have ended.

        Args:
            token: its lease token.
            queues: the queues that it served.
            started: entries of the tasks that had reached a handler.
        """
        args: list[Arg] = [self._now_text(), token, len(queues), *queues, *started]
        return _outcomes(self._run("rescue_worker", args))

    def crash(self, task: Leased) -> str:
        """The process that ran this one task alone has ended: 'ready', 'poison' or 'gone'."""
        return str(self._run("crash_task", [self._now_text(), task.id, task.lease_id]).decode())

    def restore_orphans(self, ids: Sequence[str]) -> list[str]:
        """Put back tasks that were seen in no list; returns those that needed it."""
        return [entry.decode() for entry in self._run("restore_orphans", ids)] if ids else []

    def sweep_foreign(self, queues: Sequence[str], seen: int = 0) -> list[str]:
        """Put back what another RQ tool took out of our queues; returns the task ids.

        Args:
            queues: to look after.
            seen: how many failed jobs earlier calls have looked at: ``MOST_PER_QUEUE`` each.
        """
        return [entry.decode() for entry in self._run("sweep_foreign", [MOST_PER_QUEUE, seen, *queues])]

    # --- on request ----------------------------------------------------------------------

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


def _eta_text(eta: float | None) -> str:
    return "" if eta is None else instant_text(eta)


def _ids_and_leases(tasks: Sequence[Leased]) -> list[Arg]:
    args: list[Arg] = []
    for task in tasks:
        args += (task.id, task.lease_id)
    return args


def _outcomes(flat: list[bytes]) -> dict[str, str]:
    return {flat[i].decode(): flat[i + 1].decode() for i in range(0, len(flat), 2)}
