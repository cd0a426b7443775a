"""A counting run's progress, in words, in numbers, and as JSON."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lastacross import clock, errors, taskqueue
from programs.count import runs, tasks
from programs.count.models import CountInterval, CountLine, CountRun
from programs.shared import progress
from programs.shared.operations import plural


@dataclass(frozen=True)
class View(progress.RunView):
    """A snapshot of a counting run.

    Attributes:
        sums: the totals of the run's intervals.
        queues: the statistics of the program's two queues, or None while Redis is unavailable.
    """

    run: CountRun
    sums: runs.Sums
    queues: Sequence[taskqueue.QueueStatistics] | None

    verb = "counted"

    @property
    def through(self) -> int:
        """How many numbers have been counted."""
        return self.sums.counted

    @property
    def whole(self) -> int:
        """How many numbers there are in total."""
        return self.sums.numbers

    @property
    def count_text(self) -> str:
        """The progress in words: ``2 of 3 intervals counted``."""
        return f"{self.sums.done} of {plural(self.sums.intervals, 'interval')} counted"

    @property
    def numbers_text(self) -> str:
        """The counted numbers in words: ``25 of 30``."""
        return f"{self.sums.counted:,} of {self.sums.numbers:,}"

    @property
    def headline(self) -> str:
        """The headline; until the intervals are handed out, it says that the master task is waiting."""
        is_waiting = not self.is_over and self.run.handed_out_at is None
        return "The master task waits for the backend." if is_waiting else super().headline

    @property
    def beginning(self) -> str:
        """The headline until the first percent is complete."""
        return f"The master task has handed out {plural(self.sums.intervals, 'interval')}."

    @property
    def success(self) -> str:
        """The message for a completed run."""
        count = self.sums.intervals
        what = f"All {count} intervals are" if count > 1 else "The only interval is"
        return f"{what} counted, so the master task is done."

    @property
    def failures(self) -> str:
        """The failed intervals in words: ``1 of 3 intervals``."""
        return f"{self.failed} of {plural(self.sums.intervals, 'interval')}"

    @property
    def etag(self) -> str:
        """An entity tag that changes whenever the page would show something different."""
        queues = hashlib.sha256(json.dumps(self.queues_json()).encode()).hexdigest()[:12]
        return f"{self.run.changes}-{self.failed}-{self.state}-{queues}"

    def queues_json(self) -> list[dict[str, Any]] | None:
        """Both queues' statistics, or None while Redis is unavailable."""
        if self.queues is None:
            return None
        return [queue_json(each) for each in self.queues]

    def operation(self, intervals: Sequence[CountInterval], log: Sequence[CountLine]) -> dict[str, Any]:
        """The run as a long-running operation in JSON, with the intervals and lines new to the caller."""
        run, sums = self.run, self.sums
        missing = sums.intervals - sums.done
        operation = self.operation_of(
            f"count/{run.name}",
            sums.done,
            sums.intervals,
            cancelled=missing if self.state == "cancelled" else 0,
        )
        response = {
            "intervals": [interval_json(each, self) for each in intervals],
            "log": [line_json(each) for each in log],
        }
        return operation.json(
            response if run.changes else None,
            change=run.changes,
            headline=self.headline,
            numbers={"counted": sums.counted, "total": sums.numbers},
            queues=self.queues_json(),
        )


def interval_json(interval: CountInterval, view: View) -> dict[str, Any]:
    """An interval as JSON, with its result, which is None until every number is counted."""
    return {
        "place": interval.place,
        "first": interval.first,
        "last": interval.last,
        "counted": interval.counted,
        "instance": interval.instance,
        "text": interval_text(interval, view),
        "numbers": interval.result,
    }


def interval_text(interval: CountInterval, view: View) -> str:
    """An interval's progress in a few words."""
    if interval.numbers is not None:
        return plural(interval.total, "number")
    so_far = f"{interval.counted} of {interval.total}"
    if view.is_over:
        return f"not counted, {so_far}" if interval.counted else "not counted"
    if interval.instance is not None:
        return f"{interval.instance} counts, {so_far}"
    return f"given back, {so_far}" if interval.counted else "waiting"


def line_json(line: CountLine) -> dict[str, Any]:
    """A line of the backend's log as JSON."""
    return {"number": line.number, "at": clock.iso(line.at), "instance": line.instance, "text": line.text}


def queue_json(queue: taskqueue.QueueStatistics) -> dict[str, Any]:
    """A queue's statistics as JSON; unknown values are null."""
    oldest = queue.oldest_eta_usec
    return {
        "queue": queue.queue.name,
        "tasks": queue.tasks,
        "in_flight": queue.in_flight,
        "executed_last_minute": queue.executed_last_minute,
        "oldest_eta": None if oldest is None else clock.iso(oldest / 1e6),
        "enforced_rate": queue.enforced_rate,
    }


def queue_texts(queue: Mapping[str, Any]) -> dict[str, str]:
    """The numbers from ``queue_json`` as the page shows them, with a dash for each unknown value."""
    texts = {name: "-" if value is None else f"{value}" for name, value in queue.items()}
    if queue["oldest_eta"] is not None:
        texts["oldest_eta"] = queue["oldest_eta"][11:19]
    if queue["enforced_rate"] is not None:
        texts["enforced_rate"] = f"{queue['enforced_rate']:g}/s"
    return texts


def view_of(run: CountRun) -> View:
    """A run's current state. A finished run's state comes from the datastore alone."""
    now = clock.SYSTEM.now()
    sums = runs.sums_of(run.id)
    try:
        queues = taskqueue.QueueStatistics.fetch([tasks.MASTER_QUEUE, tasks.SUB_QUEUE])
    except errors.StoreUnavailableError:
        queues = None
    if run.finished_at is not None:
        missing = sums.intervals - sums.done
        # A failed interval may have been retried since then.
        state = "done" if missing == 0 else "cancelled" if run.is_cancelled else "failed"
        return View(run, now, state, missing if state == "failed" else 0, sums, queues)
    state = "ready" if run.handed_out_at is None else "running"
    if queues is None:
        # Do not ask Redis again: while it is unavailable, each further request makes the visitor wait.
        return View(run, now, state, 0, sums, None, is_blind=True)
    try:
        return View(run, now, state, _failed(run), sums, queues)
    except errors.UnknownBatchError:
        return View(run, now, "failed", 0, sums, queues, is_lost=True)
    except errors.StoreUnavailableError:
        return View(run, now, state, 0, sums, None, is_blind=True)


def _failed(run: CountRun) -> int:
    """How many of the run's subtasks are dead letters.

    Raises:
        UnknownBatchError: Redis does not know the run, or no longer knows it.
        StoreUnavailableError: Redis is unavailable.
    """
    taskqueue.Batch.get(run.id)
    try:
        return taskqueue.Batch.get(tasks.inner_batch_id(run.id)).progress().failed
    except errors.UnknownBatchError:
        return 0  # the master task has not added them yet
