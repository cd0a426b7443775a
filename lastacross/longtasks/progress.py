"""Takes an attempt's progress reports, keeps the last one in memcache, and sends them to open pages.

The memcache key is ``longtask_status_<id>``, as in App Engine's example.
"""

import contextvars
import json
import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lastacross import channel, config, logs, memcache
from lastacross.clock import SYSTEM, Clock
from lastacross.datastore import LongTask
from lastacross.errors import ChannelError, DatastoreError, StoreUnavailableError, TaskStoppedError
from lastacross.longtasks import estimate, model
from lastacross.longtasks.estimate import Estimate, Report
from lastacross.longtasks.view import printable

KEY = "longtask_status_%s"
MESSAGE_CHARACTERS = 2_000
MIN_SECONDS_BETWEEN = 0.1
"""The minimum time between two sent reports. Of the reports in between, only the last is sent."""
CHECK_SECONDS = 0.5
"""The time between two checks of whether the attempt is still needed."""
OUTAGE_SECONDS = 5.0
"""How long a reporter skips Redis after an outage, so that the work does not wait for every timeout."""

_log = logs.get("lastacross.longtask")
# The application may give memcache's functions another client, or a namespace.
_cache = memcache.Client()


@dataclass(frozen=True)
class Progress:
    """A long task's last report.

    Attributes:
        message: the current activity, or ''.
        step: the current step, out of ``total_steps``.
        total_steps: the number of steps, or 0 if unknown.
        at: the time of the report, in seconds since the epoch.
        attempt: the number of the reporting attempt, or 0 if the report does not say.
        reports: the recent reports, thinned out.
        promised_at: the earliest end that was announced, or None.
    """

    message: str
    step: float
    total_steps: float
    at: float
    attempt: int = 0
    reports: tuple[Report, ...] = ()
    promised_at: float | None = None

    @property
    def percent(self) -> int | None:
        """Return the whole percentage, at most 99 because only a done task has 100; None if unknown."""
        return percent(self.step, self.total_steps)

    def remaining(self, now: float) -> Estimate | None:
        """Estimate the time left, or return None if there are too few reports."""
        return estimate.remaining(self.reports, now, self.promised_at)


def percent(step: float, total_steps: float) -> int | None:
    """Return the whole percentage, at most 99, or None if the total is unknown."""
    if total_steps <= 0:
        return None
    if step >= total_steps:
        # The quotient may be too large for a float.
        return 99
    return max(0, math.floor(100 * step / total_steps))


def stored_keys(ids: Sequence[str]) -> list[bytes]:
    """Return the memcache keys of these tasks' last reports."""
    return [memcache.server_key(KEY % task_id) for task_id in ids]


def read(ids: Sequence[str], answers: Sequence[Any]) -> dict[str, Progress]:
    """Return the last report of each task that has one; none without a SECRET_KEY.

    Args:
        ids: the tasks' ids.
        answers: the values of ``stored_keys``, as read by a script, in the same order.
    """
    if not config.current().settings.secret_key:
        # Some commands run without the key, which is needed to verify the reports.
        return {}
    found = _cache.values_of([KEY % task_id for task_id in ids], answers)
    pairs = [(task_id, _load(found.get(KEY % task_id))) for task_id in ids]
    return {task_id: progress for task_id, progress in pairs if progress is not None}


def _load(value: Any) -> Progress | None:
    """Return the report in a cached value, or None if the value is malformed."""
    if not isinstance(value, dict):
        return None
    try:
        return Progress(
            str(value.get("message") or ""),
            _number(value.get("step")),
            _number(value.get("total_steps")),
            _number(value.get("at")),
            int(value.get("attempt", 0)),
            tuple(Report(*report) for report in value.get("reports", ())),
            value.get("promised_at"),
        )
    except (TypeError, ValueError):
        return None


def forget(task_id: str) -> None:
    """Drop the previous attempt's report when a new attempt begins."""
    _cache.delete(KEY % task_id, namespace="")


def announce(task_id: str, state: str, **values: Any) -> None:
    """Notify open pages that the state has changed, unless Redis is unavailable."""
    send(task_id, {"state": state, **values})


def send(task_id: str, message: dict[str, Any]) -> bool:
    """Send a message to the open pages; return False if Redis is unavailable."""
    try:
        channel.send_message(task_id, json.dumps(message))
    except (StoreUnavailableError, ChannelError) as error:
        _log.warning("longtask.announce", longtask=task_id, error=str(error))
        return False
    return True


