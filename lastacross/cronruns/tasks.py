"""Creates the task for each run of a job, in the engine's own queue."""

import json
from datetime import UTC

from lastacross.broker import NewTask, new_name, queue_directory, record
from lastacross.clock import utc
from lastacross.config import CRON_QUEUE, DEFAULT_SERVICE, Config, CronEntry, RetryParameters
from lastacross.datastore import outbox
from lastacross.taskqueue import Targets, Task, record_of

NO_RETRY = RetryParameters(task_retry_limit=0)


def scheduled_name(job: str, due_at: float) -> str:
    """Return the task name of a job's run at a due time, which is the same in every process."""
    return f"{job}-{utc(due_at).astimezone(UTC):%Y%m%dT%H%M%SZ}"


def hand_name(job: str) -> str:
    """Return a task name for a run that a person started."""
    return f"{job}-hand-{new_name()}"


def task_of(entry: CronEntry, name: str, due_at: float, now: float) -> NewTask:
    """Create a run's task, which goes where the deployed dispatch.yaml sends it.

    The job's target applies if no rule in that file matches the job's URL.

    Args:
        entry: the job.
        name: the task's name.
        due_at: the due time, which becomes the task's eta.
        now: the current time, in seconds since the epoch.

    Raises:
        InvalidTaskError: the job's URL or target is invalid for a task.
    """
    directory = queue_directory.current()
    directory.refresh()
    configuration = directory.configuration()
    task = Task(url=entry.url, method="GET", name=name, target=_target(entry, configuration))
    target = Targets("", configuration).of(task, CRON_QUEUE)
    tombstone = max(configuration.settings.tombstone_seconds, outbox.MARKER_SECONDS)
    fields = record_of(task, CRON_QUEUE, now, tombstone=tombstone, target=target)
    fields[fields.index("eta") + 1] = record.instant_text(due_at)
    fields += ("retry", json.dumps(record.dump_retry(entry.retry or NO_RETRY)), "request", name)
    if entry.attempt_deadline_seconds is not None:
        fields += ("deadline", str(entry.attempt_deadline_seconds))
    return NewTask(record.task_id(CRON_QUEUE, name), None, fields, is_named=True, target=target)


def _target(entry: CronEntry, configuration: Config) -> str | None:
    """Return the task's target, or None if it has none or a rule of dispatch.yaml decides.

    A single word is taken first as a service, then as a version of the default service, which has only one.
    """
    if entry.target is None or configuration.dispatched_service(entry.url) is not None:
        return None
    service, colon, version = entry.target.partition(":")
    if colon:
        return f"{version}.{service}"
    return service if service in configuration.services else DEFAULT_SERVICE
