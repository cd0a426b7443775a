"""Tasks that have failed ten times or more and are still retried."""

from typing import Any

from lastacross.broker.listing import ListedTask, Listing
from lastacross.broker.steps import Steps, transient_errors
from lastacross.store import FAILING

MIN_ATTEMPTS = 10
MAX_READ = 100


class FailingTasks(Steps):
    """Reads these tasks. Every method raises ``TransientError`` if Redis is unavailable."""

    def newest(self) -> list[ListedTask]:
        """The tasks whose last failures are the newest, at most 100, in at most three round trips.

        Tasks that have ended since are forgotten here, so that a success costs nothing.
        """
        with transient_errors():
            raw: Any = self.store.redis.zrevrange(FAILING, 0, MAX_READ - 1)
        if not raw:
            return []
        ids = [each.decode("utf-8", "replace") for each in raw]
        found = [task for task in Listing(self.store).listed(ids) if _is_failing(task)]
        kept = {f"{task.queue}_{task.name}" for task in found}
        gone = [each for each, identifier in zip(raw, ids, strict=True) if identifier not in kept]
        if gone:
            with transient_errors():
                self.store.redis.zrem(FAILING, *gone)
        return found


def _is_failing(task: ListedTask) -> bool:
    return task.attempts >= MIN_ATTEMPTS and task.state in ("ready", "scheduled", "leased")
