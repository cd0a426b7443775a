"""A history, sorted by task and by batch, and the facts that the rules ask of it."""

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

# A fault is noted so long before it happens, at most.
NOTE_SECONDS = 1.0
# How long after a fault's end its traces last, at most: processes connect again, leases expire.
RECOVERY_SECONDS = 30.0


@dataclass(frozen=True)
class State:
    """The contents of Redis at the end.

    Attributes:
        places: by task id, the places that hold it: ready, leased, scheduled, deferred, dead, pull.
        records: the ids that have a record.
        tombstones: the ids whose names are refused.
    """

    places: Mapping[str, Sequence[str]] = field(default_factory=dict)
    records: frozenset[str] = frozenset()
    tombstones: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Limit:
    """The limits of a queue in queue.yaml.

    Attributes:
        rate: starts a second.
        bucket: starts at once.
        allowance: further starts, for the error of the measurement; say why where you set it.
        of: ``grant``, the instants of Redis, or ``run``, the first attempts as the application sees them.
        at_once: concurrent attempts.
    """

    rate: float | None = None
    bucket: float = 0.0
    allowance: float = 0.0
    of: str = "run"
    at_once: int | None = None


@dataclass(frozen=True)
class Add:
    """One attempt to add one task; ``code`` is None when its end is unknown.

    A task that is sent again has the same ``request``: it is added once, and gets the first answer again.
    """

    operation: Operation
    code: int | None
    request: str | None = None

    @property
    def may_have_happened(self) -> bool:
        """Whether this one may have added the task."""
        return self.code in (ADDED, ADDED_BEFORE, None)


@dataclass
class Group:
    """One batch, as the history shows it."""

    members: set[str] = field(default_factory=set)
    complete: str | None = None
    success: str | None = None
    seals: list[Operation] = field(default_factory=list)
    cancels: list[Operation] = field(default_factory=list)


T = TypeVar("T")


class ByKey(dict[str, list[T]]):
    """Lists by task or queue; a look-up of a missing key adds no list."""

    def __missing__(self, key: str) -> list[T]:
        return []

    def put(self, key: str, value: T) -> None:
        """Append to the list of this key."""
        self.setdefault(key, []).append(value)


class Evidence:
    """One history, sorted by task and by batch.

    Args:
        history: all operations.
        state: at the end.
        limits: by queue.
        tombstone_seconds: for how long a name is refused after its task's end.
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
        # Where each step on existing tasks is kept.
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
        """Whether Redis ended meanwhile: its client asks again, and its own first request may refuse it."""
        return any(
            operation.began_at - NOTE_SECONDS <= fault.began_at <= operation.ended_at
            for fault in self.faults_of(CUT)
        )

    def _without_doubtful_answer(self, step: Operation) -> Operation:
        """A step whose client asked again while Redis was silent: "not held" may be due to its own first."""
        is_met = any(
            step.began_at - NOTE_SECONDS <= fault.ended_at and fault.began_at - NOTE_SECONDS <= step.ended_at
            for fault in [*self.faults_of(CUT), *self.faults_of(STALLED)]
        )
        if is_met and step.outcome == OK and step.answer is not None and not all(step.answer):
            return replace(step, outcome=UNKNOWN, ended_at=math.inf)
        return step

    def time(self, instant: float) -> str:
        """An instant, for a message."""
        return "never" if math.isinf(instant) else f"{instant - self._zero:+.3f} s"

    def when(self, operation: Operation) -> str:
        """The outcome of an operation and its time, for a message."""
        return f"{operation.outcome} {self.time(operation.began_at)} to {self.time(operation.ended_at)}"

    def faults_of(self, kind: str) -> list[Operation]:
        """The faults of one kind."""
        return [fault for fault in self.faults if fault.asked["kind"] == kind]

    def faults_in_life(self, task: str, until: float, *kinds: str) -> list[Operation]:
        """The faults, of these kinds if any are named, between a task's first add and an instant.

        A site that many tests share has the faults of all; a task is excused only by those that it met.
        """
        born = min((add.operation.began_at for add in self.adds[task]), default=-math.inf)
        return [
            fault
            for fault in self.faults
            if fault.began_at <= until and born <= fault.ended_at + RECOVERY_SECONDS
            if not kinds or fault.asked["kind"] in kinds
        ]

    def was_lost_with_redis(self, add: Operation) -> bool:
        """Whether Redis lost its data while what this operation added may have been there."""
        return any(add.began_at <= fault.ended_at for fault in self.faults_of(EMPTIED))

    def removals_of(self, task: str) -> list[Operation]:
        """The steps that may have removed a task: its deletion, a purge, the cancel of its batch."""
        return self.removals[task] + self.purges[queue_of(task)]

    def places_of(self, task: str) -> Sequence[str]:
        """The places that hold a task at the end."""
        return self.state.places.get(task, ()) if self.state else ()

    def is_seen(self, task: str) -> bool:
        """Whether there is any sign that the task was added."""
        is_kept = self.state is not None and (task in self.state.records or task in self.state.tombstones)
        return bool(is_kept or self.runs[task] or self.ends[task])

    def possible_ends(self, task: str) -> list[float]:
        """The earliest instants at which each possible end of a task may have happened."""
        return sorted(end.began_at for end in self.ends[task] + self.removals_of(task))

    def was_done(self, task: str) -> bool:
        """Whether an attempt has succeeded."""
        return any(is_done(run) for run in self.runs[task])

    def births(self, task: str) -> list[float]:
        """When the task was added anew, or requeued as a dead letter; a repeated request adds nothing."""
        births, requests = [], set()
        for add in self.adds[task]:
            if add.code == ADDED and (add.request is None or add.request not in requests):
                births.append(add.operation.began_at)
                requests.add(add.request)
        return births + [requeue.began_at for requeue in self.requeues[task]]

    def spans(self, queue: str) -> list[tuple[float, float]]:
        """The start and the end of each attempt of a queue; one cut off by a kill ended with its process.

        An attempt that a stalled process may have gone on with, after it lost its lease, is left out.
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
        # A process beside a worker has another pid, and ends with the worker that is killed next.
        return min((kill.began_at for kill in of_its_process or kills), default=math.inf)


def _codes(operation: Operation) -> list[int | None]:
    """The code of each task of an add."""
    if isinstance(operation.answer, list):
        return operation.answer
    one = {OK: ADDED if operation.answer is None else operation.answer, FAIL: FAILED}.get(operation.outcome)
    return [one] * len(operation.asked.get("ids", []))


def _held(operation: Operation) -> list[str]:
    """The tasks that this step has ended, or may have."""
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
