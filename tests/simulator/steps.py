"""The changes that each Lua file may and must make to its tasks. All other tasks must stay unchanged."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.simulator.network import Request
from tests.simulator.snapshot import Record, Snapshot

POISON_AFTER = 5
GONE = ""
MAX_PER_QUEUE = 100
INSTANT = 1e-5


class Violation(AssertionError):
    """A broken rule."""


class Step:
    """An executed request, its answer, and the contents of Redis before and after it.

    Args:
        request: the request.
        reply: the answer.
        before: the contents before the request.
        after: the contents after the request.
    """

    def __init__(self, request: Request, reply: Any, before: Snapshot, after: Snapshot) -> None:
        self.request = request
        self.script = request.script
        self.args = request.args
        self.reply = reply
        self.before = before
        self.after = after
        # The tasks that a lease has granted, as (task id, lease id).
        self.granted: list[tuple[str, str]] = []
        if self.script == "lease_tasks":
            self.granted = [(task[0].decode(), task[1].decode()) for task in reply[0]]

    def text(self, place: int) -> str:
        """An argument as text."""
        value = self.args[place]
        return value.decode("latin-1") if isinstance(value, bytes) else str(value)

    def texts(self, first: int = 0, width: int = 1) -> list[list[str]]:
        """The arguments from ``first`` on, in groups of ``width``."""
        texts = [self.text(place) for place in range(first, len(self.args))]
        return [texts[place : place + width] for place in range(0, len(texts), width)]

    def require(self, is_so: bool, complaint: str) -> None:
        """Raise a violation unless the condition is true."""
        if not is_so:
            raise Violation(f"{self.script}: {complaint}")


@dataclass
class Expected:
    """The expected effect of a step on its tasks.

    ``statuses`` has the statuses that a task may have after the step. ``outcomes`` says how an ended task
    counts in its batch. ``stale`` has the tasks that may keep a second entry.
    """

    statuses: dict[str, set[str]] = field(default_factory=dict)
    outcomes: dict[str, str] = field(default_factory=dict)
    stale: set[str] = field(default_factory=set)

    def set(self, task: str, *statuses: str, outcome: str = "") -> None:
        """Expect a task to have one of these statuses."""
        self.statuses[task] = set(statuses)
        if outcome:
            self.outcomes[task] = outcome


def expect(step: Step) -> Expected:
    """The expected effect of this step.

    Raises:
        Violation: the step's answer is wrong.
    """
    expected = Expected()
    check = _CHECKS.get(step.script)
    if check is not None:
        check(step, expected)
    return expected


# --- add ----------------------------------------------------------------------------------


def _fields(strings: Sequence[str]) -> dict[str, str]:
    return dict(zip(strings[::2], strings[1::2], strict=True))


def _add_task(step: Step, expected: Expected) -> None:
    task = step.text(0)
    was_there = task in step.before.records
    step.require(step.reply == (10 if was_there else 0), f"answered {step.reply} for {task}")
    if not was_there:
        expected.set(task, "queued")


def _check_name(step: Step, expected: Expected, task: str, fields: dict[str, str]) -> int:
    """The expected answer of add for this name. If the name was free, also expect the task to exist."""
    record, tombstone = step.before.records.get(task), step.before.tombstones.get(task)
    request = fields.get("request", "")
    if record is not None and not (record.status == "failed" and record.dead_at):
        return 0 if request and request == record.request else 10
    if tombstone is not None:
        return 0 if request and request == tombstone else 11
    waits = "PULL " in fields.get("description", "")
    expected.set(task, *(("scheduled",) if waits else ("queued", "scheduled")))
    return 0


def _add_tasks(step: Step, expected: Expected) -> None:
    _check_answers(step, expected, 1, 3)


def _add_pull_tasks(step: Step, expected: Expected) -> None:
    _check_answers(step, expected, 0, 2)


def _check_answers(step: Step, expected: Expected, place: int, ahead: int) -> None:
    """Check each answer of an add. A task's arguments come ``ahead`` of the number of its fields' strings."""
    number = 0
    while place < len(step.args):
        first = place + ahead + 1
        end = first + int(step.text(place + ahead))
        strings = [step.text(each) for each in range(first, end)]
        _check_answer(step, expected, (step.text(place), number), strings)
        place, number = end, number + 1


def _check_answer(step: Step, expected: Expected, which: tuple[str, int], strings: list[str]) -> None:
    task, number = which
    answer = _check_name(step, expected, task, _fields(strings))
    step.require(step.reply[number] == answer, f"answered {step.reply[number]} for {task}, not {answer}")


def _create_batch(step: Step, expected: Expected) -> None:
    batch, parent = step.text(1), step.text(3)
    if batch in step.before.batches:
        step.require(step.reply == 0, f"answered {step.reply} for a batch that was there")
        return
    tasks, place = [], 4
    for _ in range(2):
        tasks.append(step.text(place))
        place += 2 + int(step.text(place + 1))
    tasks = [task for task in tasks if task]
    answer = 1
    if any(task in step.before.records for task in tasks):
        answer = -2
    elif parent and not _has_record(step.before, parent):
        answer = -1
    step.require(step.reply == answer, f"answered {step.reply} for {batch}, not {answer}")
    if answer == 1:
        for task in tasks:
            expected.set(task, "deferred")


def _has_record(snapshot: Snapshot, member: str) -> bool:
    """Whether a member of a known batch has a record of ours."""
    batch, _, index = member.rpartition(":")
    known = snapshot.batches.get(batch)
    record = known and snapshot.records.get(_member_id(snapshot, batch, index))
    return bool(record and record.eta and record.status != "canceled")


def _member_id(snapshot: Snapshot, batch: str, index: str) -> str:
    usual = f"{snapshot.batches[batch].queue}_{batch}-{index}"
    return snapshot.names.get(batch, {}).get(index, usual)


def _add_members(step: Step, expected: Expected) -> None:
    batch, index, place, number = step.text(1), int(step.text(2)), 3, 0
    while place < len(step.args) and isinstance(step.reply, list):
        task, result = step.text(place), step.reply[number]
        was_added = index in step.before.added.get(batch, ())
        step.require(was_added == (result == 1), f"answered {result} for member {index} of {batch}")
        if result == 0:
            expected.set(task, "queued", "scheduled")
        place, index, number = place + 5 + int(step.text(place + 4)), index + 1, number + 1


# --- lease and answer ---------------------------------------------------------------------


def _lease_tasks(step: Step, expected: Expected) -> None:
    now, seconds = float(step.text(0)), float(step.text(1))
    listed = {task for ids in step.before.ready.values() for task in ids}
    listed |= {task for ids in step.before.run_now.values() for task in ids}
    for task, lease in step.granted:
        step.require(step.before.status(task) == "queued" and task in listed, f"{task} was not ready")
        expected.set(task, "started")
        record = step.after.records.get(task)
        step.require(record is not None and record.lease == lease, f"{task} does not know its lease")
        until = step.after.leased[task.partition("_")[0]].get(f"{task}:{lease}", 0.0)
        step.require(abs(until - now - seconds) < INSTANT, f"the lease of {task} ends at {until}")
    for task, record in step.before.records.items():
        if record.status == "queued" and not record.eta:
            expected.set(task, "queued", "failed", GONE)
        elif not record.status:
            # RQ's own worker has written fields of a task after its end.
            expected.set(task, GONE)


def _ack_tasks(step: Step, expected: Expected) -> None:
    taken: set[str] = set()
    for number, (task, lease, _member, tombstone, _request) in enumerate(step.texts(1, 5)):
        entry = f"{task}:{lease}"
        is_held = step.before.holds(entry) and entry not in taken
        taken.add(entry)
        step.require(step.reply[number] == int(is_held), f"answered {step.reply[number]} for {entry}")
        if is_held:
            expected.set(task, GONE, outcome="done")
            step.require(not step.after.holds(entry), f"{entry} is still leased")
            if tombstone:
                _require_tombstone(step, task)


def _require_tombstone(step: Step, task: str) -> None:
    step.require(task in step.after.tombstones, f"the name of {task} is free")


def _end_of_attempt(step: Step, expected: Expected, places: tuple[int, int]) -> Record | None:
    """The record of a task whose attempt ends, if its lease was held."""
    task, lease = step.text(places[0]), step.text(places[1])
    is_held = step.before.holds(f"{task}:{lease}")
    step.require(step.reply == int(is_held), f"answered {step.reply} for {task}:{lease}")
    if not is_held:
        return None
    step.require(not step.after.holds(f"{task}:{lease}"), f"{task}:{lease} is still leased")
    record = step.before.records.get(task)
    if record is None:
        expected.set(task, GONE)
    return record


def _is_dropped(step: Step, record: Record) -> bool:
    """Whether the task's batch is cancelled, and has not counted the task yet."""
    if not record.batch:
        return False
    batch, _, index = record.batch.rpartition(":")
    known = step.before.batches.get(batch)
    return known is not None and known.is_cancelled and int(index) not in step.before.finished.get(batch, ())


