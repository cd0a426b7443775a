"""A history of all operations on tasks, and the one judge of such histories.

Each operation is two lines of JSON in a file: its invocation, and its end as ok, fail or unknown. An
operation whose process was killed has no second line, which means unknown too. Any number of threads and
processes may append to the file. ``violations`` reads the whole history and the final state of Redis.
"""

import contextlib
import itertools
import json
import math
import os
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

# The codes of an add, as App Engine numbers them, and those of a batch's member.
ADDED, ADDED_BEFORE, CANCELLED, EXISTS, TOMBSTONED = 0, 1, 2, 10, 11
# An add that is known to have had no effect, for a reason of its own.
FAILED = -1

OK, FAIL, UNKNOWN = "ok", "fail", "unknown"

# The kinds of fault: Redis lost its data; a process stood still and went on; a process was killed; Redis
# or the datastore ended and kept its data.
EMPTIED, STALLED, KILLED, CUT = "emptied", "stalled", "killed", "cut"
# Another program takes tasks from our queues: RQ's own worker writes back a record that it has read before.
FOREIGN = "foreign"


# --- writing ------------------------------------------------------------------------------


class Recorder:
    """Appends to one history.

    Args:
        path: the file; other processes may append to it as well.
        url: of the Redis whose tasks they are; None if that is not known.
    """

    def __init__(self, path: Path, url: str | None = None) -> None:
        self.path = path
        self.url = url
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._numbers = itertools.count()

    def invoke(self, op: str, **asked: Any) -> str:
        """An operation begins; returns the number under which it ends."""
        number = f"{os.getpid()}-{next(self._numbers)}"
        self._write({"n": number, "type": "invoke", "op": op, "at": time.time(), **_process(), **asked})
        return number

    def end(self, number: str, outcome: str, answer: Any = None) -> None:
        """An operation ends."""
        self._write({"n": number, "type": outcome, "at": time.time(), "answer": answer})

    def note(self, op: str, **asked: Any) -> None:
        """Something that happens at one moment, such as a fault."""
        self.end(self.invoke(op, **asked), OK)

    @contextlib.contextmanager
    def operation(self, op: str, *refusals: type[BaseException], **asked: Any) -> Iterator[None]:
        """The block is the operation: one of ``refusals`` means fail, any other exception unknown."""
        number = self.invoke(op, **asked)
        try:
            yield
        except refusals:
            self.end(number, FAIL)
            raise
        except BaseException:
            self.end(number, UNKNOWN)
            raise
        self.end(number, OK)

    def close(self) -> None:
        """Write no more."""
        os.close(self._file)

    def _write(self, event: Mapping[str, Any]) -> None:
        # A kill may tear a long line. The line end before it keeps the next event in one piece.
        os.write(self._file, b"\n" + json.dumps(event).encode() + b"\n")


def _process() -> dict[str, int]:
    return {"pid": os.getpid(), "parent": os.getppid()}


# --- reading ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Operation:
    """One operation.

    Attributes:
        op: add, member, create, seal, cancel, delete, purge, requeue, run, ack, dead_letter, grant or fault.
        began_at: seconds since the epoch.
        ended_at: infinite when nobody heard of its end.
        outcome: ok, fail or unknown.
        asked: what was asked for, such as ``ids``.
        answer: what came back, such as a code for each id.
    """

    op: str
    began_at: float
    ended_at: float = math.inf
    outcome: str = UNKNOWN
    asked: Mapping[str, Any] = field(default_factory=dict)
    answer: Any = None


def read(path: Path) -> list[Operation]:
    """The operations in a file, in the order in which they began."""
    events = []
    for line in path.read_bytes().splitlines() if path.exists() else []:
        with contextlib.suppress(ValueError):
            events.append(json.loads(line))
    return operations(events)


