"""The rules that every history must obey, whatever was killed or cut off while it was recorded."""

import itertools
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from tests.support.evidence import Add, Evidence, Group, Limit, State, is_done, queue_of
from tests.support.history import (
    ADDED,
    ADDED_BEFORE,
    EMPTIED,
    EXISTS,
    FOREIGN,
    KILLED,
    OK,
    STALLED,
    TOMBSTONED,
    UNKNOWN,
    Operation,
)
from tests.support.windows import crowd, worst_window


def violations(
    history: Sequence[Operation],
    state: State | None,
    *,
    limits: Mapping[str, Limit] | None = None,
    tombstone_seconds: float = math.inf,
) -> list[str]:
    """The violated rules of a history, each as a message.

    Args:
        history: all operations.
        state: the contents of Redis at the end, when nothing is running; None if Redis is unavailable.
        limits: the limits by queue.
        tombstone_seconds: how long a name is refused after its task has ended.
    """
    evidence = Evidence(history, state, limits, tombstone_seconds)
    return [
        *lost(evidence),
        *halves(evidence),
        *misplaced(evidence),
        *phantoms(evidence),
        *repeated(evidence),
        *names(evidence),
        *fan_ins(evidence),
        *counts(evidence),
        *rates(evidence),
        *crowds(evidence),
    ]


def lost(evidence: Evidence) -> Iterator[str]:
    """Each accepted task is done, or visibly waiting, dead, deleted, purged or cancelled."""
    if evidence.state is None:
        return
    for task, adds in evidence.adds.items():
        accepted = [
            add.operation
            for add in adds
            if add.code in (ADDED, ADDED_BEFORE) and not evidence.was_lost_with_redis(add.operation)
        ]
        if not accepted or evidence.places_of(task) or evidence.removals_of(task):
            continue
        if any(is_done(run) for run in evidence.runs[task]) or _is_success_of_failed_batch(evidence, task):
            continue
        runs = ", ".join(evidence.when(run) for run in evidence.runs[task]) or "none"
        added = evidence.when(accepted[0])
        yield f"{task}: lost: added ({added}), runs: {runs}, and Redis has it nowhere"


def _is_success_of_failed_batch(evidence: Evidence, task: str) -> bool:
    """Whether this is a batch's `on_success` task that was dropped because not every member was done."""
    groups = [group for group in evidence.batches.values() if group.success == task]
    return any(
        group.seals and any(not evidence.was_done(member) for member in group.members) for group in groups
    )


def halves(evidence: Evidence) -> Iterator[str]:
    """If the outcome of adding many tasks is unknown, either all of them or none of them were added."""
    if evidence.state is None:
        return
    for operation in evidence.history:
        if operation.op not in {"add", "member"} or operation.outcome != UNKNOWN:
            continue
        if evidence.was_lost_with_redis(operation):
            continue
        only_here = [
            task
            for task in operation.asked["ids"]
            if len(evidence.adds[task]) == 1 and not evidence.removals_of(task)
        ]
        seen = [task for task in only_here if evidence.is_seen(task)]
        if seen and len(seen) < len(only_here):
            missing = sorted(set(only_here) - set(seen))
            text = f"{len(seen)} of {len(only_here)} tasks were added, {missing[0]} was not"
            yield f"{operation.op} happened in part ({evidence.when(operation)}): {text}"


def misplaced(evidence: Evidence) -> Iterator[str]:
    """At the end, each record is in exactly one place, and each task in a place has a record."""
    if evidence.state is None:
        return
    for task in sorted(evidence.state.records | set(evidence.state.places)):
        places = evidence.places_of(task)
        if task not in evidence.state.records:
            yield f"{task}: has no record, and is {' and '.join(places)}"
        elif len(places) != 1:
            yield f"{task}: is in {len(places)} places: {', '.join(places) or 'none, so it never runs'}"


def phantoms(evidence: Evidence) -> Iterator[str]:
    """A task runs only if it may have been added."""
    for task, runs in evidence.runs.items():
        for run in runs:
            adds = [add for add in evidence.adds[task] if add.operation.began_at <= run.began_at]
            if not any(add.may_have_happened for add in adds):
                told = f"{len(adds)} adds were refused" if adds else "nobody added it"
                yield f"{task}: ran ({evidence.when(run)}), and {told}"
                break
    for task in sorted(evidence.state.records) if evidence.state else ():
        if not any(add.may_have_happened for add in evidence.adds[task]):
            yield f"{task}: is in Redis, and nobody added it"


