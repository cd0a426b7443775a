"""Deadlines of handlers: DeadlineExceededError, raised inside the handler's own thread.

It cannot interrupt a blocking call; a handler that has not ended 30 s later is reported as stuck, and
costs its process (App Engine ended the instance).
"""

import ctypes
import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from lastacross import logs
from lastacross.clock import SYSTEM, Clock
from lastacross.errors import DeadlineExceededError

GRACE_SECONDS = 30.0

T = TypeVar("T")

_log = logs.get("lastacross.worker")

_set_async_exc = ctypes.pythonapi.PyThreadState_SetAsyncExc
# Not py_object: that makes None an object, to be raised, where the C function wants NULL.
_set_async_exc.argtypes = [ctypes.c_ulong, ctypes.c_void_p]


@dataclass(slots=True, eq=False)
class _Watch:
    """One handler under way; ``at`` is the monotonic instant of its next step."""

    at: float
    thread_id: int
    label: str
    has_fired: bool = False


class Deadlines:
    """Watches the handlers of a process from one thread of its own.

    Args:
        on_stuck: called with the label of a handler that did not end ``GRACE_SECONDS`` after its deadline.
        clock: whose monotonic time counts.
    """

    def __init__(self, on_stuck: Callable[[str], None], clock: Clock = SYSTEM) -> None:
        self._on_stuck = on_stuck
        self._clock = clock
        # Handlers' threads take the plain lock: `with` on it leaves no gap between taking it and the
        # block. In the gap inside of Condition's own __enter__, our error would leave it locked for ever.
        self._mutex = threading.Lock()
        self._changed = threading.Condition(self._mutex)
        self._watches: dict[int, _Watch] = {}
        self._wakes_at = math.inf
        self._thread = threading.Thread(target=self._run, name="deadlines", daemon=True)
        self._is_running = False

    def start(self) -> None:
        """Begin to watch."""
        self._is_running = True
        self._thread.start()

    def stop(self) -> None:
        """Watch no longer."""
        with self._changed:
            self._is_running = False
            self._changed.notify()

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    @property
    def watched(self) -> int:
        """How many calls are under way."""
        return len(self._watches)

    def call(self, seconds: float, label: str, function: Callable[[], T]) -> T:
        """Call the function; raise DeadlineExceededError in it if it takes longer.

        The error is armed and disarmed under a lock, so that it cannot land after this call has ended.
        No context manager: the error could land inside of its machinery, before its end is reached.
        """
        watch = _Watch(self._clock.monotonic() + seconds, threading.get_ident(), label)
        try:
            try:
                self._arm(watch)
                return function()
            finally:
                self._disarm(watch)
        except DeadlineExceededError:
            # It may have been raised on the way into that `finally`.
            self._disarm(watch)
            raise

    def _arm(self, watch: _Watch) -> None:
        with self._mutex:
            self._watches[id(watch)] = watch
            if watch.at < self._wakes_at:
                self._changed.notify()

    def _disarm(self, watch: _Watch) -> None:
        while True:
            try:
                with self._mutex:
                    self._watches.pop(id(watch), None)
                    if watch.has_fired:
                        # Fired, and perhaps not yet raised: take it back before it hits other code.
                        _set_async_exc(watch.thread_id, None)
                    return
            except DeadlineExceededError:
                # It came as the function ended by itself, a moment too late to matter.
                continue

    def _run(self) -> None:
        while True:
            stuck = None
            with self._changed:
                if not self._is_running:
                    return
                first = min(self._watches.values(), key=lambda watch: watch.at, default=None)
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
            # The other deadlines of the process have only this thread.
            _log.exception("deadline.stuck", label=label)

    def _expire(self, watch: _Watch) -> str | None:
        if watch.has_fired:
            del self._watches[id(watch)]
            return watch.label
        watch.has_fired = True
        watch.at += GRACE_SECONDS
        _set_async_exc(watch.thread_id, id(DeadlineExceededError))
        return None