def operations(events: Iterable[Mapping[str, Any]]) -> list[Operation]:
    """Pairs invocations with their ends."""
    begun: dict[str, Mapping[str, Any]] = {}
    ended: dict[str, Mapping[str, Any]] = {}
    for event in events:
        (begun if event["type"] == "invoke" else ended)[event["n"]] = event
    found = []
    for number, event in begun.items():
        end = ended.get(number)
        asked = {key: value for key, value in event.items() if key not in {"n", "type", "op", "at"}}
        if end is None:
            found.append(Operation(event["op"], event["at"], asked=asked))
        else:
            ended_at = math.inf if end["type"] == UNKNOWN else end["at"]
            found.append(Operation(event["op"], event["at"], ended_at, end["type"], asked, end["answer"]))
    return sorted(found, key=lambda operation: operation.began_at)


# --- judging ------------------------------------------------------------------------------


@dataclass(frozen=True)
class State:
    """What Redis holds at the end.

    Attributes:
        places: by task id, the places in which it is: ready, leased, scheduled, deferred, dead.
        records: the ids that have a record.
        tombstones: the ids whose names are refused.
    """

    places: Mapping[str, Sequence[str]] = field(default_factory=dict)
    records: frozenset[str] = frozenset()
    tombstones: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Limit:
    """What queue.yaml allows a queue.

    Attributes:
        rate: starts a second.
        bucket: starts at once.
        allowance: further starts, for what the measuring costs; say why where you set it.
        of: ``grant``, the instants of Redis, or ``run``, the first attempts as the application sees them.
        at_once: attempts under way at the same time.
    """

    rate: float | None = None
    bucket: float = 0.0
    allowance: float = 0.0
    of: str = "run"
    at_once: int | None = None


@dataclass(frozen=True)
class Add:
    """One attempt to add one task; ``code`` is None when nobody heard of its end.

    ``request`` is the same where a task is sent again, which adds it once and is answered as the first time.
    """

    operation: Operation
    code: int | None
    request: str | None = None

    @property
    def may_have_happened(self) -> bool:
        """Whether this one may have put the task there."""
        return self.code in (ADDED, ADDED_BEFORE, None)


@dataclass
class Group:
    """What a history tells of one batch."""

    members: set[str] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)
    complete: str | None = None
    success: str | None = None
    seals: list[Operation] = field(default_factory=list)
    cancels: list[Operation] = field(default_factory=list)


T = TypeVar("T")


class ByKey(dict[str, list[T]]):
    """Lists by task or queue, in which asking for one that is not there adds none."""

    def __missing__(self, key: str) -> list[T]:
        return []

    def put(self, key: str, value: T) -> None:
        """Append to the list of this key."""
        self.setdefault(key, []).append(value)


def violations(
    history: Sequence[Operation],
    state: State | None,
    *,
    limits: Mapping[str, Limit] | None = None,
    tombstone_seconds: float = math.inf,
) -> list[str]:
    """All that is wrong in a history; empty when all is well.

    Args:
        history: all operations.
        state: at the end, when nothing is under way; None when Redis cannot be asked any more.
        limits: by queue.
        tombstone_seconds: for how long a name is refused after its task's end.
    """
    judge = Judge(history, state, limits, tombstone_seconds)
    return [
        *judge.lost(),
        *judge.halves(),
        *judge.misplaced(),
        *judge.phantoms(),
        *judge.repeated(),
        *judge.names(),
        *judge.fan_ins(),
        *judge.counts(),
        *judge.rates(),
        *judge.crowds(),
    ]


