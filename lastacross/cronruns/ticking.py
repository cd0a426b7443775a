"""The scheduler's work for cron at each tick; any number of schedulers may do it."""

import contextlib
from collections.abc import Callable, Sequence

from lastacross import config, logs, store
from lastacross.broker import listing, queue_directory, record
from lastacross.config import CRON_QUEUE, CronEntry
from lastacross.cronruns import model, pauses
from lastacross.cronruns.model import OpenRun
from lastacross.errors import DatastoreError, StoreUnavailableError
from lastacross.store import tombstone_key, translated_errors

# A worker reports a run's end shortly after deleting its task, so a run counts as lost only after this time.
LOST_AFTER_SECONDS = 3.0
CHECK_SECONDS = 1.0

HISTORY_SECONDS = 30 * 86_400.0
# How long skipped runs are kept, because a job that runs every minute could leave 1,440 of them a day.
SKIPPED_SECONDS = 86_400.0

NOT_REPORTED = "its end was not reported: its worker died just then, or its task was deleted or lost"

_log = logs.get("lastacross.cron")


class Ticker:
    """Deploys a changed cron.yaml, starts due jobs, and ends runs that no worker has ended.

    Args:
        read: a callable that returns the jobs of cron.yaml if they must be deployed (on the first call and
            whenever the file has changed), or else None.
    """

    def __init__(self, read: Callable[[], Sequence[CronEntry] | None]) -> None:
        self._read = read
        self._to_deploy: Sequence[CronEntry] | None = None
        self._is_in_use = False
        self._check_at = float("-inf")
        self._gone_since: dict[str, float] = {}
        self._unreadable: dict[str, str] = {}
        self._paused: frozenset[str] = frozenset()

    def act(self, now: float) -> int:
        """Start the due jobs and return how many were started.

        Raises:
            StoreUnavailableError: Redis is not responding.
            DatastoreUnavailableError: the datastore is not responding.
        """
        entries = self._read()
        if entries is not None:
            self._to_deploy = entries
        if self._to_deploy is not None and model.deploy(self._to_deploy, now):
            # Even without any jobs, the runs of deleted jobs must be ended.
            self._is_in_use = self._is_in_use or bool(self._to_deploy) or bool(model.open_runs())
            self._to_deploy = None
        if not self._is_in_use:
            return 0
        started = self._take_due(now)
        if not self._check_at - CHECK_SECONDS <= now < self._check_at:
            self._check_at = now + CHECK_SECONDS
            # Remember this even while no job is due, for jobs that come due while Redis is unavailable.
            self._paused = pauses.names(store.current())
            queue_directory.keep_cron_queue(store.current(), config.current())
            self._end_lost(now)
        return started

    def _take_due(self, now: float) -> int:
        jobs = model.due(now)
        if jobs:
            # While Redis is unavailable, jobs that were paused before stay paused.
            with contextlib.suppress(StoreUnavailableError):
                self._paused = pauses.names(store.current())
                for job in jobs:
                    if job.name in self._paused:
                        model.hold(store.current(), job)
        return sum(self._take(job, now) for job in jobs if job.name not in self._paused)

    def _take(self, job: model.DueJob, now: float) -> bool:
        try:
            state = model.take(job, now)
        except (DatastoreError, StoreUnavailableError):
            raise
        except Exception as error:
            # A broken row must not hold up the jobs behind it, which are due as well.
            self._set_aside(job, error)
            return False
        if state not in (None, "failed"):
            seen = {"job": job.name, "due_at": job.due_at, "late_seconds": round(now - job.due_at, 3)}
            _log.info("cron.start" if state == "open" else f"cron.{state}", **seen)
        return state == "open"

    def _set_aside(self, job: model.DueJob, error: Exception) -> None:
        """Skip a job that other schedulers may be able to read; log this once per version of its row."""
        if self._unreadable.get(job.name) != job.text:
            self._unreadable[job.name] = job.text
            until = "a scheduler of the version that wrote it, or the next deploy"
            _log.error("cron.set_aside", job=job.name, error=str(error), until=until)

    def _end_lost(self, now: float) -> None:
        """End runs whose tasks are dead letters or have disappeared without a report."""
        runs = model.open_runs()
        names = [run.task_name for run in runs]
        found = listing.find_all([(CRON_QUEUE, name) for name in names])
        gone = []
        for run, task in zip(runs, found, strict=True):
            if task is not None and task.is_dead:
                _end_dead(run, task, now)
            elif task is None and (not run.in_outbox or _has_tombstone(run)):
                gone.append(run.task_name)
        self._gone_since = {name: self._gone_since.get(name, now) for name in gone}
        for name, since in list(self._gone_since.items()):
            if now - since >= LOST_AFTER_SECONDS and model.end(name, now, "lost", error=NOT_REPORTED):
                _log.warning("cron.lost", task=name)


def _end_dead(run: OpenRun, task: listing.TaskRecord, now: float) -> None:
    try:
        model.end(run.task_name, now, "failed", error=task.error, attempts=task.failures + task.lost)
    except (DatastoreError, StoreUnavailableError):
        raise
    except Exception:
        # An error must not keep the other runs from ending.
        _log.exception("cron.end_failed", job=run.job, task=run.task_name)


def _has_tombstone(run: OpenRun) -> bool:
    """Return whether the run's task has been in its queue and has ended."""
    with translated_errors():
        return bool(store.current().redis.exists(tombstone_key(record.task_id(CRON_QUEUE, run.task_name))))


def prune(now: float) -> int:
    """Delete old runs and return how many were deleted."""
    count = model.prune(("done", "failed", "lost"), now - HISTORY_SECONDS)
    return count + model.prune(("skipped", "missed"), now - SKIPPED_SECONDS)
