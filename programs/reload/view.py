"""How far a run of the batch reload is: in words, in numbers, as JSON."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lastacross import clock, errors, taskqueue
from programs.reload import runs
from programs.reload.models import ReloadResult, ReloadRun
from programs.reload.runs import FailingPage
from programs.shared import operations
from programs.shared.operations import ENDS, plural

LOADED_WITHIN_SECONDS = 900.0
"""100,000 accounts take less than one minute, and the next run by the clock comes after 30."""
SENT_AGAIN_SECONDS = 120.0
"""So long the task that loads a run may come again to an emptied Redis, and load all anew."""
NOTED_WITHIN_SECONDS = 60.0
"""So long the last task may take to write down the end of its run."""

STARTED_BY = {"cron": "by the clock", "hand": "by hand", "retry": "to retry what had failed"}

log = logging.getLogger("reloads")


@dataclass(frozen=True)
class View:
    """A run at one instant, as its page and its JSON show it.

    Attributes:
        run: its row.
        now: seconds since the epoch.
        state: ``ready``, ``running``, ``done``, ``failed`` or ``cancelled``.
        failed: accounts whose tasks are dead letters.
        is_blind: Redis is away, so that the datastore alone was asked.
    """

    run: ReloadRun
    now: float
    state: str
    failed: int
    is_blind: bool = False

    @property
    def is_done(self) -> bool:
        """Whether nothing is going to change any more."""
        return self.state in ENDS

    @property
    def is_lost(self) -> bool:
        """Whether nothing was going to end it: its tasks, or the one that loads them, are gone."""
        return self.run.lost_at is not None

    @property
    def remaining(self) -> int:
        """Accounts that have neither a status nor failed for good."""
        return self.run.total - self.run.done - self.failed

    @property
    def percent(self) -> int:
        """Whole per cent of the accounts that are through, well or not; 100 only when all are."""
        return 100 * (self.run.done + self.failed) // max(1, self.run.total)

    @property
    def count_text(self) -> str:
        """``9,500 of 10,000 accounts done``."""
        return f"{self.run.done:,} of {plural(self.run.total, 'account')} done"

    @property
    def headline(self) -> str:
        """What is said aloud: it changes at quarters and at the end only."""
        if self.is_done:
            return self.message
        if self.run.done + self.failed == 0:
            return "Waiting for the first answer."
        quarter = min(3, self.percent // 25)
        return ("Under way.", "A quarter is through.", "Half is through.", "Three quarters are through.")[
            quarter
        ]

    @property
    def message(self) -> str:
        """The state in a sentence, with its numbers."""
        total = self.run.total
        if self.state == "done":
            return (
                f"All {total:,} accounts are up to date." if total > 1 else "The only account is up to date."
            )
        if self.is_lost and self.run.loaded_at is None:
            minutes = round(LOADED_WITHIN_SECONDS / 60)
            return (
                f"Not all of its tasks were added within {minutes} minutes: given up with {self.count_text}."
            )
        if self.is_lost:
            return f"Its tasks were lost with {self.count_text}: Redis was emptied meanwhile."
        if self.state == "failed":
            return f"Finished, but {self.failed:,} of {plural(total, 'account')} failed."
        if self.state == "cancelled":
            return f"Its tasks were deleted with {self.count_text}."
        return f"{self.count_text}."

    @property
    def mark(self) -> str:
        """What the title begins with: a tab has room for little more."""
        return self.state.capitalize() if self.is_done else f"{self.percent} %"

    @property
    def elapsed_seconds(self) -> float:
        """From the start to the end, or to now."""
        return max(0.0, (self.run.finished_at or self.now) - self.run.created_at)

    @property
    def duration_text(self) -> str:
        """``12.3 s`` or ``2 min 05 s``."""
        return operations.duration(self.elapsed_seconds)

    @property
    def rate_text(self) -> str:
        """Accounts a second, from start to end; a dash before the first."""
        through = self.run.done + self.failed
        if through == 0:
            return "-"
        rate = through / max(self.elapsed_seconds, 0.001)
        return f"{rate:.0f}" if rate >= 10 else f"{rate:.1f}"

    @property
    def eta_seconds(self) -> float | None:
        """How long it may still take, going on as it did; None as long as too little is known."""
        through = self.run.done + self.failed
        if self.is_done or through < max(3, self.run.total / 20):
            return None
        return self.remaining * self.elapsed_seconds / through

    @property
    def remaining_text(self) -> str:
        """A rough time, or ''."""
        return operations.roughly(self.eta_seconds) if self.eta_seconds else ""

    @property
    def started_text(self) -> str:
        """Who or what started it."""
        return STARTED_BY[self.run.started_by]

    @property
    def can_retry(self) -> bool:
        """Whether there are failed accounts that no other run has taken over."""
        return self.is_done and self.run.retried_as is None and self.run.done < self.run.total

    @property
    def etag(self) -> str:
        """Changes when something to be shown has."""
        return f"{self.run.changes}-{self.failed}-{self.state}-{self.run.retried_as or ''}"

    def listed(self) -> dict[str, Any]:
        """A line of the history, as JSON."""
        return {
            "name": f"reloads/{self.run.id}",
            "state": self.state,
            "started_by": self.run.started_by,
            "step": self.run.done,
            "total_steps": self.run.total,
            "failed": self.failed,
            "created_at": clock.iso(self.run.created_at),
            "finished_at": clock.iso(self.run.finished_at),
        }

    def operation(self, slowest: Sequence[ReloadResult], failing: FailingPage) -> dict[str, Any]:
        """The JSON of a long-running operation."""
        run = self.run
        operation = operations.Operation(
            name=f"reloads/{run.id}",
            state=self.state,
            step=run.done,
            total_steps=run.total,
            failed=self.failed,
            cancelled=self.remaining if self.is_done and not self.is_lost else 0,
            message=self.message,
            created_at=run.created_at,
            finished_at=run.finished_at,
            eta_seconds=self.eta_seconds,
            is_lost=self.is_lost,
        )
        response = {
            "slowest": [result_json(each) for each in slowest],
            "failing": [result_json(each) for each in failing.results],
            "failing_after": failing.after,
            "retry_of": run.retry_of,
            "retried_as": run.retried_as,
        }
        return operation.json(
            response if run.changes else None,
            change=run.changes,
            headline=self.headline,
            mark=self.mark,
            percent=self.percent,
            numbers={
                "done": run.done,
                "failed": self.failed,
                "remaining": self.remaining,
                "total": run.total,
            },
            texts=self._texts(),
            can_retry=self.can_retry,
        )

    def _texts(self) -> dict[str, str]:
        return {
            "count": self.count_text,
            "rate": self.rate_text,
            "duration": self.duration_text,
            "remaining": self.remaining_text,
        }


def result_json(result: ReloadResult) -> dict[str, Any]:
    """What became of one account."""
    return {
        "account": result.account_key,
        "outcome": result.outcome,
        "attempts": result.attempts,
        "http_status": result.http_status,
        "answer": result.answer,
        "duration_ms": result.duration_ms,
    }


def remembered(run: ReloadRun) -> View:
    """How far a run is as far as the datastore alone knows: for lists."""
    now = clock.SYSTEM.now()
    if run.finished_at is None:
        return View(run, now, "ready" if run.opened_at is None else "running", 0)
    missing = run.total - run.done
    # One that failed may have been run again since, and one of a lost run may have come all the same.
    failed = min(run.failed_count, missing)
    return View(run, now, "done" if missing == 0 else "failed" if failed else "cancelled", failed)


def look(run: ReloadRun) -> View:
    """How far a run is. A finished one is known from the datastore alone.

    The end of one that nobody is going to end is written down here: a lost run keeps no other waiting.
    """
    view = remembered(run)
    if view.is_done:
        return view
    try:
        progress = taskqueue.Batch.get(runs.batch_id(run.id)).progress()
    except errors.UnknownBatchError:
        return _ended(run, run.total, is_lost=True) if _is_lost(run, view.now, is_known=False) else view
    except errors.StoreUnavailableError:
        return View(run, view.now, view.state, 0, is_blind=True)
    if progress.finished_at is not None and view.now - progress.finished_at > NOTED_WITHIN_SECONDS:
        return _ended(run, progress.failed)
    if _is_lost(run, view.now, is_known=True):
        return _ended(run, run.total, is_lost=True)
    return View(run, view.now, "running", min(progress.failed, run.total - run.done))


def _is_lost(run: ReloadRun, now: float, *, is_known: bool) -> bool:
    """Whether the task that loads a run is gone, or its batch is and nothing is going to fill it again."""
    if run.loaded_at is None:
        return now - run.created_at > LOADED_WITHIN_SECONDS
    return not is_known and now - run.loaded_at > SENT_AGAIN_SECONDS


def _ended(run: ReloadRun, failed: int, *, is_lost: bool = False) -> View:
    if runs.finish(run.id, failed=failed, is_lost=is_lost):
        log.warning("reload.lost" if is_lost else "reload.end", extra={"run": run.id})
    return remembered(runs.find(run.id) or run)
