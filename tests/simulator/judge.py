"""The rules after each step: the state is consistent, and each change was allowed in this step."""

from tests.simulator import steps
from tests.simulator.fan_in import FanIn
from tests.simulator.limits import Limits
from tests.simulator.network import Request
from tests.simulator.snapshot import Record, Snapshot
from tests.simulator.steps import Step, Violation

WORDS = {
    "queued": "ready",
    "started": "leased",
    "failed": "dead",
    "scheduled": "scheduled",
    "deferred": "deferred",
}


class Judge:
    """Judges a run, step by step.

    ``stale`` tasks may have a second entry in a ready list, which the lease skips. Either their records were
    dropped while they were listed, or a tool or a sweep put them back on suspicion. RQ's tools changed or
    deleted the ``touched`` tasks, so their entries may be anywhere.
    """

    def __init__(self) -> None:
        self.stale: set[str] = set()
        # All tasks that were ever stale, because Redis may return to an earlier state.
        self._was_stale: set[str] = set()
        self.touched: set[str] = set()
        self.fan_in = FanIn()
        self.limits = Limits()

    def begin_again(self, before: Snapshot, seen: Snapshot) -> None:
        """Accept the server's contents as correct, because it has lost the end of its history."""
        self.stale |= self._was_stale
        self.fan_in.begin_again(before, seen)
        self.limits.begin_again()

    def check(self, request: Request, reply: object, before: Snapshot, after: Snapshot) -> None:
        """Judge one step.

        Raises:
            Violation: the step has broken a rule.
        """
        step = Step(request, reply, before, after)
        self.touched.update(request.breaks)
        expected = steps.expect(step)
        self.stale |= expected.stale
        self._was_stale |= expected.stale
        changed = _changed(before, after)
        fired = self.fan_in.check(step, changed, expected, self.touched)
        self._check_changes(step, changed, expected, fired)
        self._check_places(after)
        self._check_pull(after)
        self._check_dead_groups(after)
        if request.script == "lease_tasks":
            self.limits.check(step)

    def _check_changes(
        self, step: Step, changed: list[str], expected: steps.Expected, fired: set[str]
    ) -> None:
        for task in changed:
            status = step.after.status(task)
            allowed = expected.statuses.get(task)
            if allowed is not None and status in allowed:
                continue
            if task in fired or task in step.request.about or task in self.touched:
                continue
            was = step.before.status(task) or "nothing"
            raise Violation(f"{step.request.script} made {task} {status or 'nothing'}; it was {was}")
        for task, allowed in expected.statuses.items():
            if step.after.status(task) not in allowed and task not in self.touched:
                raise Violation(
                    f"{step.script} left {task} {step.after.status(task)!r}, not one of {sorted(allowed)}"
                )

    def _check_places(self, seen: Snapshot) -> None:
        """Check that each task is only in the place that its record names."""
        for task, record in seen.records.items():
            places = seen.places.get(task, [])
            place = "pull" if record.is_pull and record.status == "scheduled" else WORDS.get(record.status)
            if places == [place]:
                if place == "leased" and not seen.holds(f"{task}:{record.lease}"):
                    raise Violation(f"{task} is leased as {record.lease}, but another lease is held")
                if task not in self.touched:
                    self.stale.discard(task)
            elif task not in self.touched and not self._has_stale_entry(task, record, places, place):
                raise Violation(f"{task} is {record.status}, but in {places}")
        self._check_entries(seen)

    def _has_stale_entry(self, task: str, record: Record, places: list[str], place: str | None) -> bool:
        """Whether a task is in its place, and its second entries in a ready list have a known reason."""
        if record.is_pull:
            # The task was requested by hand again. The next lease takes it from the ready list.
            return places == ["ready"]
        rest = [other for other in places if other != "ready"]
        return task in self.stale and place in places and rest == ([] if place == "ready" else [place])

    def _check_entries(self, seen: Snapshot) -> None:
        """Check that entries without a record are only where the lease will skip them."""
        for task in seen.places.keys() - seen.records.keys() - self.touched:
            if task not in self.stale or set(seen.places[task]) != {"ready"}:
                raise Violation(f"{task} is in {seen.places[task]} and has no record")
        gone = [task for task in self.stale if task not in seen.places and task not in seen.records]
        self.stale.difference_update(set(gone) - self.touched)

    def _check_dead_groups(self, seen: Snapshot) -> None:
        """Check that each dead letter is in the group that its record names, and that all are counted."""
        sizes = {group: len(letters) for group, letters in seen.dead_groups.items()}
        if sizes != seen.counted_letters:
            raise Violation(f"the groups have {sizes} dead letters, and {seen.counted_letters} are counted")
        grouped = {task: group for group, letters in seen.dead_groups.items() for task in letters}
        for task, record in seen.records.items():
            is_letter = record.status == "failed" and bool(record.dead_at)
            if task not in self.touched and is_letter and grouped.get(task) != record.dead_group:
                raise Violation(f"{task} is a dead letter, and in the group {grouped.get(task)}")
        for task in grouped.keys() - self.touched:
            # A letter that RQ's tools have requeued leaves its group with its next lease.
            if task not in seen.records or not seen.records[task].dead_at:
                raise Violation(f"{task} is in a group of dead letters, and is none")

    @staticmethod
    def _check_pull(seen: Snapshot) -> None:
        for queue, names in seen.pull.items():
            for name, score in names.items():
                record = seen.records.get(f"{queue}_{name}")
                if record is None:
                    continue
                if abs(float(record.eta) - score) > 1e-5:
                    raise Violation(f"{queue}_{name} has the eta {record.eta}, and the rank {score}")
                in_tag = seen.pull_tags.get(f"{queue}:{record.tag}", {}).get(name) if record.tag else score
                if in_tag != score:
                    raise Violation(f"{queue}_{name} has the rank {in_tag} in its tag, not {score}")
                is_leased = name in seen.pull_leased.get(queue, ())
                if is_leased != bool(record.leases):
                    raise Violation(
                        f"{queue}_{name} has {record.leases or 'no'} leases; among leased: {is_leased}"
                    )


def _changed(before: Snapshot, after: Snapshot) -> list[str]:
    old, new = before.records, after.records
    changed = [
        task for task, record in new.items() if old.get(task) is not record and old.get(task) != record
    ]
    changed += [task for task in old if task not in new]
    return changed
