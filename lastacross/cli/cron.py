"""``cron``: shows cron.yaml's jobs, their next runs and their history, and runs a job now."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

from lastacross import cronruns, store
from lastacross.cli.base import cli, takes_app
from lastacross.cli.connecting import asking_redis, configured, record, settings_of
from lastacross.cli.showing import instant, print_json, print_table
from lastacross.clock import SYSTEM, utc
from lastacross.config import CronEntry
from lastacross.cron import Schedule, parse_schedule
from lastacross.cronruns import entries, overview
from lastacross.errors import ScheduleError, UnknownCronJobError, UnreadableJobError

OVERDUE_SECONDS = 10.0
"""A running scheduler is never this late; one that waits for Redis or the datastore retries after 10 s."""

_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_NEXT = 5
_NAME = click.argument("name", metavar="JOB")


@cli.group("cron")
def _cron() -> None:
    """Show the jobs of cron.yaml and their runs, or run a job now."""


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


def _row(job: overview.DeployedJob) -> _Row:
    state = "waits" if job.run_id is None else "runs"
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
        instant(job.next_at),
        instant(job.last_due_at),
        job.last_state,
        entry.target,
        entry.description,
        isinstance(job.next_at, float) and SYSTEM.now() - job.next_at > OVERDUE_SECONDS,
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
    settings_of(root)
    rows = [_row(job) for job in overview.deployed_jobs()]
    if as_json:
        print_json([asdict(row) for row in rows])
        return
    if not rows:
        click.echo(
            "no jobs are deployed; a scheduler deploys cron.yaml when it starts, and when the file changes"
        )
        return
    head = ("JOB", "SCHEDULE", "TIMEZONE", "URL", "STATE", "NEXT", "LAST", "ENDED", "TARGET", "DESCRIPTION")
    print_table(head, [_cells(row) for row in rows])


def _cells(row: _Row) -> tuple[object, ...]:
    *cells, is_overdue = asdict(row).values()
    if is_overdue:
        cells[_NEXT] = f"{row.next_run} overdue"
    return tuple(cells)


@_cron.command("next", epilog="Example: lastacross cron next tasks-summary-1a2b3c4d --count 10")
@click.argument("names", nargs=-1, metavar="[JOB...]")
@click.option(
    "--count", type=click.IntRange(1, 1000), default=3, show_default=True, help="Number of runs per job."
)
@_JSON
@takes_app
def _next(root: Path, names: tuple[str, ...], count: int, as_json: bool) -> None:
    """Show when the jobs in cron.yaml are due next, in UTC and in their own time zone.

    The file need not be deployed. For an interval job, this assumes that it starts now and that its runs take
    no time.
    """
    configuration = configured(root, needs_secret_key=False)
    found = {entry.name: entry for entry in configuration.cron}
    for name in names:
        if name not in found:
            raise UnknownCronJobError(
                f"cron.yaml has no job {name!r}; its jobs: {', '.join(found) or 'none'}"
            )
    now = SYSTEM.now()
    runs = {name: _runs(found[name], now, count) for name in names or found}
    if as_json:
        print_json([{"name": name, "next_runs": [run["utc"] for run in rows]} for name, rows in runs.items()])
        return
    rows = [
        (name, found[name].schedule, run["utc"], run["local"]) for name, all_ in runs.items() for run in all_
    ]
    print_table(("JOB", "SCHEDULE", "UTC", "LOCAL"), rows)


def _runs(entry: CronEntry, now: float, count: int) -> list[dict[str, str]]:
    schedule: Schedule = parse_schedule(entry.schedule, entry.timezone)
    found, after = [], utc(now)
    for _ in range(count):
        try:
            after = schedule.next_run(after)
        except ScheduleError:
            break
        local = after.astimezone(schedule.zone).isoformat(timespec="minutes")
        found.append({"utc": str(instant(after.timestamp())), "local": f"{local} {entry.timezone}"})
    return found


@_cron.command("run", epilog="Example: lastacross cron run tasks-summary-1a2b3c4d")
@_NAME
@_JSON
@takes_app
def _run(root: Path, name: str, as_json: bool) -> None:
    """Run a job now, regardless of its schedule; this is refused while the job is running."""
    with asking_redis(root):
        task = cronruns.model.run_by_hand(name, store.current().now())
        record("cron.run", [name])
    if as_json:
        print_json({"name": name, "task": task})
    else:
        click.echo(
            f"job {name} was started as task {task}; `lastacross cron history {name}` shows how it ended"
        )


@_cron.command("history", epilog="Example: lastacross cron history tasks-summary-1a2b3c4d --limit 5")
@_NAME
@click.option("--limit", type=click.IntRange(1, 10_000), default=20, show_default=True, help="Runs.")
@_JSON
@takes_app
def _history(root: Path, name: str, limit: int, as_json: bool) -> None:
    """Show a job's runs, newest first. Runs are kept for 30 days, but skipped ones only for one day."""
    configured(root, needs_secret_key=False)
    runs = [_shown(run) for run in cronruns.model.last_runs(name, limit)]
    if not runs and name not in {job.name for job in cronruns.model.jobs()}:
        raise UnknownCronJobError(f"there is no job {name!r}; `lastacross cron list` shows the names")
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