def repeated(evidence: Evidence) -> Iterator[str]:
    """A task does not run again after Redis confirmed its end. Without a fault, no success is repeated."""
    for task, runs in evidence.runs.items():
        lives = evidence.births(task)
        for first, second in itertools.pairwise(runs):
            if any(first.began_at < life <= second.began_at for life in lives):
                continue
            # A stalled process may start an attempt after it has lost the lease.
            if evidence.faults_in_life(task, second.began_at, STALLED, EMPTIED, FOREIGN):
                continue
            confirmed = [
                end
                for end in evidence.ends[task]
                if end.op == "ack" and end.outcome == OK and end.ended_at < second.began_at
                if not evidence.may_be_lost(end)
            ]
            if confirmed:
                text = f"its end was confirmed at {evidence.time(confirmed[0].ended_at)}"
            elif is_done(first) and not _is_excused(evidence, task, first, second):
                text = "nothing had failed"
            else:
                continue
            yield f"{task}: ran again ({evidence.when(first)}, {evidence.when(second)}), though {text}"


def _is_excused(evidence: Evidence, task: str, first: Operation, second: Operation) -> bool:
    """Whether a fault may have prevented Redis from learning the end of the first attempt."""
    if first.ended_at > second.began_at:
        return True
    # A worker process is the grandparent of its single-task processes, and reports the ends of their tasks.
    own = {first.asked.get(name) for name in ("pid", "parent", "grandparent")}
    return any(
        fault.asked["kind"] != KILLED or fault.asked.get("killed") in own
        for fault in evidence.faults_in_life(task, second.began_at)
    )


# --- names ------------------------------------------------------------------------------


def names(evidence: Evidence) -> Iterator[str]:
    """A name is accepted again only after its tombstone has expired, and refused only if it may be in use."""
    for task, adds in evidence.adds.items():
        own = [add for add in adds if add.operation.op == "add"]
        if len(adds) > 1 or any(not add.may_have_happened for add in own):
            yield from _doubled(evidence, task, own)
            yield from _wrongly_refused(evidence, task, adds, own)


def _doubled(evidence: Evidence, task: str, adds: Sequence[Add]) -> Iterator[str]:
    accepted = [add for add in adds if add.code == ADDED]
    for one, other in itertools.pairwise(accepted):
        first, second = one.operation, other.operation
        if one.request and one.request == other.request:
            continue
        is_free = any(
            end >= first.began_at and end + evidence.tombstone_seconds <= second.ended_at
            for end in evidence.possible_ends(task)
        )
        is_emptied = any(
            fault.ended_at >= first.began_at and fault.began_at <= second.ended_at
            for fault in evidence.faults_of(EMPTIED)
        )
        if not is_free and not is_emptied:
            yield f"{task}: accepted twice ({evidence.when(first)}, {evidence.when(second)})"


def _wrongly_refused(evidence: Evidence, task: str, adds: Sequence[Add], own: Sequence[Add]) -> Iterator[str]:
    for refused in own:
        if refused.code not in (EXISTS, TOMBSTONED):
            continue
        refusal = refused.operation
        earlier = [
            add.operation
            for add in adds
            if add is not refused and add.may_have_happened and add.operation.began_at < refusal.ended_at
        ]
        ends = [end for end in evidence.possible_ends(task) if end < refusal.ended_at]
        if not earlier:
            yield f"{task}: refused ({evidence.when(refusal)}), and nobody had added it"
        elif refused.code == TOMBSTONED and not ends:
            yield f"{task}: refused as ended ({evidence.when(refusal)}), and it had not ended"
        elif refused.code == EXISTS and _is_surely_over(evidence, task, refusal, earlier):
            yield f"{task}: refused as waiting or running ({evidence.when(refusal)}), and it had ended"


def _is_surely_over(evidence: Evidence, task: str, refusal: Operation, earlier: Sequence[Operation]) -> bool:
    """Whether every earlier task had a confirmed end before the refused add started."""
    over = [
        end.ended_at for end in evidence.ends[task] if end.op == "ack" and end.ended_at < refusal.began_at
    ]
    return bool(over) and all(add.ended_at < max(over) for add in earlier)


# --- batches ----------------------------------------------------------------------------


def fan_ins(evidence: Evidence) -> Iterator[str]:
    """A sealed batch fires exactly once, and only after its last member has ended."""
    for batch, group in evidence.batches.items():
        for task in (group.complete, group.success):
            if task is not None:
                yield from _early(evidence, batch, group, task)
                yield from _fired_twice(evidence, batch, task)
        if group.complete is not None:
            yield from _missing(evidence, batch, group, group.complete)


def _early(evidence: Evidence, batch: str, group: Group, task: str) -> Iterator[str]:
    fired = [run.began_at for run in evidence.runs[task]]
    if not fired:
        return
    if not any(seal.began_at <= fired[0] for seal in group.seals + group.cancels):
        yield f"batch {batch}: {task} ran at {evidence.time(fired[0])}, before the batch was sealed"
    for member in sorted(group.members):
        if not _may_have_ended(evidence, member, fired[0]):
            yield f"batch {batch}: {task} ran at {evidence.time(fired[0])}, before {member} had ended"


