"""Expires long tasks: deletes their data some time after their end, and their tombstones a year later."""

from collections.abc import Iterable, Sequence

from lastacross import logs
from lastacross.broker import TaskRecord, listing
from lastacross.clock import SYSTEM, Clock
from lastacross.datastore import LongTask
from lastacross.longtasks import looking, model, quotas

CHUNK = 100
MAX_CHUNKS = 20
"""The limit for one call, because the scheduler has other work and calls again in a minute."""
TOMBSTONE_SECONDS = 366 * 86_400.0
"""How long an expired task's URL responds with 410; after that, it responds with 404."""
MAX_TOMBSTONES = 100_000
"""The maximum number of tombstones. Beyond that, the oldest are deleted, because anyone can create them."""
TOMBSTONES_AT_ONCE = 1_000
RECHECK_SECONDS = 86_400.0
"""How long the pruner leaves an open task alone before it checks again."""
RECOUNT_SECONDS = 3_600.0

_log = logs.get("lastacross.longtask")


class Pruner:
    """Forgets expired tasks in batches; any number of processes may run it.

    Args:
        clock: the time source.
    """

    def __init__(self, clock: Clock = SYSTEM) -> None:
        self._clock = clock
        self._seen_open = ""
        self._recount_at = float("-inf")

    def act(self, at: float) -> int:
        """Forget expired tasks and return the number of tasks whose data was deleted.

        If an expired task is still open but its queue no longer has a task for it, the expired task counts as
        over.

        Args:
            at: seconds since the epoch.

        Raises:
            StoreUnavailableError: Redis does not answer.
            DatastoreUnavailableError: the datastore does not answer.
        """
        count, last = 0, ""
        for _ in range(MAX_CHUNKS):
            tasks = model.expirable(at, last, CHUNK)
            if not tasks:
                break
            last = tasks[-1].id
            _check_open([task for task in tasks if task.is_open], at)
            count += model.forget([task.id for task in tasks if not task.is_open], at)
        for _ in range(MAX_CHUNKS):
            if model.delete_forgotten(at - TOMBSTONE_SECONDS, MAX_TOMBSTONES, TOMBSTONES_AT_ONCE) == 0:
                break
        self._mark_lost_tasks()
        self._recount()
        if count:
            _log.info("longtask.prune", longtasks=count)
        return count

    def _mark_lost_tasks(self) -> None:
        """Fail some open tasks that will never run, because they count against the limit of open tasks."""
        tasks = model.open_after(self._seen_open, CHUNK)
        self._seen_open = tasks[-1].id if len(tasks) == CHUNK else ""
        for task, record in _records_of(tasks):
            if record is None or record.is_dead:
                looking.mark_lost(task, record)

    def _recount(self) -> None:
        if self._clock.monotonic() < self._recount_at:
            return
        self._recount_at = self._clock.monotonic() + RECOUNT_SECONDS
        difference = quotas.recount()
        if difference:
            _log.warning("longtask.recount", difference=difference)


def _records_of(tasks: Sequence[LongTask]) -> Iterable[tuple[LongTask, TaskRecord | None]]:
    records = listing.find_all([(task.queue_name, task.task_name or "") for task in tasks]) if tasks else []
    return zip(tasks, records, strict=True)


def _check_open(tasks: list[LongTask], at: float) -> None:
    for task, record in _records_of(tasks):
        if record is None or record.is_dead:
            looking.mark_lost(task, record)
        else:
            model.delay_expiry(task, at + RECHECK_SECONDS)
