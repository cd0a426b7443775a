"""Threads that start when there is work and end when there is none; a process can exit without them."""

import queue
import threading
from collections.abc import Callable

from lastacross import logs

IDLE_SECONDS = 10.0

_log = logs.get("lastacross.urlfetch")


class Threads:
    """Runs functions in a limited number of threads; the other functions wait their turn.

    Args:
        name: the threads' name.
        most: the maximum number of threads.
    """

    def __init__(self, name: str, most: int) -> None:
        self._name = name
        self._most = most
        self._lock = threading.Lock()
        self._work: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._count = 0
        # Functions that no thread has taken yet. A new thread starts only if fewer threads are idle.
        self._waiting = 0
        self._idle = 0

    def run(self, function: Callable[[], None]) -> None:
        """Call the function in a thread as soon as possible; it must not raise."""
        with self._lock:
            self._waiting += 1
            is_wanted = self._waiting > self._idle and self._count < self._most
            self._count += is_wanted
        self._work.put(function)
        if is_wanted:
            threading.Thread(target=self._serve, name=self._name, daemon=True).start()

    def _serve(self) -> None:
        while True:
            with self._lock:
                self._idle += 1
            function = self._next()
            if function is None:
                return
            try:
                function()
            except Exception:
                # The function should not have raised. If the thread ended here, it would still be counted.
                _log.exception("thread.failed", thread=self._name)

    def _next(self) -> Callable[[], None] | None:
        """The next function, or None if there was none for a while; this thread then no longer counts."""
        while True:
            try:
                function = self._work.get(timeout=IDLE_SECONDS)
            except queue.Empty:
                with self._lock:
                    if self._waiting:
                        continue  # the function is being added right now
                    self._idle -= 1
                    self._count -= 1
                    return None
            with self._lock:
                self._waiting -= 1
                self._idle -= 1
            return function
