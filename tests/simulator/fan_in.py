"""The rules for batches: their bits match the ended members, and each completion fires once."""

from collections.abc import Iterable, Sequence

from tests.simulator.snapshot import BatchHash, Snapshot
from tests.simulator.steps import Expected, Step, Violation


class FanIn:
    """The outcomes of all members, derived from their tasks, and the completions that have fired."""

    def __init__(self) -> None:
        # Batch → index → "done", "failed" or "cancelled", by the last step that ended it.
        self.ended: dict[str, dict[int, str]] = {}
        # The outcome that each bit was counted as when it was set.
        self.counted: dict[str, dict[int, str]] = {}
        self.fired: set[str] = set()
        # The members (as '<batch>:<index>') that have filled a batch with failed members.
        self.failed_by_child: set[str] = set()
        # A member's lease → the child batches that it had sealed before the server lost the seals.
        self._lost_seals: dict[str, set[str]] = {}
        # The batches whose seal was lost and whose member was acknowledged under the same lease afterwards.
        self.unsealed: set[str] = set()

    def begin_again(self, before: Snapshot, seen: Snapshot) -> None:
        """Accept the server's contents as correct, and note the seals that it has lost."""
        self.ended, self.counted, self.fired, self.failed_by_child = {}, {}, set(), set()
        self._lost_seals, self.unsealed = _lost_seals(before, seen), set()
        for batch, known in seen.batches.items():
            failed = seen.failed.get(batch, frozenset())
            bits = seen.finished.get(batch, frozenset())
            counted = {index: "failed" if index in failed else "done" for index in bits}
            # No bit says which of them were cancelled, so assume as many as were counted.
            successes = sorted(index for index, outcome in counted.items() if outcome == "done")
            counted |= {index: "cancelled" for index in successes[: known.cancelled]}
            self.counted[batch] = counted
            waiting = seen.children.get(batch, {})
            noted = {
                int(key.partition(":")[0]): outcome
                for key, outcome in waiting.items()
                if key.endswith(":outcome")
            }
            self.ended[batch] = {**noted, **counted}
            if known.is_finished:
                self.fired.add(batch)
            self.failed_by_child |= {
                f"{batch}:{key.partition(':')[0]}" for key in waiting if key.endswith(":outcome_of_children")
            }

    def check(self, step: Step, changed: Sequence[str], expected: Expected, touched: set[str]) -> set[str]:
        """Judge one step; returns the completions that the step has fired or dropped.

        Raises:
            Violation: a bit, a count or a completion is wrong.
        """
        before, after = step.before, step.after
        ended_now = self._note_ends(step, changed, expected)
        is_new = any(
            after.raw[key] != before.raw.get(key) for key in after.raw if key.startswith("lastacross:batch:")
        )
        if not is_new and not ended_now:
            return set()
        fired: set[str] = set()
        for batch, known in after.batches.items():
            if known.is_finished and known.parent and known.failed and batch not in self.fired:
                self.failed_by_child.add(known.parent)
        for batch, known in after.batches.items():
            self._count(batch, after)
            self._check_bits(batch, known, step, touched)
            fired |= self._check_completion(batch, known, step)
        if before.batches.keys() - after.batches.keys():
            raise Violation("a batch was forgotten")
        return fired

    # --- the ends of members ----------------------------------------------------------------

    def _note_ends(self, step: Step, changed: Sequence[str], expected: Expected) -> bool:
        found = False
        for task in changed:
            outcome = expected.outcomes.get(task)
            if step.after.status(task) not in expected.statuses.get(task, ()):
                # A tool has changed this task, so it may be where this step does not find it.
                continue
            record = step.before.records.get(task)
            if outcome is None or record is None or not record.batch:
                continue
            batch, _, index = record.batch.rpartition(":")
            self._end(batch, int(index), outcome)
            found = True
        if step.script == "ack_tasks":
            self._note_acks_without_record(step)
            self._note_unsealed(step)
        if step.script == "add_members" and isinstance(step.reply, list):
            for place, code in enumerate(step.reply):
                if code == 2:
                    self._end(step.text(1), int(step.text(2)) + place, "cancelled")
                    found = True
        return found

    def _note_acks_without_record(self, step: Step) -> None:
        """Note that a running task whose record a tool has deleted is done only if it waits for batches."""
        for number, (task, _lease, member, *_) in enumerate(step.texts(1, 5)):
            if step.reply[number] == 1 and member and task not in step.before.records:
                batch, _, index = member.rpartition(":")
                if int(step.before.children.get(batch, {}).get(index, 0)) > 0:
                    self._end(batch, int(index), "done")

    def _note_unsealed(self, step: Step) -> None:
        """Note batches that stay unsealed, as an acknowledged attempt never seals its child batch again."""
        for number, (task, lease, *_) in enumerate(step.texts(1, 5)):
            if step.reply[number] == 1:
                self.unsealed |= self._lost_seals.get(f"{task}:{lease}", set())

    def _end(self, batch: str, index: int, outcome: str) -> None:
        ended = self.ended.setdefault(batch, {})
        # A retried dead letter ends a second time, which counts only if it succeeds.
        if index not in ended or outcome != "cancelled":
            ended[index] = outcome

    def _count(self, batch: str, seen: Snapshot) -> None:
        """Count new bits, and dead letters that have succeeded since then."""
        counted = self.counted.setdefault(batch, {})
        ended = self.ended.get(batch, {})
        for index in seen.finished.get(batch, frozenset()):
            outcome = ended.get(index, "cancelled")
            has_failed_child = f"{batch}:{index}" in self.failed_by_child
            if index not in counted:
                counted[index] = "failed" if has_failed_child and outcome == "done" else outcome
            elif counted[index] == "failed" and outcome == "done" and not has_failed_child:
                counted[index] = "done"

    # --- the rules ----------------------------------------------------------------------------

    def _check_bits(self, batch: str, known: BatchHash, step: Step, touched: set[str]) -> None:
        after = step.after
        added, finished = after.added.get(batch, frozenset()), after.finished.get(batch, frozenset())
        if len(added) != known.total or not finished <= added:
            raise Violation(f"{batch} has {known.total} members, and the bits of {sorted(added)}")
        counted = self.counted.get(batch, {})
        for outcome in ("done", "failed", "cancelled"):
            expected = sum(1 for each in counted.values() if each == outcome)
            if expected != getattr(known, outcome):
                raise Violation(f"{batch} has counted {getattr(known, outcome)} {outcome}; it has {expected}")
        failed = frozenset(index for index, outcome in counted.items() if outcome == "failed")
        if after.failed.get(batch, frozenset()) != failed:
            raise Violation(f"{batch} has the failed bits {after.failed.get(batch)}; {failed} have failed")
        self._check_ends(batch, known, step, touched)

    def _check_ends(self, batch: str, known: BatchHash, step: Step, touched: set[str]) -> None:
        after, ended = step.after, self.ended.get(batch, {})
        finished, children = after.finished.get(batch, frozenset()), after.children.get(batch, {})
        for index in after.added.get(batch, frozenset()):
            open_children = sum(
                1
                for each in after.batches.values()
                if each.parent == f"{batch}:{index}" and not each.is_finished
            )
            if int(children.get(str(index), 0)) != open_children:
                raise Violation(f"member {index} of {batch} has {open_children} open batches, not {children}")
            task = self.member(after, batch, index)
            is_new = index in finished and index not in step.before.finished.get(batch, ())
            if is_new and open_children:
                raise Violation(f"member {index} of {batch} has its bit, and {open_children} open batches")
            if index in finished:
                if index not in ended and task not in touched:
                    raise Violation(f"member {index} of {batch} has its bit, but has not ended")
            elif index in ended and open_children == 0:
                raise Violation(f"member {index} of {batch} has ended, but has no bit")

    def _check_completion(self, batch: str, known: BatchHash, step: Step) -> set[str]:
        ended = known.done + known.failed + known.cancelled
        is_complete = known.is_sealed and ended == known.total
        if is_complete != known.is_finished:
            raise Violation(
                f"{batch}: {ended} of {known.total} have ended, sealed: {known.is_sealed}, {known}"
            )
        if (batch in step.after.open_batches) == known.is_finished:
            raise Violation(f"{batch} is wrongly listed, or wrongly missing, as an open batch")
        if not known.is_finished:
            if batch in self.fired:
                raise Violation(f"{batch} has fired, and is open again")
            return set()
        if batch in self.fired:
            return set()
        self.fired.add(batch)
        self._check_fired(known.on_complete, True, step)
        is_success = known.done == known.total and not known.is_cancelled
        self._check_fired(known.on_success, is_success, step)
        return {task for task in (known.on_complete, known.on_success) if task}

    @staticmethod
    def _check_fired(task: str, is_wanted: bool, step: Step) -> None:
        if task and step.before.status(task) == "deferred":
            found, wanted = step.after.status(task), "queued" if is_wanted else ""
            if found != wanted:
                raise Violation(f"{task} is {found!r} after the end of its batch, not {wanted!r}")

    @staticmethod
    def member(seen: Snapshot, batch: str, index: int) -> str:
        """A member's id."""
        queue = seen.batches[batch].queue
        return seen.names.get(batch, {}).get(str(index), f"{queue}_{batch}-{index}")

    def open_batches(self, seen: Snapshot) -> Iterable[str]:
        """The batches that have not fired."""
        return [batch for batch in seen.batches if batch not in self.fired]


def _lost_seals(before: Snapshot, seen: Snapshot) -> dict[str, set[str]]:
    """A mapping from held leases to their tasks' batches that were sealed before and are open now."""
    found: dict[str, set[str]] = {}
    for batch, known in seen.batches.items():
        parents_batch, _, index = known.parent.rpartition(":")
        if known.is_sealed or not before.batches[batch].is_sealed or parents_batch not in seen.batches:
            continue
        task = FanIn.member(seen, parents_batch, int(index))
        for entry in seen.leased.get(task.partition("_")[0], ()):
            if entry.partition(":")[0] == task:
                found.setdefault(entry, set()).add(batch)
    return found
