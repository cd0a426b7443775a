"""A history, sorted by task and by batch, with the facts that the rules need."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from tests.support.history import (
    ADDED,
    ADDED_BEFORE,
    CUT,
    EMPTIED,
    EXISTS,
    FAIL,
    FAILED,
    KILLED,
    OK,
    STALLED,
    TOMBSTONED,
    UNKNOWN,
    Operation,
)

# The maximum time between noting a fault and the fault itself.
NOTE_SECONDS = 1.0
# How long a fault may have effects after its end, because processes reconnect and leases expire.
RECOVERY_SECONDS = 30.0
# With appendfsync everysec, Redis answers while it postpones a write because an fsync is under way, for up to
# two seconds (https://redis.io/docs/latest/operate/oss_and_stack/management/optimization/latency/).
POSTPONED_SECONDS = 2.0


@dataclass(frozen=True)
class State:
    """The contents of Redis at the end.

    Attributes:
        places: the places that hold each task, by task id: ready, leased, scheduled, deferred, dead, pull.
        records: the ids of the tasks that have a record.
        tombstones: the ids of the tasks whose names are refused.
    """

    places: Mapping[str, Sequence[str]] = field(default_factory=dict)
    records: frozenset[str] = frozenset()
    tombstones: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Limit:
    """A queue's limits in queue.yaml.

    Attributes:
        rate: the permitted starts per second.
        bucket: how many tasks may start at once.
        allowance: further starts, to allow for measurement errors; explain it where you set it.
        of: ``grant`` for times in Redis, or ``run`` for first attempts as the application sees them.
        at_once: the permitted concurrent attempts.
    """

    rate: float | None = None
    bucket: float = 0.0
    allowance: float = 0.0
    of: str = "run"
    at_once: int | None = None


@dataclass(frozen=True)
class Add:
    """One attempt to add one task; ``code`` is None if the outcome is unknown.

    A task that is sent again has the same ``request``, so it is added only once and gets the first answer.
    """

    operation: Operation
    code: int | None
    request: str | None = None

    @property
    def may_have_happened(self) -> bool:
        """Whether this attempt may have added the task."""
        return self.code in (ADDED, ADDED_BEFORE, None)


@dataclass
class Group:
    """One batch as shown by the history."""

    members: set[str] = field(default_factory=set)
    complete: str | None = None
    success: str | None = None
    seals: list[Operation] = field(default_factory=list)
    cancels: list[Operation] = field(default_factory=list)


T = TypeVar("T")


class ByKey(dict[str, list[T]]):
    """Lists by task or queue; looking up a missing key does not add a list."""

    def __missing__(self, key: str) -> list[T]:
        return []

    def put(self, key: str, value: T) -> None:
        """Append a value to this key's list."""
        self.setdefault(key, []).append(value)