class Reporter:
    """Accepts the reports of one attempt from any of its threads.

    Args:
        task: the row, including the attempt's claim.
        clock: the time source.
    """

    def __init__(self, task: LongTask, clock: Clock = SYSTEM) -> None:
        self._task = task
        self._clock = clock
        self._lock = threading.Lock()
        self._reports: list[Report] = []
        self._promised_at: float | None = None
        self._pending: dict[str, Any] | None = None
        self._timer: threading.Timer | None = None
        self._quiet_until = float("-inf")
        self._check_at = clock.monotonic() + CHECK_SECONDS
        self._is_away = False
        self._is_closed = False

    def report(self, message: object, step: object = 0, total_steps: object = 0) -> None:
        """Accept a report. No error is raised if Redis or the datastore is unavailable.

        Raises:
            TaskStoppedError: the attempt is no longer needed.
        """
        report = Report(self._clock.now(), _number(step), _number(total_steps))
        with self._lock:
            if self._is_closed:
                # This thread has outlived its attempt; a later attempt may be reporting by now.
                raise TaskStoppedError("this attempt has ended")
            self._reports = estimate.keep(self._reports, report)
            self._pending = {"message": printable(str(message))[:MESSAGE_CHARACTERS], "report": report}
            self._send_or_wait()
        self.check()

    def check(self) -> None:
        """Check, at most every half second, whether the attempt is still needed.

        Raises:
            TaskStoppedError: the attempt is no longer needed.
        """
        now = self._clock.monotonic()
        if now < self._check_at:
            return
        self._check_at = now + CHECK_SECONDS
        try:
            is_wanted = model.is_claimed(self._task.id, self._task.claim or "")
        except DatastoreError as error:
            _log.warning("longtask.check", longtask=self._task.id, error=str(error))
            return
        if not is_wanted:
            raise TaskStoppedError(
                "this attempt is no longer needed: the task was cancelled, or another attempt is running"
            )

    def close(self) -> None:
        """Send the pending report and accept no further reports."""
        with self._lock:
            self._is_closed = True
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            if (
                self._pending is not None
                and self._clock.monotonic() >= self._quiet_until - OUTAGE_SECONDS / 2
            ):
                self._send()

    def _send_or_wait(self) -> None:
        seconds = self._quiet_until - self._clock.monotonic()
        if seconds <= 0:
            self._send()
        elif self._timer is None and not self._is_closed:
            # The last of many quick reports must appear on the pages even if the next step takes long.
            self._timer = threading.Timer(seconds, contextvars.copy_context().run, (self._send_late,))
            self._timer.daemon = True
            self._timer.start()

    def _send_late(self) -> None:
        with self._lock:
            self._timer = None
            if self._pending is not None and not self._is_closed:
                try:
                    self._send()
                except Exception:
                    # Log the error, or it would go unnoticed in this thread. The next report tries again.
                    _log.exception("longtask.announce", longtask=self._task.id)

    def _send(self) -> None:
        pending, self._pending = self._pending, None
        assert pending is not None
        report: Report = pending["report"]
        told = estimate.remaining(self._reports, report.at, self._promised_at)
        if told is not None:
            self._promised_at = told.promised_at
        shown = {"message": pending["message"], "step": report.step, "total_steps": report.total}
        shown |= {"at": report.at, "attempt": self._task.attempts}
        kept = {"reports": [list(each) for each in self._reports], "promised_at": self._promised_at}
        is_there = _cache.set(KEY % self._task.id, {**shown, **kept}, namespace="")
        if is_there:
            eta: dict[str, Any] = {"eta_seconds": None, "eta_text": ""}
            if told is not None:
                eta = {"eta_seconds": told.seconds, "eta_text": told.text}
            more = {"state": "running", "percent": percent(report.step, report.total)}
            is_there = send(self._task.id, {**shown, **more, **eta})
        self._is_away = not is_there
        self._quiet_until = self._clock.monotonic() + (MIN_SECONDS_BETWEEN if is_there else OUTAGE_SECONDS)


def _number(value: Any) -> float:
    """Convert a step or step count, to an int if it is whole; a negative or non-numeric value becomes 0."""
    try:
        number = float(value or 0)
    except (TypeError, ValueError, OverflowError):
        return 0
    if not math.isfinite(number) or number < 0:
        return 0
    return int(number) if number == int(number) else number
