"""Records the outcome of each attempt: the task is done, will be retried, or is a dead letter."""

import logging
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from lastacross import logs
from lastacross.broker import Broker, Leased, next_delay_seconds
from lastacross.config import RetryParameters
from lastacross.errors import StoreUnavailableError
from lastacross.worker.delivery import Outcome
from lastacross.worker.isolation import Crashed, Stuck

DEFAULT_RETRY = RetryParameters()
MAX_REASON_CHARACTERS = 2000
LEASE_LOST = "the lease was lost"

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


class OutcomeRecorder:
    """Records outcomes in Redis."""

    def __init__(
        self,
        broker: Broker,
        retry_of: Callable[[str], RetryParameters | None],
        on_end: EndListener = no_listener,
    ) -> None:
        self._broker = broker
        self._retry_of = retry_of
        self._on_end = on_end
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
        done = [outcome.task for outcome in outcomes if outcome.is_success]
        statuses = {outcome.task.entry: outcome.status for outcome in outcomes}
        for task, is_held in zip(done, self._broker.ack(done), strict=True):
            if is_held:
                self.done += 1
                self._on_end(task, self._broker.now(), "done", status=statuses[task.entry])
            else:
                _log.warning("task.ack", queue=task.queue, task=task.name, refused=LEASE_LOST)
        for outcome in outcomes:
            if not outcome.is_success:
                self.failed += self._record_failure(outcome)

    def _record_failure(self, outcome: Outcome) -> bool:
        """Record a failed attempt; returns whether it counted, that is, whether the lease was still held."""
        task = outcome.task
        fields: dict[str, Any] = {"queue": task.queue, "task": task.name, "attempt": task.attempt}
        fields["reason"] = outcome.reason
        if isinstance(outcome, Crashed):
            became = self._broker.crash(task)
            _log.error("task.crash", **fields, outcome=became)
            return became != "gone"
        now = self._broker.now()
        delay = self._delay_seconds(outcome, now)
        if delay is None:
            is_held = self._broker.dead_letter(task, outcome.status, outcome.reason[:MAX_REASON_CHARACTERS])
            event, level = "task.dead_letter", logging.ERROR
        else:
            is_held = self._broker.retry(
                task,
                now + delay,
                outcome.status,
                was_reached=outcome.was_reached,
                # It would block all threads of its worker again.
                runs_alone=isinstance(outcome, Stuck),
            )
            event, level = "task.retry", logging.INFO
            fields["delay_seconds"] = round(delay, 3)
        if is_held:
            _log.log(level, event, **fields, status=outcome.status)
            state = "failed" if delay is None else "open"
            self._on_end(task, now, state, status=outcome.status, reason=outcome.reason)
        else:
            _log.warning(event, **fields, refused=LEASE_LOST)
        return is_held

    def _delay_seconds(self, outcome: Outcome, now: float) -> float | None:
        if outcome.is_final:
            return None
        task = outcome.task
        parameters = task.retry or self._retry_of(task.queue) or DEFAULT_RETRY
        age_seconds = now - task.first_try_at
        return next_delay_seconds(parameters, task.failures + 1, age_seconds)