def _drop(step: Step, expected: Expected, task: str, record: Record) -> None:
    expected.set(task, GONE, outcome="cancelled")
    if record.tombstone:
        _require_tombstone(step, task)


def _retry_task(step: Step, expected: Expected) -> None:
    task = step.text(0)
    record = _end_of_attempt(step, expected, (0, 1))
    if record is None:
        return
    if _is_dropped(step, record):
        _drop(step, expected, task, record)
        return
    expected.set(task, "scheduled")
    now = step.after.records.get(task)
    failures = int(now.failures or 0) if now else 0
    step.require(failures == int(record.failures or 0) + 1, f"{task} has {failures} failures")
    step.require(
        now is not None and not now.lease and not now.crashes, f"{task} still has its lease or crashes"
    )


def _dead_letter_task(step: Step, expected: Expected) -> None:
    task = step.text(1)
    record = _end_of_attempt(step, expected, (1, 2))
    if record is not None:
        expected.set(task, "failed", outcome="failed")
        if record.tombstone:
            _require_tombstone(step, task)


def _release_tasks(step: Step, expected: Expected) -> None:
    released = 0
    for task, lease in step.texts(0, 2):
        if step.before.holds(f"{task}:{lease}"):
            step.require(not step.after.holds(f"{task}:{lease}"), f"{task}:{lease} is still leased")
            released += task in step.before.records
            expected.set(task, "queued" if task in step.before.records else GONE)
            expected.stale.add(task)
    step.require(step.reply == released, f"answered {step.reply}, and gave back {released}")


