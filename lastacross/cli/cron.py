"""``cron``: shows the deployed jobs, their next runs and their history; runs, pauses and resumes them."""

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

from lastacross import cronruns, store
from lastacross.cli.base import cli, complain, takes_app
from lastacross.cli.connecting import asking_redis, configured, listing, record, settings_of
from lastacross.cli.showing import instant, print_json, print_table
from lastacross.clock import SYSTEM, utc
from lastacross.config import CronEntry
from lastacross.cron import Schedule, parse_schedule
from lastacross.cronruns import entries, overview, pauses
from lastacross.errors import ScheduleError, StoreUnavailableError, UnknownCronJobError, UnreadableJobError

OVERDUE_SECONDS = 10.0
"""A running scheduler is never this late; one without Redis or the datastore retries after 10 s."""

_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_NEXT = 5
_NAME = click.argument("name", metavar="JOB|URL")
_NAMES = click.argument("names", nargs=-1, required=True, metavar="JOB|URL...")


@cli.group("cron")
def _cron() -> None:
    """Show, run, pause and resume the jobs of cron.yaml."""


@dataclass(frozen=True, slots=True)
class _Row:
    name: str
    schedule: str
    timezone: str
    url: str
    state: str
    next_run: str | None
    last_run: str | None
    last_state: str | None
    target: str | None
    description: str
    is_overdue: bool


def _row(job: overview.DeployedJob, paused: Collection[str]) -> _Row:
    is_paused = job.name in paused
    state = "runs" if job.run_id is not None else "paused" if is_paused else "waits"
    try:
        entry = entries.load_entry(job.entry)
    except UnreadableJobError as error:
        entry, state = CronEntry(job.name, "", job.schedule, description=str(error)), "unreadable"
    return _Row(
        job.name,
        job.schedule,
        job.timezone,
        entry.url,
        state,
        None if is_paused else instant(job.next_at),
        instant(job.last_due_at),
        job.last_state,
        entry.target,
        entry.description,
        not is_paused and isinstance(job.next_at, float) and SYSTEM.now() - job.next_at > OVERDUE_SECONDS,
    )


@_cron.command(
    "list", epilog="Example: lastacross cron list --json | jq '.[] | select(.last_state == \"failed\")'"
)
@_JSON
@takes_app
def _list(root: Path, as_json: bool) -> None:
    """Show the deployed jobs with their next and last runs.

    An interval job has no next run while it is running. A next run in the past is marked "overdue", because
    no scheduler is running or none can read the job.
    """
    paused = _paused(root)
    rows = [_row(job, paused) for job in overview.deployed_jobs()]
    if as_json:
        print_json([asdict(row) for row in rows])
        return
    if not rows:
        click.echo(
            "no jobs are deployed: run `lastacross deploy`, or `lastacross dev`, in the folder with cron.yaml"
        )
        return
    head = ("JOB", "SCHEDULE", "TIMEZONE", "URL", "STATE", "NEXT", "LAST", "ENDED", "TARGET", "DESCRIPTION")
    print_table(head, [_cells(row) for row in rows])


def _paused(root: Path) -> frozenset[str]:
    """The names of the paused jobs. Without Redis, a remark is printed and the list does not show them."""
    settings_of(root)
    try:
        with listing(root):
            return pauses.names(store.current())
    except StoreUnavailableError as error:
        complain(f"paused jobs are unknown: {error}")
        return frozenset()


def job_named(text: str, jobs: Mapping[str, str]) -> str:
    """The name of the job with this name or URL.

    Args:
        text: the name or the URL.
        jobs: the jobs' URLs by name.

    Raises:
        UnknownCronJobError: no job has it, or more than one does.
    """
    if text in jobs:
        return text
    found = [name for name, url in jobs.items() if url == text]
    if len(found) == 1:
        return found[0]
    if found:
        raise UnknownCronJobError(f"several jobs have the URL {text}; name one of {', '.join(found)}")
    names = ", ".join(jobs) or "none"
    raise UnknownCronJobError(f"there is no job {text!r}; the jobs: {names}")


def _deployed_job(text: str) -> str:
    return job_named(text, {job.name: _url(job) for job in overview.deployed_jobs()})


def _url(job: overview.DeployedJob) -> str:
    try:
        return entries.load_entry(job.entry).url
    except UnreadableJobError:
        return ""


def _cells(row: _Row) -> tuple[object, ...]:
    *cells, is_overdue = asdict(row).values()
    if is_overdue:
        cells[_NEXT] = f"{row.next_run} overdue"
    return tuple(cells)


@_cron.command(
    "next",
    epilog="""\b
Examples:
  lastacross cron next /tasks/summary --count 10
  lastacross cron next --file    before a deploy""",
)
@click.argument("names", nargs=-1, metavar="[JOB|URL...]")
@click.option(
    "--count", type=click.IntRange(1, 1000), default=3, show_default=True, help="Number of runs per job."
)
@click.option("--file", "is_file", is_flag=True, help="Show the jobs in this folder's cron.yaml instead.")
@_JSON
@takes_app
def _next(root: Path, names: tuple[str, ...], *, count: int, is_file: bool, as_json: bool) -> None:
    """Show when the deployed jobs are due next, in UTC and in their own time zone.

    A paused job is not due, and neither is an interval job during its run. The runs after the first one of an
    interval job assume that its runs take no time.
    """
    found = _jobs_of_file(root) if is_file else _deployed_jobs(root)
    urls = {name: job.url for name, job in found.items()}
    chosen = [job_named(name, urls) for name in names] or list(found)
    runs = {name: _runs(found[name], count) for name in chosen}
    if as_json:
        print_json([{"name": name, "next_runs": [run["utc"] for run in rows]} for name, rows in runs.items()])
        return
    rows = [
        (name, found[name].schedule, run["utc"], run["local"]) for name, all_ in runs.items() for run in all_
    ]
    print_table(("JOB", "SCHEDULE", "UTC", "LOCAL"), rows)


