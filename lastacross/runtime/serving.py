"""What one worker serves: the groups, the queues, and the lists in which their ready tasks wait.

It changes while the worker runs: queues come and go with queue.yaml, and their targets with them.
"""

from collections.abc import Mapping, Sequence

from lastacross.store import side_list
from lastacross.taskqueue.broker import DEFAULT_GROUP
from lastacross.taskqueue.known import KnownQueues


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

    Args:
        queues: all that there are.
        groups: of this worker.
        only: names of the queues to serve; empty: every push queue.
    """

    def __init__(self, queues: KnownQueues, groups: Sequence[str], only: Sequence[str] = ()) -> None:
        self._queues = queues
        self._only = frozenset(only)
        self.groups = list(groups)
        self.push_queues: list[str] = []
        self.lists: list[str] = []
        self.refresh()

    def refresh(self) -> bool:
        """See what there is now; returns whether it differs from what there was."""
        found = {name: queue for name, queue in self._queues.all().items() if queue.mode == "push"}
        lists = []
        for name, queue in sorted(found.items()):
            if not self._only or name in self._only:
                lists += [
                    name if group == queue.group else side_list(name, group)
                    for group in self.groups
                ]
        if set(lists) == set(self.lists) and set(found) == set(self.push_queues):
            return False
        self.lists, self.push_queues = lists, sorted(found)
        return True

    def rotated(self) -> list[str]:
        """The lists, each time with another one first: nobody is always the last to be served."""
        if self.lists:
            self.lists.append(self.lists.pop(0))
        return self.lists

    @property
    def served_queues(self) -> list[str]:
        """The queues whose own tasks it serves: what RQ's tools show."""
        return sorted(name for name in self.lists if "." not in name)