def _renew_leases(step: Step, expected: Expected) -> None:
    until = float(step.text(0))
    for number, (task, lease, started) in enumerate(step.texts(1, 3)):
        entry = f"{task}:{lease}"
        is_held = step.before.holds(entry)
        step.require(step.reply[number] == int(is_held), f"answered {step.reply[number]} for {entry}")
        if is_held:
            ends_at = step.after.leased[task.partition("_")[0]].get(entry, 0.0)
            step.require(abs(ends_at - until) < INSTANT, f"{entry} ends at {ends_at}")
            expected.set(task, step.before.status(task))
            record = step.after.records.get(task)
            if started == "1" and record is not None:
                step.require(record.started == lease, f"{task} does not know that it has started")


# --- upkeep -------------------------------------------------------------------------------


def _lose(step: Step, expected: Expected, entry: str, started: bool | None) -> None:
    """Expect the loss of a held lease."""
    task, _, lease = entry.partition(":")
    record = step.before.records.get(task)
    step.require(not step.after.holds(entry), f"{entry} is still leased")
    if record is None or record.status != "started" or record.lease != lease:
        if record is None:
            expected.set(task, GONE)
        return
    has_started = started or (record.started == lease and (started is None or _was_suspect(record)))
    if has_started and int(record.crashes or 0) + 1 >= POISON_AFTER:
        expected.set(task, "failed", outcome="failed")
        return
    if _is_dropped(step, record):
        _drop(step, expected, task, record)
        return
    expected.set(task, "queued")
    now = step.after.records.get(task)
    crashes = int(now.crashes or 0) if now else 0
    step.require(
        crashes == int(record.crashes or 0) + int(bool(has_started)), f"{task} has {crashes} crashes"
    )


def _was_suspect(record: Record) -> bool:
    return bool(record.suspect)


def _expired(step: Step, queue: str, now: float) -> list[str]:
    found = sorted(step.before.leased.get(queue, {}).items(), key=lambda item: item[1])
    return [entry for entry, until in found if until <= now][:MAX_PER_QUEUE]


def _rescue(step: Step, expected: Expected, queues: Sequence[str], now: float) -> None:
    for queue in queues:
        for entry in _expired(step, queue, now):
            _lose(step, expected, entry, None)


