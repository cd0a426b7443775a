"""Makes one attempt at a long task: claims its row, does the work and writes the outcome.

If an attempt loses its lease, the next attempt takes over the claim, and the earlier result is rejected.
"""

import contextlib
import contextvars
import secrets
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lastacross import clock, coroutines, handler_calls, logs
from lastacross.broker import backoff_seconds, listing
from lastacross.datastore import LongTask
from lastacross.errors import (
    DatastoreError,
    DeadlineExceededError,
    DeferredError,
    PermanentTaskFailure,
    StoreUnavailableError,
    TaskStoppedError,
    UnusableResultError,
    UserError,
)
from lastacross.longtasks import model, parameters, progress, quotas, results
from lastacross.longtasks.view import printable
from lastacross.taskqueue import CurrentTask, TaskRetryOptions

DONE = 200
FAILED = 500
TRY_AGAIN = 503

MAX_AGE_SECONDS = 7 * 86_400.0
"""The age at which the queue gives up on a task whose attempts the row cannot count."""

STUCK_SECONDS = 20.0
"""How long after the deadline a stuck attempt is recorded. Its process exits 10 s later, without a report."""

TRACEBACK_CHARACTERS = 20_000
ERROR_CHARACTERS = 2_000

_log = logs.get("lastacross.longtask")


@dataclass(frozen=True)
class Work:
    """The handler's part of an attempt.

    Attributes:
        execute: a callable that takes the parameters and does the work.
        task_retry_limit: how many times a failed attempt is retried.
        retry: the task's own retry options, which determine the delays.
        prepare: a callable that receives the claimed row before the work begins.
        deadline_seconds: the time limit of one attempt.
        network: the network whose share of the storage the result uses, or '' for no particular network.
    """

    execute: Callable[[parameters.Parameters], Any]
    task_retry_limit: int
    retry: TaskRetryOptions
    prepare: Callable[[LongTask, progress.Reporter], None]
    deadline_seconds: float
    network: str = ""


def run(task_id: str, current: CurrentTask, work: Work) -> int:
    """Make one attempt.

    A failure is logged, recorded in the row, and reported to the queue through ``current``. The retries are
    counted in the row, so an hour-long datastore outage does not use them up.

    Returns:
        The HTTP status for the queue: 200, or another status to have the task delivered again.
    """
    task = _claimed(task_id, current)
    if task is None:
        found = model.find(task_id)
        is_needed = found is not None and (found.is_open or found.status == "failed")
        _log.warning("longtask.refuse", longtask=task_id, task=current.id, is_needed=is_needed)
        return TRY_AGAIN if is_needed and found is not None and found.expired_at is None else DONE
    if task.failures > work.task_retry_limit:
        # The last allowed attempt outlived its deadline; later deliveries only record that.
        return _failed(task, current, work, DeadlineExceededError("no attempt ended in time"))
    progress.forget(task.id)
    progress.announce(task.id, "running", attempt=task.attempts)
    reporter = progress.Reporter(task)
    run = contextvars.copy_context().run
    watch = threading.Timer(work.deadline_seconds + STUCK_SECONDS, run, (_note_stuck, task, current, work))
    watch.daemon = True
    watch.start()
    try:
        work.prepare(task, reporter)
        name = getattr(work.execute, "__qualname__", type(work.execute).__name__)
        result = handler_calls.call(work.execute, _parameters(task))
        kind, body = results.encode(coroutines.result_of(result, name))
    except TaskStoppedError:
        reporter.close()
        return _stopped(task)
    except BaseException as error:
        reporter.close()
        return _failed(task, current, work, error)
    finally:
        watch.cancel()
    reporter.close()
    if not model.finish(task, clock.SYSTEM.now(), kind, body):
        return _stopped(task)
    quotas.count_end(len(body), work.network)
    progress.announce(task.id, "done")
    _log.info("longtask.done", longtask=task.id, path=task.path, attempt=task.attempts, bytes=len(body))
    return DONE


