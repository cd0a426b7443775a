"""Enforces handlers' deadlines by raising DeadlineExceededError in the handler's own thread.

A coroutine is cancelled by its event loop instead; if it prevents that, the error is raised inside it. The
error cannot interrupt a blocking call. A handler that is still running 30 s later is reported as stuck, and
its process is replaced. (App Engine terminated the instance.)
"""

import ctypes
import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

from lastacross import cancellation, logs
from lastacross.clock import SYSTEM, Clock
from lastacross.errors import DeadlineExceededError

GRACE_SECONDS = 30.0
# How long an event loop may take to cancel a coroutine.
CANCEL_SECONDS = 1.0

P = ParamSpec("P")
T = TypeVar("T")

_log = logs.get("lastacross.worker")

_set_async_exc = ctypes.pythonapi.PyThreadState_SetAsyncExc
# Do not use py_object: it would pass None as the object to raise, but the C function expects NULL.
_set_async_exc.argtypes = [ctypes.c_ulong, ctypes.c_void_p]


@dataclass(slots=True, eq=False)
class _Watch:
    """A running handler; ``at`` is the monotonic time at which the next step is due."""

    at: float
    thread_id: int
    label: str
    has_fired: bool = False
    cancelled: cancellation.Call | None = None


class Deadlines:
    """Watches a process's handlers from a single thread.

    Args:
        on_stuck: a callable that receives the label of a handler that is still running ``GRACE_SECONDS``
            after its deadline.
        clock: a clock whose monotonic time measures the deadlines.
    """

    def __init__(self, on_stuck: Callable[[str], None], clock: Clock = SYSTEM) -> None:
        self._on_stuck = on_stuck
        self._clock = clock
        # Handlers' threads need the lock only beside an expired watch, because whoever removes a watch from
        # `_watches` owns it. They use the plain lock, because `with` leaves no gap between acquiring it and
        # the block. Condition's own __enter__ has such a gap, in which our error would leave the lock held
        # forever.
        self._mutex = threading.Lock()
        self._changed = threading.Condition(self._mutex)
        self._watches: dict[int, _Watch] = {}
        self._wakes_at = math.inf
        self._thread = threading.Thread(target=self._run, name="deadlines", daemon=True)
        self._is_running = False

    def start(self) -> None:
        """Start watching."""
        self._is_running = True
        self._thread.start()

    def stop(self) -> None:
        """Stop watching."""
        with self._changed:
            self._is_running = False
            self._changed.notify()

    @property
    def is_alive(self) -> bool:
        """Whether the watching thread is running."""
        return self._thread.is_alive()

    @property
    def watched(self) -> int:
        """The number of calls in progress."""
        return len(self._watches)

    def call(
        self, seconds: float, label: str, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Call the function, and raise DeadlineExceededError in it if it exceeds its deadline.

        Either this call or the watching thread removes the watch, so the error cannot land after this call
        has ended. A context manager would not work, because the error could land inside its machinery before
        its exit code runs.
        """
        watch = _Watch(self._clock.monotonic() + seconds, threading.get_ident(), label)
        try:
            try:
                self._arm(watch)
                return function(*args, **kwargs)
            finally:
                self._disarm(watch)
        except DeadlineExceededError:
            # The error may have been raised just before that `finally` was entered.
            self._disarm(watch)
            raise

    def _arm(self, watch: _Watch) -> None:
        self._watches[id(watch)] = watch
        if watch.at < self._wakes_at:
            with self._mutex:
                self._changed.notify()

    def _disarm(self, watch: _Watch) -> None:
        while True:
            try:
                if self._watches.pop(id(watch), None) is None:
                    # The watching thread may be at work on it, so wait until it is done.
                    with self._mutex:
                        self._watches.pop(id(watch), None)
                if watch.has_fired:
                    # The error is armed but may not have been raised yet, so cancel it before it hits other
                    # code.
                    _set_async_exc(watch.thread_id, None)
                return
            except DeadlineExceededError:
                # The error arrived just as the function returned, so it no longer matters.
                continue

    def _run(self) -> None:
        while True:
            stuck = None
            with self._changed:
                if not self._is_running:
                    return
                # A handler that starts during the search may be missed, so it must notify this thread.
                self._wakes_at = math.inf
                first = min(list(self._watches.values()), key=lambda watch: watch.at, default=None)
                wait_seconds = first.at - self._clock.monotonic() if first else math.inf
                if first is None or wait_seconds > 0:
                    self._wakes_at = first.at if first else math.inf
                    self._changed.wait(min(wait_seconds, threading.TIMEOUT_MAX))
                    continue
                stuck = self._expire(first)
            if stuck is not None:
                self._tell(stuck)

    def _tell(self, label: str) -> None:
        try:
            self._on_stuck(label)
        except Exception:
            # All other deadlines in this process depend on this thread.
            _log.exception("deadline.stuck", label=label)

    def _expire(self, watch: _Watch) -> str | None:
        if self._watches.pop(id(watch), None) is None:
            # Its handler has just ended.
            return None
        if watch.has_fired:
            return watch.label
        self._interrupt(watch)
        self._watches[id(watch)] = watch
        return None

    def _interrupt(self, watch: _Watch) -> None:
        if watch.cancelled is None:
            call = cancellation.running_in(watch.thread_id)
            if call is not None and call.request():
                watch.cancelled = call
                watch.at += CANCEL_SECONDS
                return
        watch.has_fired = True
        watch.at += GRACE_SECONDS
        if watch.cancelled is None or not watch.cancelled.is_cancelled:
            _set_async_exc(watch.thread_id, id(DeadlineExceededError))
