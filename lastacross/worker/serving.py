"""What one worker serves: the groups, the queues, and the lists in which their ready tasks wait.

It changes while the worker runs: queues come and go with queue.yaml, and their targets with them.
"""

from collections.abc import Mapping, Sequence

from lastacross.broker import DEFAULT_GROUP, Broker, QueueDirectory
from lastacross.store import side_list


def groups_of(service: str, services: Mapping[str, str]) -> list[str]:
    """The groups that a worker of this service serves.

    Args:
        service: its own.
        services: those that it can reach by HTTP, with their base URLs; the default service's workers
            deliver to them.
    """
    if service != DEFAULT_GROUP:
        return [service]
    return [DEFAULT_GROUP, *sorted(name for name in services if name != DEFAULT_GROUP)]


class Serving:
    """What is served, as the last upload says.

    ``queues`` are all that there are, whoever serves them: their tasks are looked after by every worker. A
    pull queue is among them: it may have been a push queue when its tasks were leased. ``served_queues`` are
    the lists of ready tasks, which RQ's tools take for queues.

    Args:
        known: all queues that there are.
        groups: of this worker.
        only: names of the queues to serve; empty: every push queue.
    """

    def __init__(self, known: QueueDirectory, groups: Sequence[str], only: Sequence[str] = ()) -> None:
        self._known = known
        self._only = frozenset(only)
        self.groups = list(groups)
        self.queues: list[str] = []
        self.served_queues: list[str] = []
        self.lists: list[str] = []
        self._look()

    def refresh(self, *, is_urgent: bool = False) -> bool:
        """See what there is now; returns whether it differs from what there was.

        Args:
            is_urgent: look at the last upload though it is less than a second since the last look.

        Raises:
            StoreUnavailableError: Redis was away when one of the services had to be registered again.
        """
        self._known.refresh(is_urgent=is_urgent)
        self._register_forgotten()
        return self._look()

    def _look(self) -> bool:
        found = self._known.all()
        lists, left_over = [], []
        for name, queue in sorted(found.items()):
            if queue.mode == "push" and (not self._only or name in self._only):
                lists += [name if group == queue.group else side_list(name, group) for group in self.groups]
                # What waits there since the queue was another group's: the lease sends it on.
                left_over += [side_list(name, group) for group in self.groups if group == queue.group]
        if set(lists) == set(self.served_queues) and set(found) == set(self.queues):
            return False
        self.served_queues, self.queues = sorted(lists), sorted(found)
        self.lists = lists + left_over
        return True

    def _register_forgotten(self) -> None:
        """Redis was emptied, or backends.yaml does not list a service that has workers all the same."""
        services = self._known.services()
        for group in self.groups:
            if group != DEFAULT_GROUP and group not in services:
                Broker(self._known.store).register_service(group)

    def rotated(self, first: str | None = None) -> list[str]:
        """The lists, each time with another one first: nobody is always the last to be served.

        Args:
            first: the one to begin with, if it is still served.
        """
        if self.lists:
            turns = self.lists.index(first) if first in self.lists else 1
            self.lists.extend(self.lists[:turns])
            del self.lists[:turns]
        return self.lists