class Judge:
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
        self._state = state
        self._limits = limits or {}
        self._tombstone_seconds = tombstone_seconds
        self._history = sorted(history, key=lambda operation: operation.began_at)
        self._zero = self._history[0].began_at if history else 0.0
        self._adds: ByKey[Add] = ByKey()
        self._runs: ByKey[Operation] = ByKey()
        self._ends: ByKey[Operation] = ByKey()
        self._removals: ByKey[Operation] = ByKey()
        self._requeues: ByKey[Operation] = ByKey()
        self._purges: ByKey[Operation] = ByKey()
        self._batches: dict[str, Group] = defaultdict(Group)
        self._faults: list[Operation] = []
        # The steps on tasks that are there, and what they add to.
        self._steps = {
            "ack": self._ends,
            "dead_letter": self._ends,
            "delete": self._removals,
            "requeue": self._requeues,
        }
        for operation in self._history:
            self._sort_in(operation)
        for group in self._batches.values():
            for task in group.members:
                for cancel in group.cancels:
                    self._removals.put(task, cancel)

    def _sort_in(self, operation: Operation) -> None:
        asked, op = operation.asked, operation.op
        if op in {"add", "member", "create"}:
            self._sort_in_add(operation)
        elif op == "run":
            self._runs.put(asked["id"], operation)
        elif op == "purge":
            self._purges.put(asked["queue"], operation)
        elif op in {"seal", "cancel"}:
            group = self._batches[asked["batch"]]
            (group.seals if op == "seal" else group.cancels).append(operation)
        elif op == "fault":
            self._faults.append(operation)
        elif op in self._steps:
            for task in _held(operation):
                self._steps[op].put(task, operation)

    def _sort_in_add(self, operation: Operation) -> None:
        asked, codes = operation.asked, _codes(operation)
        ids = asked.get("ids", [])
        requests = asked.get("requests", [None] * len(ids))
        for task, code, request in zip(ids, codes, requests, strict=True):
            self._adds.put(task, Add(operation, code, request))
        if operation.op == "member":
            group = self._batches[asked["batch"]]
            for task, code in zip(ids, codes, strict=True):
                (group.members if code in (ADDED, ADDED_BEFORE, None) else group.refused).add(task)
        if operation.op == "create" and ids:
            group = self._batches[asked["batch"]]
            group.complete, group.success = asked.get("complete"), asked.get("success")

    # --- what the rules ask -----------------------------------------------------------------

    def _time(self, instant: float) -> str:
        return "never" if math.isinf(instant) else f"{instant - self._zero:+.3f} s"

    def _when(self, operation: Operation) -> str:
        return f"{operation.outcome} {self._time(operation.began_at)} to {self._time(operation.ended_at)}"

    def _faults_of(self, kind: str) -> list[Operation]:
        return [fault for fault in self._faults if fault.asked["kind"] == kind]

    def _faults_before(self, operation: Operation) -> int:
        return sum(fault.began_at < operation.ended_at for fault in self._faults)

    def _was_lost_with_redis(self, add: Add) -> bool:
        """Whether Redis lost its data while the task may have been there."""
        return any(add.operation.began_at <= fault.ended_at for fault in self._faults_of(EMPTIED))

    def _removals_of(self, task: str) -> list[Operation]:
        return self._removals[task] + self._purges[_queue_of(task)]

    def _places_of(self, task: str) -> Sequence[str]:
        return self._state.places.get(task, ()) if self._state else ()

    def _is_seen(self, task: str) -> bool:
        """Whether there is any sign that the task was added."""
        is_kept = self._state is not None and (task in self._state.records or task in self._state.tombstones)
        return bool(is_kept or self._runs[task] or self._ends[task])

    def _possible_ends(self, task: str) -> list[float]:
        """The earliest instants at which each possible end of a task may have happened."""
        return sorted(end.began_at for end in self._ends[task] + self._removals_of(task))

    # --- the rules --------------------------------------------------------------------------

    def lost(self) -> Iterator[str]:
        """Each accepted task is done, or visibly waiting, dead, deleted, purged or cancelled."""
        if self._state is None:
            return
        for task, adds in self._adds.items():
            accepted = [add for add in adds if add.code == ADDED and not self._was_lost_with_redis(add)]
            if not accepted or self._places_of(task) or self._removals_of(task):
                continue
            if any(_is_done(run) for run in self._runs[task]) or self._is_success_of_failed_batch(task):
                continue
            runs = ", ".join(self._when(run) for run in self._runs[task]) or "none"
            added = self._when(accepted[0].operation)
            yield f"{task}: lost: added ({added}), runs: {runs}, and Redis has it nowhere"

    def _is_success_of_failed_batch(self, task: str) -> bool:
        """Whether a batch dropped its `on_success`, because not every member was done."""
        groups = [group for group in self._batches.values() if group.success == task]
        return any(
            group.seals and any(not self._was_done(member) for member in group.members) for group in groups
        )

    def _was_done(self, task: str) -> bool:
        return any(_is_done(run) for run in self._runs[task])

    def halves(self) -> Iterator[str]:
        """An add of many tasks that nobody heard of has added all of them or none."""
        if self._state is None or self._faults_of(EMPTIED):
            return
        for operation in self._history:
            if operation.op not in {"add", "member"} or operation.outcome != UNKNOWN:
                continue
            only_here = [
                task
                for task in operation.asked["ids"]
                if len(self._adds[task]) == 1 and not self._removals_of(task)
            ]
            seen = [task for task in only_here if self._is_seen(task)]
            if seen and len(seen) < len(only_here):
                missing = sorted(set(only_here) - set(seen))
                text = f"{len(seen)} of {len(only_here)} tasks were added, {missing[0]} was not"
                yield f"{operation.op} happened by half ({self._when(operation)}): {text}"

    def misplaced(self) -> Iterator[str]:
        """At the end each record is in exactly one place, and each place's task has a record."""
        if self._state is None:
            return
        for task in sorted(self._state.records | set(self._state.places)):
            places = self._places_of(task)
            if task not in self._state.records:
                yield f"{task}: has no record, and is {' and '.join(places)}"
            elif len(places) != 1:
                yield f"{task}: is in {len(places)} places: {', '.join(places) or 'none, so it never runs'}"

    def phantoms(self) -> Iterator[str]:
        """Nothing runs that nobody may have added."""
        for task, runs in self._runs.items():
            for run in runs:
                adds = [add for add in self._adds[task] if add.operation.began_at <= run.began_at]
                if not any(add.may_have_happened for add in adds):
                    told = f"{len(adds)} adds were refused" if adds else "nobody added it"
                    yield f"{task}: ran ({self._when(run)}), and {told}"
                    break
        for task in sorted(self._state.records) if self._state else ():
            if not any(add.may_have_happened for add in self._adds[task]):
                yield f"{task}: is in Redis, and nobody added it"

    def repeated(self) -> Iterator[str]:
        """A task whose end Redis has confirmed does not run again; without a fault no success is repeated."""
        if self._faults_of(STALLED) or self._faults_of(EMPTIED) or self._faults_of(FOREIGN):
            # A process that stood still may begin an attempt after its lease was lost.
            return
        for task, runs in self._runs.items():
            lives = self._births(task)
            for first, second in itertools.pairwise(runs):
                if any(first.began_at < life <= second.began_at for life in lives):
                    continue
                confirmed = [
                    end
                    for end in self._ends[task]
                    if end.op == "ack" and end.outcome == OK and end.ended_at < second.began_at
                ]
                if confirmed:
                    text = f"its end was confirmed at {self._time(confirmed[0].ended_at)}"
                elif _is_done(first) and not self._is_excused(first, second):
                    text = "nothing had failed"
                else:
                    continue
                yield f"{task}: ran again ({self._when(first)}, {self._when(second)}), though {text}"

    def _is_excused(self, first: Operation, second: Operation) -> bool:
        """Whether a fault may have kept the end of the first attempt from Redis."""
        if first.ended_at > second.began_at:
            return True
        own = {first.asked.get("pid"), first.asked.get("parent")}
        return any(
            fault.began_at < second.began_at
            and (fault.asked["kind"] != KILLED or fault.asked.get("killed") in own)
            for fault in self._faults
        )

    def _births(self, task: str) -> list[float]:
        """When a task of this name was added anew, or requeued when it was dead; sent again is not anew."""
        births, requests = [], set()
        for add in self._adds[task]:
            if add.code == ADDED and (add.request is None or add.request not in requests):
                births.append(add.operation.began_at)
                requests.add(add.request)
        return births + [requeue.began_at for requeue in self._requeues[task]]

    # --- names ------------------------------------------------------------------------------

    def names(self) -> Iterator[str]:
        """A name is accepted once as long as it is refused, and refused only if it may have been used."""
        for task, adds in self._adds.items():
            own = [add for add in adds if add.operation.op == "add"]
            if len(adds) > 1 or any(not add.may_have_happened for add in own):
                yield from self._doubled(task, own)
                yield from self._wrongly_refused(task, adds, own)

    def _doubled(self, task: str, adds: Sequence[Add]) -> Iterator[str]:
        accepted = [add for add in adds if add.code == ADDED]
        for one, other in itertools.pairwise(accepted):
            first, second = one.operation, other.operation
            if one.request and one.request == other.request:
                continue
            is_free = any(
                end >= first.began_at and end + self._tombstone_seconds <= second.ended_at
                for end in self._possible_ends(task)
            )
            is_emptied = any(
                fault.ended_at >= first.began_at and fault.began_at <= second.ended_at
                for fault in self._faults_of(EMPTIED)
            )
            if not is_free and not is_emptied:
                yield f"{task}: accepted twice ({self._when(first)}, {self._when(second)})"

    def _wrongly_refused(self, task: str, adds: Sequence[Add], own: Sequence[Add]) -> Iterator[str]:
        for refused in own:
            if refused.code not in (EXISTS, TOMBSTONED):
                continue
            refusal = refused.operation
            earlier = [
                add.operation
                for add in adds
                if add is not refused and add.may_have_happened and add.operation.began_at < refusal.ended_at
            ]
            ends = [end for end in self._possible_ends(task) if end < refusal.ended_at]
            if not earlier:
                yield f"{task}: refused ({self._when(refusal)}), and nobody had added it"
            elif refused.code == TOMBSTONED and not ends:
                yield f"{task}: refused as ended ({self._when(refusal)}), and it had not ended"
            elif refused.code == EXISTS and self._is_surely_over(task, refusal, earlier):
                yield f"{task}: refused as waiting or running ({self._when(refusal)}), and it had ended"

    def _is_surely_over(self, task: str, refusal: Operation, earlier: Sequence[Operation]) -> bool:
        """Whether every earlier add was over, confirmed, before the refused one began."""
        over = [
            end.ended_at for end in self._ends[task] if end.op == "ack" and end.ended_at < refusal.began_at
        ]
        return bool(over) and all(add.ended_at < max(over) for add in earlier)

    # --- batches ----------------------------------------------------------------------------

    def fan_ins(self) -> Iterator[str]:
        """A sealed batch fires once, not before its last member has ended, and it does fire."""
        for batch, group in self._batches.items():
            for task in (group.complete, group.success):
                if task is not None:
                    yield from self._early(batch, group, task)
                    yield from self._fired_twice(batch, task)
            if group.complete is not None:
                yield from self._missing(batch, group, group.complete)

    def _early(self, batch: str, group: Group, task: str) -> Iterator[str]:
        fired = [run.began_at for run in self._runs[task]]
        if not fired:
            return
        if not any(seal.began_at <= fired[0] for seal in group.seals + group.cancels):
            yield f"batch {batch}: {task} ran at {self._time(fired[0])}, before the batch was sealed"
        for member in sorted(group.members):
            if not self._may_have_ended(member, fired[0]):
                yield f"batch {batch}: {task} ran at {self._time(fired[0])}, before {member} had ended"

    def _may_have_ended(self, task: str, at: float) -> bool:
        ends = self._possible_ends(task)
        if ends and ends[0] <= at:
            return True
        if not self._is_seen(task) and all(add.code is None for add in self._adds[task]):
            return True  # it was never added
        # Poison: the end of its process is its end.
        runs = [run for run in self._runs[task] if run.began_at <= at]
        return "dead" in self._places_of(task) and bool(runs)

    def _fired_twice(self, batch: str, task: str) -> Iterator[str]:
        confirmed = [
            end
            for end in self._ends[task]
            if end.op == "ack" and end.outcome == OK and not self._requeues[task]
        ]
        if len(confirmed) > 1:
            times = ", ".join(self._time(end.ended_at) for end in confirmed)
            yield f"batch {batch}: {task} fired {len(confirmed)} times: it ended at {times}"

    def _missing(self, batch: str, group: Group, task: str) -> Iterator[str]:
        if self._state is None or self._faults_of(EMPTIED) or self._runs[task]:
            return
        is_sealed = any(seal.outcome == OK for seal in group.seals)
        places = self._places_of(task)
        waiting = [m for m in group.members if self._places_of(m) and "dead" not in self._places_of(m)]
        if is_sealed and not waiting and places in ((), ["deferred"]) and not self._removals_of(task):
            sealed = self._when(group.seals[0])
            yield f"batch {batch}: sealed ({sealed}), every member has ended, and {task} never ran"

    # --- attempts ---------------------------------------------------------------------------

    def counts(self) -> Iterator[str]:
        """An attempt's numbers never fall, and count no more than what happened before."""
        if self._faults_of(STALLED) or self._faults_of(EMPTIED):
            return
        for task, runs in self._runs.items():
            if "retry_count" not in runs[0].asked:
                continue
            for life in self._lives(task, runs):
                for place, run in enumerate(life):
                    if text := self._wrong_count(life[:place], run):
                        yield f"{task}: attempt {place + 1} ({self._when(run)}) {text}"

    def _lives(self, task: str, runs: Sequence[Operation]) -> list[list[Operation]]:
        """The attempts from one add, or one requeue of a dead letter, to the next."""
        starts = self._births(task)
        lives: dict[int, list[Operation]] = defaultdict(list)
        for run in runs:
            lives[sum(start <= run.began_at for start in starts)].append(run)
        return list(lives.values())

    def _wrong_count(self, before: Sequence[Operation], run: Operation) -> str:
        retries, executions = run.asked["retry_count"], run.asked["execution_count"]
        failed = sum(1 for earlier in before if earlier.ended_at < run.began_at and _has_failed(earlier))
        if executions > retries:
            return f"has executions {executions} beyond its retries {retries}"
        if before and retries < before[-1].asked["retry_count"]:
            return f"has retries {retries} after {before[-1].asked['retry_count']}"
        if before and executions < before[-1].asked["execution_count"]:
            return f"has executions {executions} after {before[-1].asked['execution_count']}"
        if executions > len(before):
            return f"has executions {executions}, and began {len(before)} times before"
        if retries > len(before) + self._faults_before(run):
            return f"has retries {retries}, and began {len(before)} times before"
        if not self._faults_before(run) and executions != failed:
            return f"has executions {executions}, and failed {failed} times before"
        return ""

    # --- limits -----------------------------------------------------------------------------

    def rates(self) -> Iterator[str]:
        """No window has more starts than the bucket, what its length allows, and the allowance."""
        for queue, limit in self._limits.items():
            if limit.rate is None:
                continue
            starts = [
                operation.began_at
                for operation in self._history
                if operation.op == limit.of
                and _queue_of(operation.asked["id"]) == queue
                and not operation.asked.get("retry_count")
            ]
            most, first, last = worst_window(starts, limit.rate)
            if most > limit.bucket + limit.allowance:
                window = f"{self._time(first)} to {self._time(last)}"
                text = f"needs a bucket of {most:.3f}, and has {limit.bucket:g} (+ {limit.allowance:g})"
                yield f"queue {queue}: its {limit.of}s from {window} at {limit.rate:g}/s {text}"

    def crowds(self) -> Iterator[str]:
        """No more attempts of a queue are under way at once than it allows."""
        if self._faults_of(STALLED):
            # An attempt goes on although its lease was lost.
            return
        for queue, limit in self._limits.items():
            if limit.at_once is None:
                continue
            most, at = crowd(self.spans(queue))
            if most > limit.at_once:
                yield f"queue {queue}: {most} at once at {self._time(at)}, and {limit.at_once} are allowed"

    def spans(self, queue: str) -> list[tuple[float, float]]:
        """From when to when each attempt of a queue ran; a cut-off one ended with its process."""
        found = []
        for task, runs in self._runs.items():
            if _queue_of(task) == queue:
                found += [(run.began_at, self._over_at(run)) for run in runs]
        return found

    def _over_at(self, run: Operation) -> float:
        if not math.isinf(run.ended_at):
            return run.ended_at
        kills = [kill for kill in self._faults_of(KILLED) if kill.began_at >= run.began_at]
        of_its_process = [kill for kill in kills if kill.asked.get("killed") == run.asked["pid"]]
        # A process beside a worker has another pid, and ends with the worker that is killed next.
        return min((kill.began_at for kill in of_its_process or kills), default=math.inf)


