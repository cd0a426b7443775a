"""The answer of the script ``lease_tasks``: what one call for leases gave."""

from dataclasses import dataclass, field
from typing import Any

from lastacross.broker.record import Leased, load


@dataclass(frozen=True, slots=True)
class Grant:
    """What one call for leases gave.

    ``next_due`` is when a throttled queue has a token again; ``has_more`` that more could be leased now;
    ``missing`` the queues whose settings are not in Redis; ``must_promote`` that tasks were scheduled since;
    ``first_left`` the list to begin with once a thread is free, as a task was left that must start at once;
    ``unreadable`` tasks, with their leases, whose ids are not UTF-8: they are to be buried.
    """

    tasks: list[Leased]
    next_due: float | None
    has_more: bool
    missing: list[str]
    must_promote: bool
    first_left: str | None
    unreadable: list[tuple[bytes, bytes]] = field(default_factory=list)


def granted(answer: Any) -> Grant:
    """What ``LEASE_SCRIPT`` has answered."""
    tasks, next_due, has_more, missing, must_promote, first_left = answer
    loaded, unreadable = [], []
    for task in tasks:
        try:
            loaded.append(load(*task))
        except UnicodeDecodeError:
            unreadable.append((task[0], task[1]))
    return Grant(
        loaded,
        float(next_due) if next_due else None,
        bool(has_more),
        [queue.decode() for queue in missing],
        bool(must_promote),
        first_left.decode() or None,
        unreadable,
    )