def _promote(step: Step, expected: Expected, queues: Sequence[str], now: float) -> None:
    for queue in queues:
        for task, eta in step.before.scheduled.get(queue, {}).items():
            if eta <= now:
                status = step.before.status(task)
                expected.set(task, "queued" if status == "scheduled" else status)
                step.require(
                    task not in step.after.scheduled.get(queue, ()), f"{task} is due, and still scheduled"
                )


def _rescue_expired(step: Step, expected: Expected) -> None:
    _rescue(step, expected, [text for [text] in step.texts(2)], float(step.text(0)))


def _promote_due(step: Step, expected: Expected) -> None:
    _promote(step, expected, [text for [text] in step.texts(2)], float(step.text(0)))


def _maintain_queues(step: Step, expected: Expected) -> None:
    queues, now = [text for [text] in step.texts(3)], float(step.text(0))
    _promote(step, expected, queues, now)
    if step.text(2) == "1":
        _rescue(step, expected, queues, now)


def _rescue_worker(step: Step, expected: Expected) -> None:
    token, count = step.text(1), int(step.text(3))
    queues = [step.text(place) for place in range(4, 4 + count)]
    started = {step.text(place) for place in range(4 + count, len(step.args))}
    for queue in queues:
        for entry in step.before.leased.get(queue, ()):
            if entry.partition(":")[2].startswith(f"{token}."):
                _lose(step, expected, entry, entry in started)


def _crash_task(step: Step, expected: Expected) -> None:
    entry = f"{step.text(1)}:{step.text(2)}"
    if step.before.holds(entry):
        _lose(step, expected, entry, True)
    else:
        step.require(step.reply == b"gone", f"answered {step.reply!r} for {entry}, which is not held")


def _restore_orphans(step: Step, expected: Expected) -> None:
    for task in (entry.decode() for entry in step.reply):
        expected.set(task, "queued")
        expected.stale.add(task)


def _sweep_foreign(step: Step, expected: Expected) -> None:
    _restore_orphans(step, expected)
    for task, record in step.before.records.items():
        if not record.status or not record.eta:
            expected.set(task, record.status, GONE)


# --- on request ---------------------------------------------------------------------------


def _run_task(step: Step, expected: Expected) -> None:
    task = step.text(0)
    record = step.before.records.get(task)
    if step.reply == b"ready" and record is not None:
        expected.set(task, "scheduled" if record.is_pull else "queued")
        step.require(
            record.is_pull or record.status in ("queued", "scheduled", "failed"),
            f"{task} was {record.status}",
        )
        return
    answers = {"started": b"running", "deferred": b"waiting", "": b"gone", "scheduled": b"running"}
    expected_answer = b"gone" if record is None or not record.eta else answers.get(record.status)
    step.require(step.reply == expected_answer, f"answered {step.reply!r} for {task}")


def _retry_dead(step: Step, expected: Expected) -> None:
    for number, [task] in enumerate(step.texts(1)):
        record = step.before.records.get(task)
        was_dead = record is not None and record.status == "failed" and bool(record.dead_at)
        was_dead = was_dead and task not in expected.statuses
        step.require(step.reply[number] == int(was_dead), f"answered {step.reply[number]} for {task}")
        if was_dead and record is not None:
            expected.set(task, "scheduled" if record.is_pull else "queued")


def _delete_tasks(step: Step, expected: Expected) -> None:
    for number, [task] in enumerate(step.texts(1)):
        record = step.before.records.get(task)
        is_there = (
            record is not None and record.status not in ("", "deferred") and task not in expected.statuses
        )
        step.require(step.reply[number] == int(is_there), f"answered {step.reply[number]} for {task}")
        if is_there and record is not None:
            _drop(step, expected, task, record)
            step.require(not step.after.holds(f"{task}:{record.lease}"), f"{task} is still leased")


def _purge_queue(step: Step, expected: Expected) -> None:
    queue, began_at = step.text(1), float(step.text(3))
    places = [ids for name, ids in step.before.ready.items() if name.partition(".")[0] == queue]
    foreign = {task for ids in places for task in ids if "_" not in task}
    for task, record in step.before.records.items():
        if (task.partition("_")[0] != queue and task not in foreign) or record.status in (
            "failed",
            "deferred",
        ):
            continue
        if record.fired_by == "purge" or (record.fired_at and float(record.fired_at) >= began_at):
            continue
        _drop(step, expected, task, record)


