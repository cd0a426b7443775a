"""Counts refused deliveries for the console.

Anybody may send bad tokens, so a process counts them in memory and adds them to Redis at most once a second,
as part of a refusal. Refusals just before a quiet period are added with the next one, or never if that comes
more than an hour later. Redis keeps one count per minute for a day.
"""

import threading
from collections import Counter
from typing import Any

from lastacross import logs, store
from lastacross.clock import SYSTEM, Clock
from lastacross.store import ResponseError, Store, refused_deliveries_key, translated_errors

WRITE_SECONDS = 1.0
"""A process writes at most once in this period."""
OUTAGE_SECONDS = 10.0
"""A process waits this long after a failed write before it retries, because a write may block its thread."""
KEPT_SECONDS = 86_400
_MINUTE = 60
_HOUR_MINUTES = 60

_log = logs.get(__name__)


class RefusedDeliveries:
    """Counts the refusals of one process; any thread may call it."""

    def __init__(self, clock: Clock = SYSTEM) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        # By minute of the monotonic clock, because a wrong system time may be the reason for the refusals.
        self._pending: Counter[int] = Counter()
        self._write_at = clock.monotonic()

    def count(self) -> None:
        """Count one refusal. It never raises, because the refusal itself must be answered."""
        with self._lock:
            now = self._clock.monotonic()
            minute = int(now // _MINUTE)
            self._pending[minute] += 1
            for old in [each for each in self._pending if each <= minute - _HOUR_MINUTES]:
                del self._pending[old]
            if now < self._write_at:
                return
            # No other thread writes until this one has set the time of the next write.
            self._write_at = float("inf")
            pending, self._pending = self._pending, Counter()
        pause = WRITE_SECONDS
        try:
            _write(store.current(), {minute - each: number for each, number in pending.items()})
        except Exception as error:
            pause = OUTAGE_SECONDS
            _log.warning("delivery.count_failed", error=str(error))
            with self._lock:
                self._pending.update(pending)
        finally:
            self._write_at = self._clock.monotonic() + pause


def _write(opened: Store, by_age: dict[int, int]) -> None:
    """Add the numbers of refusals, keyed by their age in minutes."""
    present = int(opened.now() // _MINUTE)
    with translated_errors(), opened.redis.pipeline(transaction=False) as pipeline:
        for age, number in by_age.items():
            hour, minute = divmod(present - age, _HOUR_MINUTES)
            pipeline.hincrby(refused_deliveries_key(hour), str(minute), number)
            pipeline.expire(refused_deliveries_key(hour), KEPT_SECONDS)
        pipeline.execute()


def refused_in_last_hour(opened: Store) -> int:
    """The number of deliveries that all processes have refused in the last 60 minutes, in one round trip.

    Raises:
        StoreUnavailableError: Redis is unavailable.
    """
    end = int(opened.now() // _MINUTE) + 1
    first = end - _HOUR_MINUTES
    hours = sorted({first // _HOUR_MINUTES, (end - 1) // _HOUR_MINUTES})
    with translated_errors(), opened.redis.pipeline(transaction=False) as pipeline:
        for hour in hours:
            pipeline.hgetall(refused_deliveries_key(hour))
        answers: list[Any] = pipeline.execute(raise_on_error=False)
    found = 0
    for hour, answer in zip(hours, answers, strict=True):
        if isinstance(answer, ResponseError):
            continue  # Another program has written a key of a different type.
        if isinstance(answer, Exception):
            with translated_errors():
                raise answer
        for field, number in answer.items():
            if field.isdigit() and number.isdigit():
                found += int(number) if first <= hour * _HOUR_MINUTES + int(field) < end else 0
    return found
