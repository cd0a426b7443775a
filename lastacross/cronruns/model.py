"""The datastore steps of cron jobs and their runs, each of which is one transaction.

If another process got there first, a step changes nothing and its result says so.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from lastacross import datastore, logs, metrics, store
from lastacross.broker import NewTask, record
from lastacross.clock import utc
from lastacross.config import CRON_QUEUE, CronEntry
from lastacross.cron import Schedule, parse_schedule
from lastacross.cronruns import pauses, tasks
from lastacross.cronruns.entries import dump_entry, load_entry
from lastacross.datastore import CronJob, CronRun, OutboxRow, outbox
from lastacross.errors import (
    CronJobRunningError,
    Error,
    ScheduleError,
    StoreUnavailableError,
    UnknownCronJobError,
    UnreadableJobError,
)
from lastacross.store import Store

# A run that is this many seconds late counts as missed, because no scheduler was running.
MISFIRE_SECONDS = 60.0

_log = logs.get("lastacross.cron")


def _read_schedule(entry: CronEntry) -> Schedule:
    """Parse the schedule; it may have been checked with a newer grammar or a different tz database."""
    try:
        return parse_schedule(entry.schedule, entry.timezone)
    except (ValueError, TypeError, AttributeError) as error:
        raise UnreadableJobError(str(error)) from error


def next_after(schedule: Schedule, after: float) -> float | None:
    """Return the next due time in seconds since the epoch, or None if the schedule never comes due again."""
    try:
        return schedule.next_run(utc(after)).timestamp()
    except ScheduleError as error:
        _log.warning("cron.never", schedule=schedule.text, error=str(error))
        return None


# --- deploying ----------------------------------------------------------------------------


def deploy(entries: Sequence[CronEntry], at: float) -> bool:
    """Deploy these jobs; unchanged jobs are not touched.

    Returns:
        True if the jobs were deployed; False if another process deployed concurrently, in which case try
        again.
    """
    try:
        with datastore.session() as session:
            rows = {row.name: row for row in session.scalars(select(CronJob))}
            for position, entry in enumerate(entries):
                _deploy_one(session, rows.pop(entry.name, None), entry, position, at)
            if rows:
                session.execute(delete(CronJob).where(CronJob.name.in_(rows)))
    except IntegrityError:
        return False
    if rows and entries:
        _log.info("cron.delete", jobs=sorted(rows))
    elif rows:
        _log.warning("cron.delete", jobs=sorted(rows), because="there is no cron.yaml, or no job in it")
    return True


def _deploy_one(session: Session, row: CronJob | None, entry: CronEntry, position: int, at: float) -> None:
    text = dump_entry(entry)
    if row is None:
        row = CronJob(name=entry.name, schedule="", run_id=_open_run(session, entry.name))
        session.add(row)
    if (row.entry, row.position) != (text, position):
        row.entry, row.position = text, position
    is_set_aside = row.next_at is None and row.run_id is None
    if is_set_aside or (row.schedule, row.timezone) != (entry.schedule, entry.timezone):
        schedule = parse_schedule(entry.schedule, entry.timezone)
        row.schedule, row.timezone, row.deployed_at = entry.schedule, entry.timezone, at
        # An interval begins when the current run ends.
        row.next_at = next_after(schedule, at) if schedule.is_fixed or row.run_id is None else None
        _log.info("cron.deploy", job=entry.name, schedule=entry.schedule, timezone=entry.timezone)


def _open_run(session: Session, job: str) -> int | None:
    """Return the unfinished run that a job left behind when it was deleted, if there is one."""
    query = select(CronRun.id).where(CronRun.job == job, CronRun.state == "open")
    return session.scalar(query.order_by(CronRun.id.desc()).limit(1))


# --- due jobs -----------------------------------------------------------------------------


@dataclass(frozen=True)
class DueJob:
    """A job that is due; ``text`` is its entry as stored in the row."""

    name: str
    due_at: float
    text: str


def due(at: float) -> list[DueJob]:
    """Return the due jobs, with the longest-waiting job first."""
    query = select(CronJob.name, CronJob.next_at, CronJob.entry).where(CronJob.next_at <= at)
    with datastore.session(read_only=True) as session:
        found = session.execute(query.order_by(CronJob.next_at, CronJob.position)).all()
    return [DueJob(name, next_at, text) for name, next_at, text in found if next_at is not None]


def take(job: DueJob, at: float) -> str | None:
    """Advance a job to its next due time and, in the same transaction, write its run and its task.

    Returns:
        The run's state: ``open``; ``skipped`` if the last run has not ended; ``missed`` if it is too late;
        ``failed`` if the run cannot become a task, so that the job waits for the next deployment; None if
        another process advanced the job first.

    Raises:
        UnreadableJobError: the job is unchanged, because another version or machine may be able to read it.
    """
    name = tasks.scheduled_name(job.name, job.due_at)
    entry = load_entry(job.text)
    schedule = _read_schedule(entry)
    try:
        task = tasks.task_of(entry, name, job.due_at, at)
    except (Error, ValueError) as error:
        return _set_aside(job, at, error)
    is_late = at - job.due_at > MISFIRE_SECONDS
    is_missed = is_late and entry.misfire == "skip"
    # An interval is counted from the run's end, or from now if there is no run.
    following = (
        next_after(schedule, at if is_late else job.due_at) if schedule.is_fixed or is_missed else None
    )
    values = _values(job, at, "misfire" if is_late else "schedule")
    with datastore.transaction() as transaction:
        session = transaction.session
        taken = _move_on(session, job, following)
        if taken is None:
            return None
        is_running = taken.run_id is not None and _is_open(session, taken.run_id)
        if taken.run_id is not None and not is_running:
            _free(session, job.name)
        if is_missed or is_running or _was_here(session, name):
            state = "missed" if is_missed else "skipped"
            session.execute(insert(CronRun).values(**values, state=state, finished_at=at))
            if following is None and not is_running:
                _set_next(session, job.name, next_after(schedule, at))
            return state
        _begin(transaction, job.name, values | {"task_name": name}, task)
        return "open"


def _values(job: DueJob, at: float, cause: str) -> dict[str, Any]:
    return {"job": job.name, "due_at": job.due_at, "cause": cause, "created_at": at, "attempts": 0}


def _move_on(session: Session, job: DueJob, following: float | None) -> Any:
    """Advance the job's row and return it with its ``run_id``, or None if another process got there first."""
    is_the_same = (CronJob.name == job.name) & (CronJob.next_at == job.due_at)
    moved = update(CronJob).where(is_the_same, CronJob.entry == job.text).values(next_at=following)
    return session.execute(moved.returning(CronJob.run_id)).one_or_none()