@dataclass(frozen=True)
class _Due:
    """A job and its next due time in seconds since the epoch; None if it is not due."""

    url: str
    schedule: str
    timezone: str
    next_at: float | None


def _jobs_of_file(root: Path) -> dict[str, _Due]:
    now = SYSTEM.now()
    found = {}
    for entry in configured(root, needs_secret_key=False).cron:
        first = _following(parse_schedule(entry.schedule, entry.timezone), now)
        found[entry.name] = _Due(entry.url, entry.schedule, entry.timezone, first)
    return found


def _deployed_jobs(root: Path) -> dict[str, _Due]:
    paused = _paused(root)
    found = {}
    for job in overview.deployed_jobs():
        due = None if job.name in paused else job.next_at
        found[job.name] = _Due(_url(job), job.schedule, job.timezone, due)
    return found


def _following(schedule: Schedule, after: float) -> float | None:
    try:
        return schedule.next_run(utc(after)).timestamp()
    except ScheduleError:
        return None


def _runs(job: _Due, count: int) -> list[dict[str, str]]:
    try:
        schedule = parse_schedule(job.schedule, job.timezone)
    except (ValueError, TypeError, AttributeError):  # `cron list` shows that the row is damaged
        return []
    found: list[dict[str, str]] = []
    due = job.next_at
    while due is not None and len(found) < count:
        local = utc(due).astimezone(schedule.zone).isoformat(timespec="minutes")
        found.append({"utc": str(instant(due)), "local": f"{local} {job.timezone}"})
        due = _following(schedule, due)
    return found


@_cron.command("run", epilog="Example: lastacross cron run /tasks/summary")
@_NAME
@_JSON
@takes_app
def _run(root: Path, name: str, as_json: bool) -> None:
    """Run a job now, regardless of its schedule; this is refused while the job is running."""
    with asking_redis(root):
        name = _deployed_job(name)
        task = cronruns.model.run_by_hand(name, store.current().now())
        record("cron.run", [name])
    if as_json:
        print_json({"name": name, "task": task})
    else:
        click.echo(
            f"job {name} was started as task {task}; `lastacross cron history {name}` shows how it ended"
        )


@_cron.command("pause", epilog="Example: lastacross cron pause /tasks/summary")
@_NAMES
@_JSON
@takes_app
def _pause(root: Path, names: tuple[str, ...], as_json: bool) -> None:
    """Start no new runs of these jobs until they are resumed; a run in progress continues."""
    with asking_redis(root):
        jobs = [_deployed_job(name) for name in names]
        for job in jobs:
            pauses.begin(store.current(), job)
        record("cron.pause", jobs)
    _tell_paused(jobs, is_paused=True, as_json=as_json)


@_cron.command("resume", epilog="Example: lastacross cron resume /tasks/summary")
@_NAMES
@_JSON
@takes_app
def _resume(root: Path, names: tuple[str, ...], as_json: bool) -> None:
    """Let these jobs run on schedule again; runs that they have missed are not made up for."""
    with asking_redis(root):
        jobs = [_deployed_job(name) for name in names]
        for job in jobs:
            cronruns.model.resume(store.current(), job, store.current().now())
        record("cron.resume", jobs)
    _tell_paused(jobs, is_paused=False, as_json=as_json)


def _tell_paused(jobs: list[str], *, is_paused: bool, as_json: bool) -> None:
    if as_json:
        print_json([{"name": name, "is_paused": is_paused} for name in jobs])
        return
    for name in jobs:
        click.echo(f"job {name} is {'paused' if is_paused else 'resumed'}")


@_cron.command("history", epilog="Example: lastacross cron history /tasks/summary --limit 5")
@_NAME
@click.option("--limit", type=click.IntRange(1, 10_000), default=20, show_default=True, help="Runs.")
@_JSON
@takes_app
def _history(root: Path, name: str, limit: int, as_json: bool) -> None:
    """Show a job's runs, newest first. Runs are kept for 30 days, but skipped ones only for one day."""
    configured(root, needs_secret_key=False)
    runs = cronruns.model.last_runs(name, limit)
    if not runs:
        # A deleted job's runs can be found only by its name.
        runs = cronruns.model.last_runs(_deployed_job(name), limit)
    _show_runs([_shown(run) for run in runs], as_json=as_json)


def _show_runs(runs: list[dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        print_json(runs)
        return
    head = ("DUE", "CAUSE", "STATE", "STARTED", "FINISHED", "ATTEMPTS", "STATUS", "ERROR")
    keys = ("due_at", "cause", "state", "started_at", "finished_at", "attempts", "status", "error")
    print_table(head, [tuple(run[key] for key in keys) for run in runs])


def _shown(run: Any) -> dict[str, Any]:
    return {
        "due_at": instant(run.due_at),
        "cause": run.cause,
        "state": run.state,
        "started_at": instant(run.started_at),
        "finished_at": instant(run.finished_at),
        "attempts": run.attempts,
        "status": run.status,
        "error": run.error,
        "task": run.task_name,
    }
