"""A reload's progress, in words, in numbers, and as JSON."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from lastacross import clock, errors, taskqueue
from programs.reload import runs
from programs.reload.models import ReloadResult, ReloadRun
from programs.reload.runs import FailingPage
from programs.shared import progress
from programs.shared.operations import plural

LOADED_WITHIN_SECONDS = 900.0
"""The maximum loading time: 100,000 accounts load in a minute, and the next run is 30 minutes later."""
SENT_AGAIN_SECONDS = 120.0
"""How long the loading task may be sent again to a flushed Redis, where it loads everything again."""
NOTED_WITHIN_SECONDS = 60.0
"""How long the last task may take to record the end of its run."""

STARTED_BY = {"cron": "on schedule", "hand": "by hand", "retry": "to retry the failed accounts"}

log = logging.getLogger("reloads")


@dataclass(frozen=True)
class View(progress.RunView):
    """A snapshot of a reload; ``retrying`` accounts have failed and are waiting for their next attempt."""

    run: ReloadRun
    retrying: int = field(default=0, kw_only=True)

    verb = "through"

    @property
    def through(self) -> int:
        """How many accounts have a new status or have failed for good."""
        return self.run.done + self.failed

    @property
    def whole(self) -> int:
        """How many accounts the run has."""
        return self.run.total

    @property
    def remaining(self) -> int:
        """How many accounts have neither a new status nor a final failure."""
        return self.whole - self.through

    @property
    def count_text(self) -> str:
        """The progress in words: ``9,500 of 10,000 accounts done``."""
        return f"{self.run.done:,} of {plural(self.run.total, 'account')} done"

    @property
    def beginning(self) -> str:
        """The headline until the first percent is complete."""
        return "Under way." if self.through else "Waiting for the first response."

    @property
    def success(self) -> str:
        """The message for a completed run."""
        total = self.run.total
        return f"All {total:,} accounts are up to date." if total > 1 else "The only account is up to date."

    @property
    def failures(self) -> str:
        """The failed accounts in words: ``3 of 10,000 accounts``."""
        return f"{self.failed:,} of {plural(self.run.total, 'account')}"

    @property
    def message(self) -> str:
        """A sentence about the state, with its numbers."""
        if self.is_lost and self.state != "done" and self.run.loaded_at is None:
            minutes = round(LOADED_WITHIN_SECONDS / 60)
            return f"It gave up: not all of its tasks were added within {minutes} minutes. {self.count_text}."
        if self.state == "cancelled" and not self.is_lost:
            return f"Its tasks were deleted with {self.count_text}."
        return super().message

    @property
    def started_text(self) -> str:
        """How the run was started."""
        return STARTED_BY[self.run.started_by]

    @property
    def can_retry(self) -> bool:
        """Whether there are failed accounts that have not been retried by another run."""
        return self.is_over and self.run.retried_as is None and self.run.done < self.run.total

    @property
    def etag(self) -> str:
        """An entity tag that changes whenever the page would show something different."""
        return f"{self.run.changes}-{self.failed}-{self.state}-{self.run.retried_as or ''}"

    def listed(self) -> dict[str, Any]:
        """The run's entry in the list of runs, as JSON."""
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
        """The run as a long-running operation in JSON."""
        run = self.run
        cancelled = self.remaining if self.is_over and not self.is_lost else 0
        operation = self.operation_of(f"reloads/{run.id}", run.done, run.total, cancelled=cancelled)
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
            retrying=self.retrying,
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
            "duration": self.elapsed_text,
            "remaining": self.remaining_text,
        }


def result_json(result: ReloadResult) -> dict[str, Any]:
    """An account's result as JSON."""
    return {
        "account": result.account_key,
        "outcome": result.outcome,
        "attempts": result.attempts,
        "http_status": result.http_status,
        "answer": result.answer,
        "duration_ms": result.duration_ms,
    }


def remembered(run: ReloadRun) -> View:
    """A run's state according to the datastore alone, for use in lists."""
    now, is_lost = clock.SYSTEM.now(), run.lost_at is not None
    if run.finished_at is None:
        return View(run, now, "ready" if run.opened_at is None else "running", 0, is_lost=is_lost)
    missing = run.total - run.done
    # A failed account may have been retried since then, and an account of a lost run may have succeeded.
    failed = min(run.failed_count, missing)
    state = "done" if missing == 0 else "failed" if failed else "cancelled"
    return View(run, now, state, failed, is_lost=is_lost)


def view_of(run: ReloadRun) -> View:
    """A run's current state. A finished run's state comes from the datastore alone.

    If nothing else can end the run, this call records its end, so that a lost run does not block the next.
    """
    view = remembered(run)
    if view.is_over:
        return view
    try:
        batch = taskqueue.Batch.get(runs.batch_id(run.id)).progress()
    except errors.UnknownBatchError:
        return _ended(run, run.total, is_lost=True) if _is_lost(run, view.now, is_known=False) else view
    except errors.StoreUnavailableError:
        return replace(view, is_blind=True)
    if batch.finished_at is not None and view.now - batch.finished_at > NOTED_WITHIN_SECONDS:
        return _ended(run, batch.failed)
    if _is_lost(run, view.now, is_known=True):
        return _ended(run, run.total, is_lost=True)
    failed = min(batch.failed, run.total - run.done)
    retrying = max(0, runs.count_failing(run.id) - failed) if run.changes else 0
    return replace(view, state="running", failed=failed, retrying=retrying)


def _is_lost(run: ReloadRun, now: float, *, is_known: bool) -> bool:
    """Whether the run has lost its loading task, or its batch with nothing left to refill it."""
    if run.loaded_at is None:
        return now - run.created_at > LOADED_WITHIN_SECONDS
    return not is_known and now - run.loaded_at > SENT_AGAIN_SECONDS


def _ended(run: ReloadRun, failed: int, *, is_lost: bool = False) -> View:
    if runs.finish(run.id, failed=failed, is_lost=is_lost):
        log.warning("reload.lost" if is_lost else "reload.end", extra={"run": run.id})
    return remembered(runs.find(run.id) or run)