def _is_open(session: Session, run_id: int) -> bool:
    """Return whether a run has not ended; a run that is lost or in an unknown state counts as ended."""
    found = select(CronRun.id).where(CronRun.id == run_id, CronRun.state == "open")
    return session.scalar(found) is not None


def _free(session: Session, job: str) -> None:
    session.execute(update(CronJob).where(CronJob.name == job).values(run_id=None))


def _was_here(session: Session, task_name: str) -> bool:
    """Return whether this due time has already had its run. This happens if the clock is set back."""
    return session.scalar(select(CronRun.id).where(CronRun.task_name == task_name)) is not None


def _set_aside(job: DueJob, at: float, error: Exception) -> str | None:
    with datastore.transaction() as transaction:
        if _move_on(transaction.session, job, None) is None:
            return None
        values = _values(job, at, "schedule") | {"state": "failed", "finished_at": at, "error": str(error)}
        transaction.session.execute(insert(CronRun).values(**values))
    _say_set_aside(job.name, error)
    return "failed"


def _say_set_aside(job: str, error: Exception) -> None:
    _log.error("cron.set_aside", job=job, error=str(error), until="the next deploy of cron.yaml")


def _set_next(session: Session, job: str, next_at: float | None) -> None:
    session.execute(update(CronJob).where(CronJob.name == job).values(next_at=next_at))


