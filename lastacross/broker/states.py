"""Defines a task's states, and all the steps between them, in one table.

docs/lifecycle.md shows the same table, and each Lua file lists its own transitions. A test compares them.
"""

from collections.abc import Callable
from dataclasses import dataclass

from lastacross.store import dead_key, deferred_key, leased_key, ready_key, scheduled_key


@dataclass(frozen=True, slots=True)
class State:
    """A state's name, RQ's ``status`` for it, and the Redis key of a queue's tasks in this state."""

    name: str
    status: str
    key: Callable[[str], str]


SCHEDULED = State("scheduled", "scheduled", scheduled_key)
READY = State("ready", "queued", ready_key)
LEASED = State("leased", "started", leased_key)
DEAD = State("dead", "failed", dead_key)
WAITING = State("waiting", "deferred", deferred_key)

ALL = (READY, SCHEDULED, LEASED, DEAD, WAITING)
STATES = tuple(state.name for state in ALL)
"""The names of the states, as in docs/lifecycle.md; a ``waiting`` task is waiting for its batch."""

STATE_OF_STATUS = {state.status: state.name for state in ALL}

# Pseudo-states for tasks that do not exist yet and for tasks that no longer exist.
NEW, GONE = "new", "gone"


@dataclass(frozen=True, slots=True)
class Transition:
    """A state transition, and the Lua file that performs it.

    ``before`` and ``after`` are names of states, or ``new`` and ``gone``. A pull task counts as leased
    during its lease although its status stays ``scheduled``. ``written`` lists the data that changes.
    """

    step: str
    script: str
    before: str
    after: str
    written: str

    @property
    def line(self) -> str:
        """This transition, formatted as in the head of its Lua file."""
        return f"{self.step}: {self.before} → {self.after}"


_RECORD_AND_LIST = "record, ready list, marker"
_LEASE_ENDS = "lease, record, ready list; five lost starts: dead letters"

TRANSITIONS = (
    Transition("add", "add_task", NEW, "ready", _RECORD_AND_LIST),
    Transition("add", "add_tasks", NEW, "ready, scheduled", "record, ready list or scheduled set, marker"),
    Transition("add", "add_members", NEW, "ready, scheduled", "the same, and the batch's bit and total"),
    Transition("add", "add_pull_tasks", NEW, "ready, scheduled", "record, the queue's and the tag's set"),
    Transition("wait", "create_batch", NEW, "waiting", "record, deferred set, batch"),
    Transition("fire", "fan_in", "waiting", "ready, gone", "batch, record, deferred set, ready list"),
    Transition("fire", "seal_batch", "waiting", "ready, gone", "the same"),
    Transition("fire", "sweep_batches", "waiting", "ready, gone", "the same"),
    Transition("promote", "promote_due", "scheduled", "ready", "record, scheduled set, ready list"),
    Transition("promote", "maintain_queues", "scheduled", "ready", "the same"),
    Transition("lease", "lease_tasks", "ready", "leased, dead", "record, leased set, bucket"),
    Transition("lease", "lease_pull_tasks", "ready", "leased, dead", "record, eta in both sets"),
    Transition("modify", "modify_pull_lease", "leased", "leased, ready", "record, eta in both sets"),
    Transition("ack", "ack_tasks", "leased", GONE, "record and lease deleted; tombstone, batch's bit"),
    Transition("retry", "retry_task", "leased", "scheduled, gone", "failures, record, scheduled set"),
    Transition("release", "release_tasks", "leased", "ready", "lease, record, front of the ready list"),
    Transition("rescue", "rescue_expired", "leased", "ready, dead, gone", _LEASE_ENDS),
    Transition("rescue", "maintain_queues", "leased", "ready, dead, gone", "the same"),
    Transition("rescue", "rescue_worker", "leased", "ready, dead, gone", "the same"),
    Transition("rescue", "crash_task", "leased", "ready, dead, gone", "the same"),
    Transition(
        "dead-letter", "dead_letter_task", "leased", "dead, gone", "record, dead letters, batch's bit"
    ),
    Transition("dead-letter", "dead_letter_pull_task", "leased", "dead", "record, dead letters"),
    Transition("dead-letter", "lose", "ready, scheduled, leased", "dead", "record, dead letters"),
    Transition("run now", "run_task", "ready, scheduled, dead", "ready", "record, the group's run-now list"),
    Transition("retry dead", "retry_dead", "dead", "ready", "dead letters, record, ready list"),
    Transition(
        "delete", "delete_tasks", "ready, scheduled, leased, dead", GONE, "all entries deleted; batch's bit"
    ),
    Transition("delete", "delete_dead", "dead", GONE, "all entries deleted; batch's bit"),
    Transition("purge", "purge_queue", "ready, scheduled, leased", GONE, "all entries deleted; batch's bit"),
    Transition("cancel", "cancel_batch", "ready, scheduled", GONE, "all entries deleted; batch's bit"),
    Transition("restore", "restore_orphans", "ready, scheduled, leased", "ready, scheduled", "record, list"),
    Transition("restore", "sweep_foreign", "ready", "ready, gone", "record, ready list"),
    Transition("reroute", "reroute_tasks", "ready, scheduled", "ready, scheduled", "the task's list only"),
)
