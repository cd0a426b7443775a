"""Shows the deployed jobs with their last runs. SQLAlchemy is used only if SQLite cannot be read directly."""

import importlib
from dataclasses import dataclass

from lastacross.datastore import read_quickly

_JOBS = """
SELECT name, schedule, timezone, entry, run_id, next_at, run.due_at, run.state FROM lastacross_cron_job
LEFT JOIN (SELECT id, job, due_at, state FROM lastacross_cron_run) AS run
ON run.id = (SELECT max(id) FROM lastacross_cron_run WHERE job = lastacross_cron_job.name)
ORDER BY position, name
"""


_SUCCESSES = """
SELECT job, max(finished_at) FROM lastacross_cron_run WHERE state = 'done' GROUP BY job
"""


@dataclass(frozen=True)
class DeployedJob:
    """A job's row, with the due time and state of its last run, if there was one. ``entry`` is JSON."""

    name: str
    schedule: str
    timezone: str
    entry: str
    run_id: int | None
    next_at: float | None
    last_due_at: float | None
    last_state: str | None


def deployed_jobs() -> list[DeployedJob]:
    """The deployed jobs, in the order of the file.

    Raises:
        DatastoreError: the database is unavailable, or its tables do not match this version.
    """
    rows = read_quickly(_JOBS)
    return _read_with_sessions() if rows is None else [DeployedJob(*row) for row in rows]


def _read_with_sessions() -> list[DeployedJob]:
    model = importlib.import_module("lastacross.cronruns.model")
    found = []
    for job in model.jobs():
        last = next(iter(model.last_runs(job.name, 1)), None)
        of_row = (job.name, job.schedule, job.timezone, job.entry, job.run_id, job.next_at)
        found.append(DeployedJob(*of_row, last and last.due_at, last and last.state))
    return found


def last_successes() -> dict[str, float]:
    """The end of each job's last successful run in the history, in seconds since the epoch.

    Raises:
        DatastoreError: as for ``deployed_jobs``.
    """
    rows = read_quickly(_SUCCESSES)
    if rows is None:
        rows = importlib.import_module("lastacross.cronruns.model").last_successes()
    return {job: finished_at for job, finished_at in rows if finished_at is not None}
