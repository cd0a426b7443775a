"""Deadlines of handlers: DeadlineExceededError, raised inside the handler's own thread.

It cannot interrupt a blocking call; a handler that has not ended 30 s later is reported as stuck, and
costs its process (App Engine ended the instance).
"""

import contextlib
import ctypes
import heapq
import itertools
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from lastacross.clock import SYSTEM, Clock
from lastacross.errors import DeadlineExceededError

GRACE_SECONDS = 30.0

_set_async_exc = ctypes.pythonapi.PyThreadState_SetAsyncExc
_set_async_exc.argtypes = [ctypes.c_ulong, ctypes.py_object]


@dataclass(order=True)
class _Watch:
    """One handler under way."""

    at: float
    number: int
    thread_id: int = field(compare=False)
    label: str = field(compare=False)
    is_armed: bool = field(default=True, compare=False)
    has_fired: bool = field(default=False, compare=False)


class Deadlines:
    """Watches the handlers of a process from one thread of its own.

    Args:
        on_stuck: called with the label of a handler that did not end ``GRACE_SECONDS`` after its deadline.
        clock: whose monotonic time counts.
    """

    def __init__(self, on_stuck: Callable[[str], None], clock: Clock = SYSTEM) -> None:
        self._on_stuck = on_stuck
        self._clock = clock
        self._lock = threading.Condition()
        self._watches: list[_Watch] = []
        self._numbers = itertools.count()
        self._thread = threading.Thread(target=self._run, name="deadlines", daemon=True)
        self._is_running = False

    def start(self) -> None:
        """Begin to watch."""
        self._is_running = True
        self._thread.start()

    def stop(self) -> None:
        """Watch no longer."""
        with self._lock:
            self._is_running = False
            self._lock.notify()

    @contextlib.contextmanager
    def watch(self, seconds: float, label: str) -> Iterator[None]:
        """Raise DeadlineExceededError in the calling thread if the block takes longer.

        It is armed and disarmed under a lock, so that the error cannot land after the block has ended.
        """
        watch = _Watch(self._clock.monotonic() + seconds, next(self._numbers), threading.get_ident(), label)
        with self._lock:
            heapq.heappush(self._watches, watch)
            if self._watches[0] is watch:
                self._lock.notify()
        try:
            try:
                yield
            finally:
                self._disarm(watch)
        except DeadlineExceededError:
            # It may have been raised on the way into that `finally`.
            self._disarm(watch)
            raise

    def _disarm(self, watch: _Watch) -> None:
        while True:
            try:
                with self._lock:
                    watch.is_armed = False
                    if watch.has_fired:
                        # Fired, and perhaps not yet raised: take it back before it hits other code.
                        _set_async_exc(ctypes.c_ulong(watch.thread_id), None)
                    return
            except DeadlineExceededError:
                # It came as the block ended by itself: the work was done, a moment too late to matter.
                continue

    def _run(self) -> None:
        while True:
            stuck = None
            with self._lock:
                if not self._is_running:
                    return
                now = self._clock.monotonic()
                while self._watches and not self._watches[0].is_armed:
                    heapq.heappop(self._watches)
                if not self._watches or self._watches[0].at > now:
                    self._lock.wait(self._watches[0].at - now if self._watches else None)
                    continue
                stuck = self._expire(heapq.heappop(self._watches))
            if stuck is not None:
                self._on_stuck(stuck)

    def _expire(self, watch: _Watch) -> str | None:
        if watch.has_fired:
            return watch.label
        watch.has_fired = True
        _set_async_exc(ctypes.c_ulong(watch.thread_id), ctypes.py_object(DeadlineExceededError))
        watch.at += GRACE_SECONDS
        heapq.heappush(self._watches, watch)
        return None