def burst(instants: Sequence[float], rate: float) -> float:
    """The smallest bucket that allows these starts: the most of ``count - rate * t`` in any window of t."""
    return worst_window(instants, rate)[0]


def worst_window(instants: Sequence[float], rate: float) -> tuple[float, float, float]:
    """The smallest bucket that allows these starts, and the window that needs it."""
    least, least_at = math.inf, 0.0
    most, first, last = 0.0, 0.0, 0.0
    for index, at in enumerate(sorted(instants)):
        if index - rate * at < least:
            least, least_at = index - rate * at, at
        if index + 1 - rate * at - least > most:
            most, first, last = index + 1 - rate * at - least, least_at, at
    return most, first, last


def crowd(spans: Iterable[tuple[float, float]]) -> tuple[int, float]:
    """The most spans that overlap, and when they first do."""
    spans = list(spans)
    changes = sorted([(begin, 1) for begin, _ in spans] + [(end, -1) for _, end in spans])
    under_way, most, most_at = 0, 0, 0.0
    for at, change in changes:
        under_way += change
        if under_way > most:
            most, most_at = under_way, at
    return most, most_at


def summary(history: Sequence[Operation]) -> str:
    """How many operations a history has, by kind and outcome."""
    counts = Counter((operation.op, operation.outcome) for operation in history)
    return ", ".join(f"{count} {op} {outcome}" for (op, outcome), count in sorted(counts.items()))


def _codes(operation: Operation) -> list[int | None]:
    """For each task of an add its code."""
    if isinstance(operation.answer, list):
        return operation.answer
    one = {OK: ADDED if operation.answer is None else operation.answer, FAIL: FAILED}.get(operation.outcome)
    return [one] * len(operation.asked.get("ids", []))


def _queue_of(task: str) -> str:
    return task.partition("_")[0]


def _is_done(run: Operation) -> bool:
    return run.outcome == OK and (run.answer is None or bool(run.answer["is_success"]))


def _has_failed(run: Operation) -> bool:
    """Whether it came to the application, and was answered with a failure."""
    return not _is_done(run) and bool(run.answer is None or run.answer.get("was_reached", True))


def _held(operation: Operation) -> list[str]:
    """The tasks that this step has ended, or may have."""
    ids: list[str] = operation.asked["ids"]
    if operation.outcome != OK or operation.answer is None:
        return ids
    return [task for task, held in zip(ids, operation.answer, strict=True) if held]