def _begin(transaction: datastore.Transaction, job: str, values: dict[str, Any], task: NewTask) -> None:
    """Write a run and its task, and store the run's id in its job."""
    session = transaction.session
    new = insert(CronRun).values(**values, state="open").returning(CronRun.id)
    run_id = session.scalar(new)
    is_free = (CronJob.name == job) & CronJob.run_id.is_(None)
    begun = session.execute(update(CronJob).where(is_free).values(run_id=run_id).returning(CronJob.name))
    if begun.one_or_none() is None:
        raise CronJobRunningError(
            f"job {job!r} is already running, and only one run is allowed at a time; wait for it to end"
        )
    outbox.write(transaction, [task])


def run_by_hand(job: str, at: float) -> str:
    """Run a job now, regardless of its schedule, and return the name of its task.

    Raises:
        UnknownCronJobError: no deployed job has this name.
        CronJobRunningError: the job is running.
        UnreadableJobError: the job's row cannot be read.
    """
    with datastore.transaction() as transaction:
        text = transaction.session.scalar(select(CronJob.entry).where(CronJob.name == job))
        if text is None:
            raise UnknownCronJobError(f"there is no job {job!r}; `lastacross cron list` shows the names")
        name = tasks.hand_name(job)
        values = _values(DueJob(job, at, text), at, "hand") | {"task_name": name}
        _begin(transaction, job, values, tasks.task_of(load_entry(text), name, at, at))
    return name


# --- pausing ------------------------------------------------------------------------------


def resume(opened: Store, job: str, at: float) -> None:
    """Let a job run on schedule again from now on; runs that it has missed are not made up for.

    Raises:
        StoreUnavailableError: Redis is not responding.
    """
    # Do this first, so that no scheduler sets the job aside once its next time is known.
    pauses.end(opened, job)
    with datastore.session() as session:
        row = session.get(CronJob, job, with_for_update=True)  # waits for a scheduler that is holding it
        if row is not None and (row.next_at is None or row.next_at <= at):
            schedule = parse_schedule(row.schedule, row.timezone)
            if schedule.is_fixed or row.run_id is None:
                row.next_at = next_after(schedule, at)


def hold(opened: Store, job: DueJob) -> None:
    """Let a paused job that is due wait until it is resumed, unless it has just been resumed."""
    with datastore.session() as session:
        _move_on(session, job, None)
        if job.name not in pauses.names(opened):
            session.rollback()


# --- ending -------------------------------------------------------------------------------


def note_attempt(task_name: str, *, started_at: float, attempts: int, status: int | None, error: str) -> None:
    """Record that an attempt has failed and will be retried."""
    values = {"started_at": started_at, "attempts": attempts, "status": status, "error": error}
    is_it = (CronRun.task_name == task_name) & (CronRun.state == "open")
    with datastore.session() as session:
        session.execute(update(CronRun).where(is_it).values(**values))


def end(task_name: str, at: float, state: str, **values: Any) -> bool:
    """End a run, so that its job may start again; an interval is counted from this time.

    Args:
        task_name: the name of the run's task.
        at: the end of the run, in seconds since the epoch.
        state: ``done``, ``failed`` or ``lost``.
        values: other columns of the run.

    Returns:
        Whether the run was open. If a run was marked as lost and is reported later, only its state is
        updated.
    """
    was_open = (CronRun.task_name == task_name) & (CronRun.state == "open")
    was_lost = (CronRun.task_name == task_name) & (CronRun.state == "lost")
    ended = values | {"state": state}
    with datastore.session() as session:
        finish = update(CronRun).where(was_open).values(finished_at=at, **ended)
        run = session.execute(finish.returning(CronRun.id, CronRun.job)).one_or_none()
        if run is None:
            session.execute(update(CronRun).where(was_lost).values(**ended))
            return False
        free = update(CronJob).where(CronJob.name == run.job, CronJob.run_id == run.id).values(run_id=None)
        job = session.execute(free.returning(CronJob.schedule, CronJob.timezone)).one_or_none()
        if job is not None:
            _go_on(session, run.job, job, at)
    _count_end(run.job, state)
    return True


