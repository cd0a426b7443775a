"""The cron page: each job in plain words, its next five runs and its last twenty, and its actions."""

from collections.abc import Collection
from typing import Any

from lastacross import cronruns, store
from lastacross.clock import utc
from lastacross.config import CRON_QUEUE
from lastacross.console import deployment, words
from lastacross.console.page import Action, Done, Page, Question, RefusedError, address
from lastacross.cron import Schedule, parse_schedule
from lastacross.cronruns import entries, model, pauses
from lastacross.errors import ScheduleError, StoreUnavailableError, UnreadableJobError

NEXT_RUNS = 5
LAST_RUNS = 20
OVERDUE_SECONDS = 10.0
"""A running scheduler is never this late."""
BAD_ENDS = ("failed", "lost")
MAX_BAR, MIN_BAR = 20.0, 4.0


class CronPage(Page):
    """All deployed jobs."""

    template = "cron.html"
    title = "Cron"
    here = "cron"

    def facts(self, **route: str) -> dict[str, Any]:
        """The jobs, in the order of the file."""
        now = store.current().clock.now()
        return {"jobs": jobs(now, paused()), "different_files": deployment.different_files(("cron.yaml",))}


def paused() -> Collection[str]:
    """The names of the paused jobs; none while Redis is unavailable, so that the rest can be seen."""
    try:
        return pauses.names(store.current())
    except StoreUnavailableError as error:
        store.current().end_wait(error)
        return ()


def jobs(now: float, held: Collection[str]) -> list[dict[str, Any]]:
    """The facts about every deployed job; ``held`` contains the names of the paused ones.

    Raises:
        DatastoreError: the database is unavailable.
    """
    runs = cronruns.model.latest_runs(LAST_RUNS)
    found = [_job(row, runs.get(row.name, []), now) for row in model.jobs()]
    for job in found:
        job["is_paused"] = job["name"] in held
        job["is_late"] = job["is_late"] and not job["is_paused"]
    return found


def _job(row: Any, runs: list[Any], now: float) -> dict[str, Any]:
    try:
        entry = entries.load_entry(row.entry)
        facts = {"url": entry.url, "target": entry.target, "description": entry.description, "problem": ""}
    except UnreadableJobError as error:
        facts = {"url": "", "target": None, "description": "", "problem": str(error)}
    last = runs[0] if runs else None
    is_late = isinstance(row.next_at, float) and now - row.next_at > OVERDUE_SECONDS
    return {
        "name": row.name,
        "schedule": row.schedule,
        "timezone": row.timezone,
        **_words_of(row, now),
        **facts,
        "next_at": row.next_at,
        "is_running": row.run_id is not None,
        "is_late": is_late,
        "is_failing": last is not None and last.state in BAD_ENDS,
        "runs": [_run(run) for run in runs],
        "_ticks": _ticks(runs),
    }


def _words_of(row: Any, now: float) -> dict[str, Any]:
    try:
        schedule = parse_schedule(row.schedule, row.timezone)
    except (ScheduleError, ValueError, TypeError) as error:
        return {"in_words": f"This version cannot read the schedule: {error}", "next_runs": []}
    return {"in_words": words.schedule(schedule), "next_runs": _next_runs(schedule, row.next_at, now)}


def _next_runs(schedule: Schedule, next_at: float | None, now: float) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    after = utc(now)
    if isinstance(next_at, float) and next_at > now:
        found.append(_due(schedule, next_at))
        after = utc(next_at)
    while len(found) < NEXT_RUNS:
        try:
            after = schedule.next_run(after)
        except ScheduleError:
            break
        found.append(_due(schedule, after.timestamp()))
    return found


def _due(schedule: Schedule, at: float) -> dict[str, Any]:
    return {"due_at": at, "local": f"{utc(at).astimezone(schedule.zone):%a %d %b %Y, %H:%M}"}


def _run(run: Any) -> dict[str, Any]:
    return {
        "state": run.state,
        "cause": run.cause,
        "due_at": run.due_at,
        "started_at": run.started_at,
        "finished_at": run.finished_at,
        "seconds": _seconds(run),
        "attempts": run.attempts,
        "status": run.status,
        "error": run.error,
        "task": run.task_name,
        "_task_url": run.task_name and address("tasks", CRON_QUEUE, run.task_name),
    }


def _seconds(run: Any) -> float | None:
    if run.started_at is None or run.finished_at is None:
        return None
    return max(0.0, float(run.finished_at - run.started_at))


def _ticks(runs: list[Any]) -> list[dict[str, Any]]:
    """Bars for the last runs, oldest first; the height is the duration relative to the longest one."""
    longest = max((_seconds(run) or 0.0 for run in runs), default=0.0) or 1.0
    ticks = []
    for run in reversed(runs):
        seconds = _seconds(run)
        height = MIN_BAR + (MAX_BAR - MIN_BAR) * (seconds or 0.0) / longest
        text = f"{run.state}, due {words.timestamp(run.due_at)}"
        text += f", took {words.duration(seconds)}" if seconds is not None else ""
        ticks.append(
            {"state": run.state, "y": round(22 - height, 1), "height": round(height, 1), "text": text}
        )
    return ticks


# --- actions ------------------------------------------------------------------------------


class RunJob(Action):
    """Runs a job now."""

    verb = "cron.run"
    here = "cron"

    def ask(self, job: str = "", **route: str) -> Question:
        """Name the job and the effect."""
        _require(job)
        text = ("The run does not change the schedule. It is refused while the job is running.",)
        return Question(f"Run {job} now?", text, "Run now", address("cron"))

    def act(self, job: str = "", **route: str) -> Done:
        """Start the run."""
        task = model.run_by_hand(job, store.current().now())
        return Done(f"Job {job} was started as task {task}.", address("cron"), (job,))


class PauseJob(Action):
    """Pauses a job."""

    verb = "cron.pause"
    here = "cron"

    def ask(self, job: str = "", **route: str) -> Question:
        """Name the job and the effect."""
        _require(job)
        text = ("No run starts until somebody resumes it, except by hand. A run that has begun goes on.",)
        return Question(f"Pause {job}?", text, "Pause", address("cron"))

    def act(self, job: str = "", **route: str) -> Done:
        """Pause it."""
        _require(job)
        pauses.begin(store.current(), job)
        return Done(f"Job {job} is paused.", address("cron"), (job,))


class ResumeJob(Action):
    """Resumes a job."""

    verb = "cron.resume"
    here = "cron"

    def ask(self, job: str = "", **route: str) -> Question:
        """Name the job and the effect."""
        _require(job)
        text = ("It runs by its schedule again, from now on. Runs that it has missed stay missed.",)
        return Question(f"Resume {job}?", text, "Resume", address("cron"))

    def act(self, job: str = "", **route: str) -> Done:
        """Resume it."""
        _require(job)
        model.resume(store.current(), job, store.current().now())
        return Done(f"Job {job} runs by its schedule again.", address("cron"), (job,))


def _require(job: str) -> None:
    if all(row.name != job for row in model.jobs()):
        raise RefusedError(404, f"There is no cron job {job!r}. It may have been removed by a deploy.")
