"""Derives a long task's state from its row, its queued task and its last report.

For a finished task, the datastore has all the facts. If an open long task has lost its queued task, or the
queued task is a dead letter, the long task has failed.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote_plus

from lastacross import clock, logs, store
from lastacross.broker import TaskRecord, listing
from lastacross.broker import task_id as id_in_queue
from lastacross.channel import tokens
from lastacross.datastore import LongTask
from lastacross.errors import StoreUnavailableError
from lastacross.longtasks import model, parameters, progress
from lastacross.longtasks.progress import Progress
from lastacross.longtasks.view import State, Urls, View
from lastacross.memcache import cache
from lastacross.store import record_key
from lastacross.webapp import duration, instant

JOB = "_longtaskjob"
ID = "_longtaskid"
FORMAT = "_longtaskformat"
NETWORK = "_longtasknetwork"
"""The name of the task parameter that holds the network that owns the result."""

LOST = "Its task was lost: it was deleted from its queue, or Redis was emptied. Start it again."
POISON = "It crashed its process repeatedly and will not be retried."
DEAD = "It could not be run and will not be retried."

_log = logs.get("lastacross.longtask")


def urls_of(path: str, task_id: str) -> Urls:
    """Return the URLs of a task's links and buttons."""

    # Only the id needs quoting, because it may be untrusted input.
    key = f"{ID}={quote_plus(task_id)}"

    def url(job: str, more: str = "") -> str:
        return f"{path}?{JOB}={job}&{key}{more}"

    return Urls(
        status=url("query"),
        page=url("status"),
        json=url("query", f"&{FORMAT}=json"),
        result=url("result"),
        cancel=url("cancel"),
        restart=url("restart"),
        start=path,
    )


def view_of(task: LongTask, *, with_token: bool = False) -> View:
    """Return a task's current state.

    Args:
        task: the row as just read; if the queue has lost its task, the row is marked as failed.
        with_token: whether to issue a token for its channel as well.
    """
    return _look_at([task], with_token=with_token)[0]


def views_of(ids: Sequence[str]) -> list[View]:
    """Return views of these tasks, in the order of their ids, skipping missing and forgotten ones."""
    now = clock.SYSTEM.now()
    return _look_at([task for task in model.find_all(ids) if not task.has_expired(now)])


def _look_at(tasks: Sequence[LongTask], *, with_token: bool = False) -> list[View]:
    under_way = [task for task in tasks if task.is_open]
    try:
        records, reports = _ask(under_way) if under_way else ({}, {})
    except StoreUnavailableError:
        return [_view(task, is_blind=task.is_open) for task in tasks]
    views = []
    for task in tasks:
        record = records.get(task.id)
        if task.is_open and (record is None or record.is_dead):
            views.append(_view_after_loss(task, record))
        else:
            token = _token(task) if with_token and task.is_open else None
            views.append(_view(task, record, reports.get(task.id), token=token))
    return views


def _ask(tasks: Sequence[LongTask]) -> tuple[dict[str, TaskRecord | None], dict[str, Progress]]:
    """Read these tasks' queue records and last reports from Redis, in one call."""
    ids = [task.id for task in tasks]
    records = [record_key(id_in_queue(task.queue_name, task.task_name or "")) for task in tasks]
    arguments: list[store.Arg] = [
        cache.instant(),
        len(listing.FIELDS),
        *listing.FIELDS,
        *progress.stored_keys(ids),
    ]
    found, answers = store.current().run("look_at_longtasks", [*cache.KEYS, *records], arguments)
    loaded = {task_id: listing.loaded(values) for task_id, values in zip(ids, found, strict=True)}
    return loaded, progress.read(ids, answers)


def _token(task: LongTask) -> str | None:
    try:
        return tokens.create_recent_channel(task.id)
    except StoreUnavailableError:
        return None


def _view_after_loss(task: LongTask, record: TaskRecord | None) -> View:
    """Return the view of an open row without a runnable task in Redis; one of the two is outdated."""
    mark_lost(task, record)
    again = model.find(task.id) or task
    return _view(again)


def mark_lost(task: LongTask, record: TaskRecord | None) -> None:
    """Record in the row that its task has failed permanently, if that is the case.

    Args:
        task: the row, which must have been read before the record.
        record: the row's dead letter in the queue, or None.
    """
    newer = model.find(task.id)
    if newer is None or not newer.is_open or newer.attempts != task.attempts or newer.status != task.status:
        return
    if record is None:
        if model.waits_in_outbox(id_in_queue(task.queue_name, task.task_name or "")):
            return
        error = LOST
    elif record.error.startswith("poison"):
        error = POISON
    else:
        error = newer.error or DEAD
    if model.give_up(newer, clock.SYSTEM.now(), error):
        _log.warning("longtask.give_up", longtask=task.id, path=task.path, reason=error)