def _cancel_batch(step: Step, expected: Expected) -> None:
    batch = step.text(1)
    known = step.before.batches.get(batch)
    if known is None or known.is_finished:
        return
    for index in step.before.added.get(batch, frozenset()) - step.before.finished.get(batch, frozenset()):
        task = _member_id(step.before, batch, str(index))
        record = step.before.records.get(task)
        if record is None or record.status in ("queued", "scheduled"):
            expected.set(task, GONE, outcome="cancelled")
            expected.stale.add(task)
            if record is not None and record.tombstone:
                _require_tombstone(step, task)


def _sweep_batches(step: Step, _expected: Expected) -> None:
    for batch in (name.decode() for name in step.reply[2:]):
        known = step.before.batches[batch]
        is_open = bool(known.parent) and not known.is_sealed
        step.require(is_open, f"{batch} is sealed or has no parent, and was called abandoned")
        step.require(not _has_record(step.before, known.parent), f"{batch} may still be filled")


# --- pull queues --------------------------------------------------------------------------


def _lease_pull_tasks(step: Step, expected: Expected) -> None:
    now, queue, request = float(step.text(0)), step.text(1), step.text(6)
    until = now + float(step.text(2))
    for task in step.before.ready.get(queue, ()):
        # The task was run by hand again, and returns to the pull queue.
        expected.set(task, "scheduled", "failed", step.before.status(task))
    for name, eta, leases, *_ in step.reply[0]:
        task = f"{queue}_{name.decode()}"
        record = step.before.records.get(task)
        step.require(
            record is not None and abs(float(eta) - until) < INSTANT, f"{task} is held until {eta!r}"
        )
        if record is None or record.lease == request:
            continue
        is_restored = task in expected.statuses
        step.require(is_restored or float(record.eta) < now, f"{task} is leased, but its eta is {record.eta}")
        step.require(is_restored or leases == int(record.leases or 0) + 1, f"{task} has {leases} leases")
        expected.set(task, "scheduled")
    for name in step.reply[1]:
        task = f"{queue}_{name.decode()}"
        expected.set(task, "failed")


def _modify_pull_lease(step: Step, expected: Expected) -> None:
    queue, name, eta = step.text(1), step.text(2), step.text(3)
    task = f"{queue}_{name}"
    record = step.before.records.get(task)
    code = step.reply[0].decode()
    is_paused = queue in step.before.paused
    is_there = name in step.before.pull.get(queue, ())
    step.require((code == "paused") == is_paused, f"answered {code} for {task}")
    if is_paused:
        return
    step.require((code in ("unknown", "tombstoned")) == (not is_there), f"answered {code} for {task}")
    if not is_there or (record is not None and record.lease == step.text(5)):
        return
    is_holder = record is not None and record.eta == eta and float(eta) >= float(step.text(0))
    step.require((code == "ok") == is_holder, f"answered {code} for {task}, whose eta is {record}")
    if code == "ok":
        expected.set(task, "scheduled")


_CHECKS: dict[str, Callable[[Step, Expected], None]] = {
    "add_task": _add_task,
    "add_tasks": _add_tasks,
    "add_pull_tasks": _add_pull_tasks,
    "create_batch": _create_batch,
    "add_members": _add_members,
    "lease_tasks": _lease_tasks,
    "ack_tasks": _ack_tasks,
    "retry_task": _retry_task,
    "dead_letter_task": _dead_letter_task,
    "release_tasks": _release_tasks,
    "renew_leases": _renew_leases,
    "rescue_expired": _rescue_expired,
    "promote_due": _promote_due,
    "maintain_queues": _maintain_queues,
    "rescue_worker": _rescue_worker,
    "crash_task": _crash_task,
    "restore_orphans": _restore_orphans,
    "sweep_foreign": _sweep_foreign,
    "run_task": _run_task,
    "retry_dead": _retry_dead,
    "delete_tasks": _delete_tasks,
    "purge_queue": _purge_queue,
    "cancel_batch": _cancel_batch,
    "sweep_batches": _sweep_batches,
    "lease_pull_tasks": _lease_pull_tasks,
    "modify_pull_lease": _modify_pull_lease,
}