class Evidence:
    """One history, sorted by task and by batch.

    Args:
        history: all operations.
        state: the contents of Redis at the end.
        limits: the limits by queue.
        tombstone_seconds: how long a name is refused after its task has ended.
    """

    def __init__(
        self,
        history: Sequence[Operation],
        state: State | None = None,
        limits: Mapping[str, Limit] | None = None,
        tombstone_seconds: float = math.inf,
    ) -> None:
        self.state = state
        self.limits = limits or {}
        self.tombstone_seconds = tombstone_seconds
        self.history = sorted(history, key=lambda operation: operation.began_at)
        self._zero = self.history[0].began_at if history else 0.0
        self.adds: ByKey[Add] = ByKey()
        self.runs: ByKey[Operation] = ByKey()
        self.ends: ByKey[Operation] = ByKey()
        self.removals: ByKey[Operation] = ByKey()
        self.requeues: ByKey[Operation] = ByKey()
        self.purges: ByKey[Operation] = ByKey()
        self.batches: dict[str, Group] = defaultdict(Group)
        self.faults = [operation for operation in self.history if operation.op == "fault"]
        # The mapping that holds each kind of step on existing tasks.
        self._steps = {
            "ack": self.ends,
            "dead_letter": self.ends,
            "delete": self.removals,
            "requeue": self.requeues,
        }
        for operation in self.history:
            self._sort_in(operation)
        for group in self.batches.values():
            for task in group.members:
                for cancel in group.cancels:
                    self.removals.put(task, cancel)

    def _sort_in(self, operation: Operation) -> None:
        asked, op = operation.asked, operation.op
        if op in {"add", "member", "create"}:
            self._sort_in_add(operation)
        elif op == "run":
            self.runs.put(asked["id"], operation)
        elif op == "purge":
            self.purges.put(asked["queue"], operation)
        elif op in {"seal", "cancel"}:
            group = self.batches[asked["batch"]]
            (group.seals if op == "seal" else group.cancels).append(operation)
        elif op in self._steps:
            step = self._without_doubtful_answer(operation)
            for task in _held(step):
                self._steps[op].put(task, step)

    def _sort_in_add(self, operation: Operation) -> None:
        asked, codes = operation.asked, _codes(operation)
        ids = asked.get("ids", [])
        requests = asked.get("requests", [None] * len(ids))
        if self._was_cut_off(operation):
            codes = [None if code in (EXISTS, TOMBSTONED) else code for code in codes]
        for task, code, request in zip(ids, codes, requests, strict=True):
            self.adds.put(task, Add(operation, code, request))
        if operation.op == "member":
            group = self.batches[asked["batch"]]
            pairs = zip(ids, codes, strict=True)
            group.members.update(task for task, code in pairs if code in (ADDED, ADDED_BEFORE, None))
        if operation.op == "create" and ids:
            group = self.batches[asked["batch"]]
            group.complete, group.success = asked.get("complete"), asked.get("success")

    def _was_cut_off(self, operation: Operation) -> bool:
        """Whether Redis ended during this operation, so a client's retry may conflict with its first try."""
        return any(
            operation.began_at - NOTE_SECONDS <= fault.began_at <= operation.ended_at
            for fault in self.faults_of(CUT)
        )

    def _without_doubtful_answer(self, step: Operation) -> Operation:
        """The step, with an unknown outcome if a client's retry may have caused an answer of "not held"."""
        is_met = any(
            step.began_at - NOTE_SECONDS <= fault.ended_at and fault.began_at - NOTE_SECONDS <= step.ended_at
            for fault in [*self.faults_of(CUT), *self.faults_of(STALLED)]
        )
        if is_met and step.outcome == OK and step.answer is not None and not all(step.answer):
            return replace(step, outcome=UNKNOWN, ended_at=math.inf)
        return step

    def may_be_lost(self, step: Operation) -> bool:
        """Whether Redis may have been killed before it wrote a step that it had confirmed."""
        return any(
            fault.began_at - POSTPONED_SECONDS <= step.ended_at <= fault.ended_at
            for fault in self.faults_of(CUT)
        )

    def time(self, instant: float) -> str:
        """A time in a form for messages."""
        return "never" if math.isinf(instant) else f"{instant - self._zero:+.3f} s"

    def when(self, operation: Operation) -> str:
        """An operation's outcome and time, for a message."""
        return f"{operation.outcome} {self.time(operation.began_at)} to {self.time(operation.ended_at)}"

    def faults_of(self, kind: str) -> list[Operation]:
        """The faults of one kind."""
        return [fault for fault in self.faults if fault.asked["kind"] == kind]

    def faults_in_life(self, task: str, until: float, *kinds: str) -> list[Operation]:
        """The faults between a task's first add and the time ``until``, limited to ``kinds`` if given.

        If many tests share a site, its history has all their faults. Only faults that a task met excuse it.
        """
        born = min((add.operation.began_at for add in self.adds[task]), default=-math.inf)
        return [
            fault
            for fault in self.faults
            if fault.began_at <= until and born <= fault.ended_at + RECOVERY_SECONDS
            if not kinds or fault.asked["kind"] in kinds
        ]

    def was_lost_with_redis(self, add: Operation) -> bool:
        """Whether Redis lost its data while it may have held the tasks that this operation added."""
        return any(add.began_at <= fault.ended_at for fault in self.faults_of(EMPTIED))

    def removals_of(self, task: str) -> list[Operation]:
        """The steps that may have removed a task: its deletion, a purge, or its batch's cancellation."""
        return self.removals[task] + self.purges[queue_of(task)]

    def places_of(self, task: str) -> Sequence[str]:
        """The places that hold a task at the end."""
        return self.state.places.get(task, ()) if self.state else ()

    def is_seen(self, task: str) -> bool:
        """Whether there is any sign that the task was added."""
        is_kept = self.state is not None and (task in self.state.records or task in self.state.tombstones)
        return bool(is_kept or self.runs[task] or self.ends[task])

    def possible_ends(self, task: str) -> list[float]:
        """The earliest time at which each possible end of a task may have happened."""
        return sorted(end.began_at for end in self.ends[task] + self.removals_of(task))

    def was_done(self, task: str) -> bool:
        """Whether an attempt has succeeded."""
        return any(is_done(run) for run in self.runs[task])

    def births(self, task: str) -> list[float]:
        """The times when a task was added or requeued as a dead letter. A repeated request does not count."""
        births, requests = [], set()
        for add in self.adds[task]:
            if add.code == ADDED and (add.request is None or add.request not in requests):
                births.append(add.operation.began_at)
                requests.add(add.request)
        return births + [requeue.began_at for requeue in self.requeues[task]]

    def spans(self, queue: str) -> list[tuple[float, float]]:
        """The start and end of each of a queue's attempts. An attempt that was killed ends with its process.

        Attempts that a stalled process may have continued after it lost the lease are left out.
        """
        found = []
        for task, runs in self.runs.items():
            if queue_of(task) == queue:
                spans = [(run.began_at, self._over_at(run)) for run in runs]
                found += [span for span in spans if not self.faults_in_life(task, span[1], STALLED)]
        return found

    def _over_at(self, run: Operation) -> float:
        if not math.isinf(run.ended_at):
            return run.ended_at
        kills = [kill for kill in self.faults_of(KILLED) if kill.began_at >= run.began_at]
        of_its_process = [kill for kill in kills if kill.asked.get("killed") == run.asked["pid"]]
        # A worker's helper process has a different pid, and ends with the next worker that is killed.
        return min((kill.began_at for kill in of_its_process or kills), default=math.inf)


def _codes(operation: Operation) -> list[int | None]:
    """The code for each task in an add."""
    if isinstance(operation.answer, list):
        return operation.answer
    one = {OK: ADDED if operation.answer is None else operation.answer, FAIL: FAILED}.get(operation.outcome)
    return [one] * len(operation.asked.get("ids", []))


def _held(operation: Operation) -> list[str]:
    """The tasks that this step has ended or may have ended."""
    ids: list[str] = operation.asked["ids"]
    if operation.outcome != OK or operation.answer is None:
        return ids
    return [task for task, held in zip(ids, operation.answer, strict=True) if held]


def queue_of(task: str) -> str:
    """The queue in a task's id."""
    return task.partition("_")[0]


def is_done(run: Operation) -> bool:
    """Whether an attempt succeeded."""
    return run.outcome == OK and (run.answer is None or bool(run.answer["is_success"]))