def _note_stuck(task: LongTask, current: CurrentTask, work: Work) -> None:
    """Count an attempt stuck in a blocking call as a failure, because its process will end soon."""
    reference = secrets.token_hex(4)
    _log.error("longtask.stuck", longtask=task.id, path=task.path, attempt=task.attempts, reference=reference)
    error = _sentence(DeadlineExceededError(), reference)
    told = {"error": error, "traceback": f"reference {reference}\nIt did not end after its deadline."}
    try:
        next_try_at = clock.SYSTEM.now() + _delay_seconds(task, current, work)
        if model.fail_attempt(task, next_try_at, **told):
            progress.announce(task.id, "retrying")
    except Exception as trouble:
        # This runs in its own thread, where an error would go unnoticed.
        is_expected = isinstance(trouble, DatastoreError)
        _log.warning("longtask.stuck", longtask=task.id, error=str(trouble), exc_info=not is_expected)


def _claimed(task_id: str, current: CurrentTask) -> LongTask | None:
    """Claim the row for this attempt; return None if there is nothing to do."""
    now = clock.SYSTEM.now()
    delivery = current.retry_count
    task = model.claim(task_id, delivery, now)
    if task is not None:
        return task
    # The deliveries of a re-run dead letter are counted from 1 again, so accept a low number if the task's
    # record agrees with it.
    record = listing.find(current.queue_name, current.name)
    if record is None or record.failures + record.lost != delivery:
        return None
    return model.claim(task_id, delivery, now, is_newest=True)


def _parameters(task: LongTask) -> parameters.Parameters:
    given, prepared = model.parameters_of(task.id)
    return parameters.load(prepared or given, model.bodies_of(task.id))


def _stopped(task: LongTask) -> int:
    """End an attempt that is no longer needed: its task is over, or another attempt holds the claim."""
    found = model.find(task.id)
    is_open = found is not None and found.is_open
    _log.info("longtask.stop", longtask=task.id, attempt=task.attempts, is_open=is_open)
    # If the task is open, another attempt should hold the lease, so the queue ignores this status.
    return TRY_AGAIN if is_open else DONE


def _failed(task: LongTask, current: CurrentTask, work: Work, error: BaseException) -> int:
    """Record that the attempt failed, and whether another one follows."""
    now = clock.SYSTEM.now()
    reference = secrets.token_hex(4)
    fields = {"longtask": task.id, "path": task.path, "attempt": task.attempts, "reference": reference}
    _log.error("longtask.fail", **fields, exc_info=error)
    text = "".join(traceback.format_exception(error))
    told = {
        "error": _clean(_sentence(error, reference), ERROR_CHARACTERS),
        "traceback": _clean(f"reference {reference}\n{text}", TRACEBACK_CHARACTERS),
    }
    is_useless = _is_useless(error)
    is_last = is_useless or task.failures >= work.task_retry_limit
    if is_last:
        is_ours = model.end(task, now, "failed", **told)
    else:
        is_ours = model.fail_attempt(task, now + _delay_seconds(task, current, work), **told)
    if not is_ours:
        return _stopped(task)
    if is_last:
        quotas.count_end(sum(map(len, told.values())), work.network)
    progress.announce(task.id, "failed" if is_last else "retrying")
    if is_useless:
        return DONE
    # The task becomes a dead letter, which an operator can run again after fixing the cause.
    current.has_failed_for_good = is_last
    current.failure = _clean(f"{type(error).__name__}: {error}", ERROR_CHARACTERS)
    return FAILED


def _is_useless(error: BaseException) -> bool:
    """Return whether a retry would be useless."""
    if isinstance(error, UserError):
        return error.is_final
    return isinstance(error, UnusableResultError | PermanentTaskFailure)


def _delay_seconds(task: LongTask, current: CurrentTask, work: Work) -> float:
    """Return the seconds until the next delivery, computed the way the queue does."""
    failures = task.failures
    with contextlib.suppress(StoreUnavailableError):
        record = listing.find(current.queue_name, current.name)
        failures = failures if record is None else record.failures
    return backoff_seconds(work.retry.parameters, failures + 1)


def _sentence(error: BaseException, reference: str) -> str:
    """Return an error message that the user may see; most exceptions' own messages may be confidential."""
    if isinstance(error, UserError | UnusableResultError):
        return str(error)
    if isinstance(error, DeadlineExceededError):
        return f"It exceeded its time limit. Reference: {reference}."
    if isinstance(error, DeferredError):
        return f"It cannot be done. Reference: {reference}."
    return f"Something went wrong while it ran. Reference: {reference}."


def _clean(text: str, most: int) -> str:
    """Make a string storable and shorten it, keeping the end, where a traceback names the error."""
    text = printable(text).replace("\0", "\N{REPLACEMENT CHARACTER}")
    return text if len(text) <= most else f"…{text[1 - most :]}"
