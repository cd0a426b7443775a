"""Counts a process's attempts in memory, and adds them to Redis once a second."""

import threading
from collections.abc import Iterable

from lastacross import logs
from lastacross.errors import StoreUnavailableError
from lastacross.metrics.counts import (
    BUCKETS,
    FIRST_TIME_INDEX,
    FIRST_WAIT_INDEX,
    OUTCOMES,
    SECONDS_INDEX,
    WAIT_SECONDS_INDEX,
    Deltas,
)
from lastacross.metrics.storage import HANDLER, OTHER, QUEUE, write
from lastacross.store import Store

WRITE_SECONDS = 1.0
# The maximum number of names whose counts wait for Redis. While it is unavailable, no task is leased, so
# there are few.
MAX_WAITING_NAMES = 1000
LAST_BUCKET = BUCKETS - 1

_log = logs.get("lastacross.metrics")


Attempt = tuple[str, str, str, float, float]
"""An attempt that has ended; it is a plain tuple, because a worker creates one for every task.

It consists of the queue, the handler ('' if the attempt reached none), one of ``OUTCOMES``, the running
time, and the time from the task's eta to its start. Times are in seconds.
"""


class Recorder:
    """Collects attempts, and adds them to Redis in a thread.

    Attempts in the last second before a process is killed are not counted. If the reply to a write is lost,
    its second may be counted twice.

    Args:
        store: the Redis to write to.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._counted: dict[tuple[str, str, str, int, int], list[float]] = {}
        self._waiting: dict[tuple[str, str], Deltas] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="metrics", daemon=True)

    def record(self, attempts: Iterable[Attempt]) -> None:
        """Count attempts; this only adds to numbers in memory."""
        with self._lock:
            counted = self._counted
            for queue, handler, outcome, seconds, wait_seconds in attempts:
                # This runs for every task. A bucket's number is the bit length of its milliseconds, capped in
                # `_add`.
                key = (
                    queue,
                    handler,
                    outcome,
                    int(seconds * 1000).bit_length(),
                    int(wait_seconds * 1000).bit_length() if wait_seconds > 0 else 0,
                )
                sums = counted.get(key)
                if sums is None:
                    counted[key] = [1, seconds, wait_seconds]
                else:
                    sums[0] += 1
                    sums[1] += seconds
                    sums[2] += wait_seconds

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Write what is left, and end the thread."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    @property
    def is_alive(self) -> bool:
        """Whether the thread is running."""
        return self._thread.is_alive()

    def flush(self) -> None:
        """Add everything recorded so far to Redis.

        Raises:
            StoreUnavailableError: Redis does not answer; the numbers are kept for the next call.
        """
        with self._lock:
            counted, self._counted = self._counted, {}
        for key, sums in counted.items():
            self._add(key, sums)
        if self._waiting:
            write(self._store, self._waiting)
            self._waiting = {}

    def _add(self, key: tuple[str, str, str, int, int], sums: list[float]) -> None:
        queue, handler, outcome, time_bits, wait_bits = key
        number = int(sums[0])
        numbers = {
            OUTCOMES.index(outcome): number,
            FIRST_TIME_INDEX + min(time_bits, LAST_BUCKET): number,
            FIRST_WAIT_INDEX + min(wait_bits, LAST_BUCKET): number,
            SECONDS_INDEX: round(sums[1] * 1e6),
            WAIT_SECONDS_INDEX: round(max(0.0, sums[2]) * 1e6),
        }
        for kind, name in ((QUEUE, queue), (HANDLER, handler)):
            if not name:
                continue
            place = (kind, name)
            if place not in self._waiting and len(self._waiting) >= MAX_WAITING_NAMES:
                place = (kind, OTHER)
            deltas = self._waiting.setdefault(place, {})
            for index, more in numbers.items():
                deltas[index] = deltas.get(index, 0) + more

    def _run(self) -> None:
        is_last = False
        while not is_last:
            is_last = self._stopping.wait(WRITE_SECONDS)
            try:
                self.flush()
            except StoreUnavailableError as error:
                _log.warning("metrics.write", error=str(error))
            except Exception:
                # A statistic must never stop its process from working.
                _log.exception("metrics.write_failed")
