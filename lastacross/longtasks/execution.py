"""One attempt at a long task, in the delivery of its task: claim the row, do the work, write how it ended.

An attempt whose lease was lost has, by then, lost its claim to the next one: what it brings is refused.
"""

import secrets
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lastacross import clock, logs
from lastacross.datastore.tables import LongTask
from lastacross.errors import (
    DeadlineExceededError,
    DeferredError,
    PermanentTaskFailure,
    StoreUnavailableError,
    TaskStoppedError,
    UnusableResultError,
    UserError,
)
from lastacross.longtasks import model, parameters, progress, results
from lastacross.taskqueue import CurrentTask, TaskRetryOptions, lookup
from lastacross.taskqueue.retry import next_delay_seconds

DONE = 200
TRY_AGAIN = 503

TRACEBACK_CHARACTERS = 20_000
ERROR_CHARACTERS = 2_000

_log = logs.get("lastacross.longtask")


@dataclass(frozen=True)
class Work:
    """What a handler brings to an attempt.

    Attributes:
        execute: does the work, given the parameters.
        retry: how often, and after what time, a failed attempt is repeated.
        prepare: told the row with its claim, before the work begins.
    """

    execute: Callable[[parameters.Parameters], Any]
    retry: TaskRetryOptions
    prepare: Callable[[LongTask, progress.Reporter], None]


def run(task_id: str, current: CurrentTask, work: Work) -> int:
    """Make one attempt.

    Returns:
        The status to answer the queue with: 200, or 503 to be delivered again.

    Raises:
        Exception: what the work raised, after it was noted; the queue then retries or gives up.
    """
    task = _claimed(task_id, current)
    if task is None:
        found = model.find(task_id)
        is_needed = found is not None and (found.is_open or found.status == "failed")
        _log.warning("longtask.refuse", longtask=task_id, task=current.id, is_needed=is_needed)
        return TRY_AGAIN if is_needed and found is not None and found.expired_at is None else DONE
    progress.forget(task.id)
    progress.announce(task.id, "running", attempt=task.attempts)
    reporter = progress.Reporter(task)
    try:
        work.prepare(task, reporter)
        kind, body = results.encode(work.execute(_parameters(task)))
    except TaskStoppedError:
        reporter.close()
        return _stopped(task)
    except BaseException as error:
        reporter.close()
        return _failed(task, current, work, error)
    reporter.close()
    if not model.finish(task, clock.SYSTEM.now(), kind, body):
        return _stopped(task)
    progress.announce(task.id, "done")
    _log.info("longtask.done", longtask=task.id, path=task.path, attempt=task.attempts, bytes=len(body))
    return DONE


def _claimed(task_id: str, current: CurrentTask) -> LongTask | None:
    """The row, with the claim of this attempt; None if there is nothing to do for it."""
    now = clock.SYSTEM.now()
    delivery = current.retry_count
    task = model.claim(task_id, delivery, now)
    if task is not None:
        return task
    # A dead letter that is run again is counted anew; so its low number is right if its record says the same.
    record = lookup.find(current.queue_name, current.name)
    if record is None or record.failures + record.lost != delivery:
        return None
    return model.claim(task_id, delivery, now, is_newest=True)


def _parameters(task: LongTask) -> parameters.Parameters:
    given, prepared = model.parameters_of(task.id)
    return parameters.load(prepared or given, model.bodies_of(task.id))


def _stopped(task: LongTask) -> int:
    """The attempt is not needed any more: its task is over, or another attempt has the claim."""
    found = model.find(task.id)
    is_open = found is not None and found.is_open
    _log.info("longtask.stop", longtask=task.id, attempt=task.attempts, is_open=is_open)
    # Only if this lease is lost, which another attempt should mean, is the answer of no importance.
    return TRY_AGAIN if is_open else DONE


def _failed(task: LongTask, current: CurrentTask, work: Work, error: BaseException) -> int:
    """Note that the attempt has failed; raises it again unless nothing may be tried any more."""
    now = clock.SYSTEM.now()
    reference = secrets.token_hex(4)
    _log.error(
        "longtask.fail",
        longtask=task.id,
        path=task.path,
        attempt=task.attempts,
        reference=reference,
        exc_info=error,
    )
    text = "".join(traceback.format_exception(error))
    told = {
        "error": _clean(_sentence(error, reference), ERROR_CHARACTERS),
        "traceback": _clean(f"reference {reference}\n{text}", TRACEBACK_CHARACTERS),
    }
    delay = None if _is_final(error) else _delay_seconds(current, work)
    if delay is None:
        is_ours = model.end(task, now, "failed", **told)
        state = "failed"
    else:
        is_ours = model.fail_attempt(task, now + delay, **told)
        state = "retrying"
    if not is_ours:
        return _stopped(task)
    progress.announce(task.id, state)
    if _is_final(error):
        return DONE
    raise error


def _is_final(error: BaseException) -> bool:
    """Whether no retry can mend it."""
    if isinstance(error, UserError):
        return error.is_final
    return isinstance(error, UnusableResultError | PermanentTaskFailure)


def _delay_seconds(current: CurrentTask, work: Work) -> float | None:
    """Seconds until the queue will deliver it again, None if this was its last time."""
    try:
        record = lookup.find(current.queue_name, current.name)
    except StoreUnavailableError:
        record = None
    # Without Redis lost attempts count too: a page may say "failed" once too early, until the next attempt.
    failures = current.retry_count if record is None else record.failures
    return next_delay_seconds(work.retry.parameters, failures + 1, 0.0)


def _sentence(error: BaseException, reference: str) -> str:
    """What the user may know: an exception's own words may hold what is not for everybody."""
    if isinstance(error, UserError | UnusableResultError):
        return str(error)
    if isinstance(error, DeadlineExceededError):
        return f"It took longer than it may. Reference: {reference}."
    if isinstance(error, DeferredError):
        return f"It cannot be done. Reference: {reference}."
    return f"Something went wrong while it ran. Reference: {reference}."


def _clean(text: str, most: int) -> str:
    """Text that a database takes; of one that is too long, the end: there a traceback says what happened."""
    text = text.encode("utf-8", "replace").decode().replace("\0", "\N{REPLACEMENT CHARACTER}")
    return text if len(text) <= most else f"…{text[1 - most :]}"