def _may_have_ended(evidence: Evidence, task: str, at: float) -> bool:
    ends = evidence.possible_ends(task)
    if ends and ends[0] <= at:
        return True
    if not evidence.is_seen(task) and all(add.code is None for add in evidence.adds[task]):
        return True  # never added
    # A poison task ends together with its process.
    runs = [run for run in evidence.runs[task] if run.began_at <= at]
    return "dead" in evidence.places_of(task) and bool(runs)


def _fired_twice(evidence: Evidence, batch: str, task: str) -> Iterator[str]:
    confirmed = [
        end
        for end in evidence.ends[task]
        if end.op == "ack" and end.outcome == OK and not evidence.requeues[task]
    ]
    if len(confirmed) > 1:
        times = ", ".join(evidence.time(end.ended_at) for end in confirmed)
        yield f"batch {batch}: {task} fired {len(confirmed)} times: it ended at {times}"


def _missing(evidence: Evidence, batch: str, group: Group, task: str) -> Iterator[str]:
    if evidence.state is None or evidence.runs[task]:
        return
    if any(evidence.was_lost_with_redis(add.operation) for add in evidence.adds[task]):
        return
    is_sealed = any(seal.outcome == OK for seal in group.seals)
    places = evidence.places_of(task)
    waiting = [m for m in group.members if evidence.places_of(m) and "dead" not in evidence.places_of(m)]
    if is_sealed and not waiting and places in ((), ["deferred"]) and not evidence.removals_of(task):
        sealed = evidence.when(group.seals[0])
        yield f"batch {batch}: sealed ({sealed}), every member has ended, and {task} never ran"


# --- attempts ---------------------------------------------------------------------------


def counts(evidence: Evidence) -> Iterator[str]:
    """The counts that attempts see never decrease, and never exceed the number of earlier events."""
    for task, runs in evidence.runs.items():
        if "retry_count" not in runs[0].asked:
            continue
        for life in _lives(evidence, task, runs):
            for place, run in enumerate(life):
                if evidence.faults_in_life(task, run.began_at, STALLED, EMPTIED):
                    break
                if text := _wrong_count(evidence, task, life[:place], run):
                    yield f"{task}: attempt {place + 1} ({evidence.when(run)}) {text}"


def _lives(evidence: Evidence, task: str, runs: Sequence[Operation]) -> list[list[Operation]]:
    """A task's attempts, grouped by the add or requeue before them."""
    starts = evidence.births(task)
    lives: dict[int, list[Operation]] = defaultdict(list)
    for run in runs:
        lives[sum(start <= run.began_at for start in starts)].append(run)
    return list(lives.values())


def _wrong_count(evidence: Evidence, task: str, before: Sequence[Operation], run: Operation) -> str:
    faults = len(evidence.faults_in_life(task, run.ended_at))
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
    if retries > len(before) + faults:
        return f"has retries {retries}, and began {len(before)} times before"
    if not faults and executions != failed:
        return f"has executions {executions}, and failed {failed} times before"
    return ""


# --- limits -----------------------------------------------------------------------------


def rates(evidence: Evidence) -> Iterator[str]:
    """No time window has more starts than the bucket plus the rate times its length plus the allowance."""
    for queue, limit in evidence.limits.items():
        if limit.rate is None:
            continue
        starts = [
            operation.began_at
            for operation in evidence.history
            if operation.op == limit.of
            and queue_of(operation.asked["id"]) == queue
            and not operation.asked.get("retry_count")
        ]
        most, first, last = worst_window(starts, limit.rate)
        if most > limit.bucket + limit.allowance:
            window = f"{evidence.time(first)} to {evidence.time(last)}"
            text = f"needs a bucket of {most:.3f}, and has {limit.bucket:g} (+ {limit.allowance:g})"
            yield f"queue {queue}: its {limit.of}s from {window} at {limit.rate:g}/s {text}"


def crowds(evidence: Evidence) -> Iterator[str]:
    """A queue never has more concurrent attempts than its limit."""
    for queue, limit in evidence.limits.items():
        if limit.at_once is None:
            continue
        most, at = crowd(evidence.spans(queue))
        if most > limit.at_once:
            yield f"queue {queue}: {most} at once at {evidence.time(at)}, and {limit.at_once} are allowed"


def _has_failed(run: Operation) -> bool:
    """Whether an attempt reached the application and failed there."""
    return not is_done(run) and bool(run.answer is None or run.answer.get("was_reached", True))
