"""Lists of ready tasks as tests inspect them: a queue's own list, and its lists for other targets."""

from collections.abc import Mapping

from lastacross import store
from tests.support.scripts import Scripts

Queues = Mapping[str, Mapping[str, str]]
PLAIN: Queues = {"default": {}}
FIXED: Queues = {"default": {"target": "counter"}}
NOWHERE: list[str] = []


def add_for(target: str, scripts: Scripts, countdown: float | None = None) -> None:
    """Add the task "default_a" with this target, or without a target if it is ''."""
    if target:
        assert scripts.add("default_a", target=target, countdown=countdown) == [0]
    else:
        assert scripts.add("default_a", countdown=countdown) == [0]


def lists(scripts: Scripts) -> dict[str, list[str]]:
    """All lists of ready tasks that are not empty, by name."""
    keys = [key.decode() for key in scripts.redis.keys(store.READY_PREFIX + "*")]
    names = [key.removeprefix(store.READY_PREFIX) for key in keys]
    return {name: scripts.ready(name) for name in sorted(names)}


def lease(scripts: Scripts, group: str, *names: str) -> list[str]:
    """Lease from these lists as a worker of this group; returns the task ids."""
    scripts.groups = [group]
    return [task for task, _ in scripts.lease(*names)]


def is_woken(scripts: Scripts, group: str) -> bool:
    """Whether workers of the group are woken; this takes the marker."""
    return scripts.redis.lpop(store.wakeup_key(group)) is not None


def leased(scripts: Scripts) -> str:
    """Add a task for another service and lease it as that service's worker; returns the lease id."""
    scripts.add("default_a", target="counter")
    scripts.groups = ["counter"]
    [(_, lease_id)] = scripts.lease("default.counter")
    return lease_id