# --- the view -----------------------------------------------------------------------------


def _view(
    task: LongTask,
    record: TaskRecord | None = None,
    report: Progress | None = None,
    *,
    token: str | None = None,
    is_blind: bool = False,
) -> View:
    now = clock.SYSTEM.now()
    if report is not None and report.attempt not in (0, task.attempts):
        # The report comes from an abandoned attempt that is still running.
        report = None
    state = _state(task, record)
    next_try_at = _next_try(task, record) if state == "retrying" else None
    elapsed = max(0.0, (task.finished_at or now) - (task.started_at or task.created_at))
    shown: dict[str, Any] = {
        "state": state,
        "status": _status(task, state, record, next_try_at),
        "attempts": task.attempts,
        "next_try_at": next_try_at,
        "next_try_text": _instant(next_try_at),
        "next_try_seconds": None if next_try_at is None else max(0, round(next_try_at - now)),
        "error_text": task.error or "",
        "is_blind": is_blind,
        **_progress_of(state, report, now),
    }
    return View(
        id=task.id,
        title=task.title,
        path=task.path,
        parameters=parameters.shown(task.given),
        fields=parameters.fields(task.given),
        elapsed_seconds=elapsed,
        elapsed_text=duration(elapsed),
        **_instants(task),
        result_kind=task.result_kind or "",
        result_size=task.result_size,
        urls=urls_of(task.path, task.id),
        token=token,
        etag=_etag(task, shown),
        **shown,
    )


def _state(task: LongTask, record: TaskRecord | None) -> State:
    if not task.is_open:
        return task.status  # type: ignore[return-value]  # a finished task's statuses are states, too
    if task.status == "error":
        return "retrying"
    if record is not None and (record.waits or _was_cut_off(task, record)):
        # An attempt had begun when its worker exited, so the task is waiting again.
        return "retrying" if task.attempts or record.failures or record.lost else "ready"
    return "ready" if task.status == "ready" else "running"


def _was_cut_off(task: LongTask, record: TaskRecord) -> bool:
    """Return whether the attempt in the row is over and the next one's process has not begun it yet."""
    return record.failures + record.lost > task.delivery


def _next_try(task: LongTask, record: TaskRecord | None) -> float | None:
    return record.eta if record is not None and record.status == "scheduled" else task.next_try_at


def _status(task: LongTask, state: State, record: TaskRecord | None, next_try_at: float | None) -> str:
    if state == "running" and task.attempts > 1:
        return f"A retry is under way: attempt {task.attempts}."
    if state == "retrying":
        if task.status == "started":
            return "A retry is under way: its process has ended, and another one is taking over."
        if next_try_at is not None:
            return (
                f"Attempt {task.attempts} failed. A retry is under way: it begins at {instant(next_try_at)}."
            )
        return "A retry is under way."
    return {
        "ready": "Waiting to start.",
        "running": "Running.",
        "done": "Done.",
        "failed": "Failed.",
        "cancelled": "Cancelled.",
    }[state]


def _progress_of(state: State, report: Progress | None, now: float) -> Mapping[str, Any]:
    if state == "done":
        return {"percent": 100}
    if report is None:
        return {}
    shown: dict[str, Any] = {"message": report.message, "step": report.step, "percent": report.percent}
    shown["total_steps"] = report.total_steps
    told = report.remaining(now) if state == "running" else None
    if told is not None:
        shown |= {"eta_seconds": told.seconds, "eta_text": told.text}
    return shown


def _instants(task: LongTask) -> dict[str, Any]:
    """Return the task's timestamps, as numbers and as text."""
    instants: dict[str, Any] = {}
    for name in ("created", "started", "finished", "expires"):
        at = getattr(task, f"{name}_at")
        instants |= {f"{name}_at": at, f"{name}_text": _instant(at)}
    return instants


def _instant(at: float | None) -> str:
    return "" if at is None else instant(at)


def _etag(task: LongTask, shown: Mapping[str, Any]) -> str:
    """Compute an entity tag that omits the remaining seconds, so that passing time does not change it."""
    passes = ("eta_seconds", "next_try_seconds")
    news = [(name, value) for name, value in sorted(shown.items()) if name not in passes]
    return hashlib.sha256(repr((task.id, task.finished_at, news)).encode()).hexdigest()[:20]
