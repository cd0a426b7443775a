"""Records the outcome of each attempt: the task is done, will be retried, or is a dead letter."""

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from lastacross import events, logs
from lastacross.broker import Broker, FailedAttempt, Leased, next_delay_seconds
from lastacross.clock import SYSTEM
from lastacross.config import RetryParameters
from lastacross.errors import StoreUnavailableError
from lastacross.metrics import Attempt
from lastacross.worker.delivery import Outcome, seen
from lastacross.worker.isolation import Crashed, Stuck

DEFAULT_RETRY = RetryParameters()
MAX_REASON_CHARACTERS = 2000
LEASE_LOST = "the lease was lost"
# The ways in which attempts end, as the metrics name them.
DONE, LOST = "done", "lost"

_log = logs.get("lastacross.worker")


class EndListener(Protocol):
    """Called for each attempt that has ended, after Redis has recorded its outcome; must not raise.

    ``state`` is ``done``, ``failed`` (now a dead letter), or ``open`` if another attempt will follow.
    """

    def __call__(
        self, task: Leased, at: float, state: str, *, status: int | None = None, reason: str = ""
    ) -> None:
        """Handle the end of an attempt; ``at`` is in seconds since the epoch."""


def no_listener(task: Leased, at: float, state: str, *, status: int | None = None, reason: str = "") -> None:
    """Do nothing when an attempt ends."""


def no_counter(attempts: Iterable[Attempt]) -> None:
    """Do not count attempts."""


class OutcomeRecorder:
    """Records outcomes in Redis.

    Args:
        broker: the steps.
        retry_of: a callable that returns a queue's retry parameters.
        on_end: a callable that is called after each attempt.
        count: a callable that counts the attempts of a call for the metrics.
        worker: the process's name in the histories of failed tasks.
    """

    def __init__(
        self,
        broker: Broker,
        retry_of: Callable[[str], RetryParameters | None],
        on_end: EndListener = no_listener,
        count: Callable[[Iterable[Attempt]], None] = no_counter,
        *,
        worker: str = "",
    ) -> None:
        self._broker = broker
        self._retry_of = retry_of
        self._on_end = on_end
        self._count = count
        self._worker = worker
        # The last failed attempt's task, time and reason.
        self.last_failure: tuple[str, float, str] | None = None
        self.done = 0
        self.failed = 0

    def record(self, outcomes: Sequence[Outcome]) -> None:
        """Record every outcome; an outcome whose lease was lost is only logged and changes nothing.

        Raises:
            StoreUnavailableError: Redis does not answer; record the same outcomes again.
        """
        try:
            self._record(outcomes)
        except StoreUnavailableError:
            raise
        except Exception:
            self._record_each(outcomes)

    def _record_each(self, outcomes: Sequence[Outcome]) -> None:
        """Record outcomes one by one after a joint failure; if one fails again, its lease will expire."""
        for outcome in outcomes:
            try:
                self._record([outcome])
            except StoreUnavailableError:
                raise
            except Exception:
                remedy = "its lease is left to run out"
                _log.exception(
                    "task.settle_failed", queue=outcome.task.queue, task=outcome.task.name, remedy=remedy
                )

    def _record(self, outcomes: Sequence[Outcome]) -> None:
        done: list[Outcome] = []
        failed: list[Outcome] = []
        for outcome in outcomes:
            (done if outcome.is_success else failed).append(outcome)
        if done:
            held = self._broker.ack([outcome.task for outcome in done])
            self._note_done(done, held)
        for outcome in failed:
            ended = self._record_failure(outcome)
            self.failed += ended != LOST
            self._count([_attempt(outcome, ended, self._clock_offset())])

    def _note_done(self, done: Sequence[Outcome], held: Sequence[bool]) -> None:
        now, offset = self._broker.now(), self._clock_offset()
        self._count(
            [
                _attempt(outcome, DONE if is_held else LOST, offset)
                for outcome, is_held in zip(done, held, strict=True)
            ]
        )
        for outcome, is_held in zip(done, held, strict=True):
            task = outcome.task
            if is_held:
                self.done += 1
                self._on_end(task, now, DONE, status=outcome.status)
            else:
                _log.warning("task.ack", queue=task.queue, task=task.name, refused=LEASE_LOST)

    def _clock_offset(self) -> float:
        """The difference between the Redis server's time and this machine's monotonic time."""
        return self._broker.now() - SYSTEM.monotonic()

    def _record_failure(self, outcome: Outcome) -> str:
        """Record a failed attempt; returns how it ended for the metrics."""
        if not events.subscribers:
            return self._end_failed(outcome)
        attempt = events.Attempt(outcome.task.attempt, outcome.reason[:MAX_REASON_CHARACTERS], outcome.error)
        with events.ending(attempt):
            return self._end_failed(outcome)

    def _end_failed(self, outcome: Outcome) -> str:
        task = outcome.task
        fields = {**seen(task), "reason": outcome.reason}
        if isinstance(outcome, Crashed):
            became = self._broker.crash(task)
            _log.error("task.crash", **fields, outcome=became)
            return LOST if became == "gone" else "crashed"
        now = self._broker.now()
        self.last_failure = (task.id, now, outcome.reason)
        delay = self._delay_seconds(outcome, now)
        attempt = self._history_entry(outcome, now, delay)
        if delay is None:
            reason = outcome.reason[:MAX_REASON_CHARACTERS]
            is_held = self._broker.dead_letter(
                task, outcome.status, reason, attempt=attempt, handler=outcome.handler
            )
            event, level = "task.dead_letter", logging.ERROR
        else:
            is_held = self._broker.retry(
                task,
                now + delay,
                outcome.status,
                was_reached=outcome.was_reached,
                # It would block all threads of its worker again.
                runs_alone=isinstance(outcome, Stuck),
                attempt=attempt,
                trace=outcome.trace,
            )
            event, level = "task.retry", logging.INFO
            fields["delay_seconds"] = round(delay, 3)
        if is_held:
            _log.log(level, event, **fields, status=outcome.status)
            state = "failed" if delay is None else "open"
            self._on_end(task, now, state, status=outcome.status, reason=outcome.reason)
            return "dead" if delay is None else "retried"
        _log.warning(event, **fields, refused=LEASE_LOST)
        return LOST

    def _history_entry(self, outcome: Outcome, now: float, delay: float | None) -> str:
        """The entry for the task's history."""
        # The outcome of a task that never reached a thread has no times.
        seconds = outcome.ended_at - outcome.started_at
        age = SYSTEM.monotonic() - outcome.started_at if outcome.started_at else 0.0
        return FailedAttempt(
            started_at=now - age,
            seconds=seconds,
            status=outcome.status,
            reason=outcome.reason,
            worker=self._worker,
            next_at=None if delay is None else now + delay,
        ).dump()

    def _delay_seconds(self, outcome: Outcome, now: float) -> float | None:
        if outcome.is_final:
            return None
        task = outcome.task
        parameters = task.retry or self._retry_of(task.queue) or DEFAULT_RETRY
        age_seconds = now - task.first_try_at
        return next_delay_seconds(parameters, task.failures + 1, age_seconds)


def _attempt(outcome: Outcome, ended: str, offset: float) -> Attempt:
    """An attempt as the metrics count it; ``offset`` converts monotonic times to the server's."""
    task = outcome.task
    try:
        wait_seconds = outcome.started_at + offset - float(task.fields[b"eta"])
    except (KeyError, ValueError):
        # The record is damaged, as the attempt has already found out.
        wait_seconds = 0.0
    seconds = outcome.ended_at - outcome.started_at
    return (task.queue, outcome.handler, ended, seconds, wait_seconds)
