"""Lists of ready tasks as a test looks at them: a queue's own, and those beside it."""

from collections.abc import Mapping

from lastacross import store
from tests.support.scripts import Scripts

Queues = Mapping[str, Mapping[str, str]]
PLAIN: Queues = {"default": {}}
FIXED: Queues = {"default": {"target": "counter"}}
NOWHERE: list[str] = []


def add_for(target: str, scripts: Scripts, countdown: float | None = None) -> None:
    """Add the task "default_a" with this target; '' for none."""
    if target:
        assert scripts.add("default_a", target=target, countdown=countdown) == [0]
    else:
        assert scripts.add("default_a", countdown=countdown) == [0]


def lists(scripts: Scripts) -> dict[str, list[str]]:
    """Every list of ready tasks that is not empty, by its name."""
    keys = [key.decode() for key in scripts.redis.keys(store.READY_PREFIX + "*")]
    names = [key.removeprefix(store.READY_PREFIX) for key in keys]
    return {name: scripts.ready(name) for name in sorted(names)}


def lease(scripts: Scripts, group: str, *names: str) -> list[str]:
    """The ids of what a worker of this group is given from these lists."""
    scripts.groups = [group]
    return [task for task, _ in scripts.lease(*names)]


def is_woken(scripts: Scripts, group: str) -> bool:
    """Whether workers of the group are woken; takes the marker."""
    return scripts.redis.lpop(store.wakeup_key(group)) is not None


def leased(scripts: Scripts) -> str:
    """A task of another service, leased by its worker; returns the lease id."""
    scripts.add("default_a", target="counter")
    scripts.groups = ["counter"]
    [(_, lease_id)] = scripts.lease("default.counter")
    return lease_id