def _count_end(job: str, state: str) -> None:
    """Count a run for the metrics; the history, which is pruned, contains the run anyway."""
    outcome = "dead" if state == "failed" else state
    try:
        metrics.count(store.current(), metrics.CRON, job, outcome)
    except StoreUnavailableError as error:
        _log.warning("metrics.write", error=str(error))


def _go_on(session: Session, name: str, job: Any, at: float) -> None:
    """Set an interval's next due time, counted from the run's end; fixed schedules already have theirs."""
    try:
        schedule = parse_schedule(job.schedule, job.timezone)
    except (ValueError, TypeError, AttributeError) as error:
        _set_next(session, name, None)
        _say_set_aside(name, error)
    else:
        if not schedule.is_fixed:
            _set_next(session, name, next_after(schedule, at))


@dataclass(frozen=True)
class OpenRun:
    """A run that, according to the datastore, has not ended."""

    job: str
    task_name: str
    in_outbox: bool


def open_runs() -> list[OpenRun]:
    """Return the unfinished runs; each one says whether the outbox may still send its task."""
    query = select(CronRun.job, CronRun.task_name).where(CronRun.state == "open")
    with datastore.session(read_only=True) as session:
        rows = session.execute(query.order_by(CronRun.id)).all()
        ids = [record.task_id(CRON_QUEUE, row.task_name) for row in rows]
        written = set(session.scalars(select(OutboxRow.task_id).where(OutboxRow.task_id.in_(ids))))
    pairs = zip(rows, ids, strict=True)
    return [OpenRun(row.job, row.task_name, task_id in written) for row, task_id in pairs]


# --- reading and forgetting -----------------------------------------------------------------


def jobs() -> list[CronJob]:
    """Return the deployed jobs, in the order of the file."""
    with datastore.session(read_only=True) as session:
        return list(session.scalars(select(CronJob).order_by(CronJob.position, CronJob.name)))


def last_runs(job: str, limit: int) -> list[CronRun]:
    """Return a job's latest runs, newest first."""
    query = select(CronRun).where(CronRun.job == job).order_by(CronRun.id.desc()).limit(limit)
    with datastore.session(read_only=True) as session:
        return list(session.scalars(query))


def latest_runs(limit: int) -> dict[str, list[CronRun]]:
    """Return the latest runs of every job by its name, newest first.

    One query per job reads only these runs, whereas one for all would rank a month of them.
    """
    query = select(CronRun).order_by(CronRun.id.desc()).limit(limit)
    with datastore.session(read_only=True) as session:
        names = session.scalars(select(CronJob.name)).all()
        return {name: list(session.scalars(query.where(CronRun.job == name))) for name in names}


def last_successes() -> list[tuple[str, float | None]]:
    """Return the end of each job's last successful run."""
    query = select(CronRun.job, func.max(CronRun.finished_at)).where(CronRun.state == "done")
    with datastore.session(read_only=True) as session:
        return [(job, at) for job, at in session.execute(query.group_by(CronRun.job))]


def prune(states: Sequence[str], before: float) -> int:
    """Delete the runs in these states that were created before this time; return how many were deleted."""
    old = delete(CronRun).where(CronRun.state.in_(states), CronRun.created_at < before)
    with datastore.session() as session:
        result: Any = session.execute(old)
        return int(result.rowcount)
