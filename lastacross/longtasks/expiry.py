"""When long tasks are forgotten: their data some time after their end, the rows that say so a year later."""

from lastacross import logs
from lastacross.datastore.tables import LongTask
from lastacross.longtasks import looking, model
from lastacross.taskqueue import lookup

CHUNK = 100
MOST_CHUNKS = 20
"""At one call: the scheduler has more to do, and comes again in a minute."""
TOMBSTONE_SECONDS = 366 * 86_400.0
"""So long an address answers that there was something; from then on, that there is nothing."""
LOOK_AGAIN_SECONDS = 86_400.0
"""A task that is not over yet is left alone for so long."""

_log = logs.get("lastacross.longtask")


class Pruner:
    """Forgets what is to be forgotten, some at each call; any number of processes may."""

    def act(self, at: float) -> int:
        """Forget; returns how many tasks lost their data.

        One that is not over though its time is, is over if its queue has no task for it any more.

        Args:
            at: seconds since the epoch.

        Raises:
            StoreUnavailableError: Redis does not answer.
            DatastoreUnavailableError: the datastore does not.
        """
        count, last = 0, ""
        for _ in range(MOST_CHUNKS):
            tasks = model.expirable(at, last, CHUNK)
            if not tasks:
                break
            last = tasks[-1].id
            _look_at_open([task for task in tasks if task.is_open], at)
            count += model.forget([task.id for task in tasks if not task.is_open], at)
        model.delete_forgotten(at - TOMBSTONE_SECONDS)
        if count:
            _log.info("longtask.prune", longtasks=count)
        return count


def _look_at_open(tasks: list[LongTask], at: float) -> None:
    records = lookup.find_all([(task.queue_name, task.task_name or "") for task in tasks])
    for task, record in zip(tasks, records, strict=True):
        if record is None or record.is_dead:
            looking.settle(task, record)
        else:
            model.delay_expiry(task, at + LOOK_AGAIN_SECONDS)
