"""Lets a deadline cancel the coroutine that a thread is running.

An exception raised in a thread cannot interrupt a wait in its event loop, so the deadline asks the loop
instead. This module knows nothing of deadlines or asyncio, so that both sides may use it.
"""

import threading
from collections.abc import Callable
from typing import Any, Protocol


class Loop(Protocol):
    """The part of an event loop that is used here."""

    def call_soon_threadsafe(self, callback: Callable[[], object]) -> Any:
        """Call the callback in the loop's thread."""

    def stop(self) -> None:
        """Make the loop return to its caller."""


class Call:
    """A coroutine that is running in an event loop.

    Args:
        loop: the event loop.
        cancel: a callable that cancels the coroutine; it is called in the loop's thread.
    """

    def __init__(self, loop: Loop, cancel: Callable[[], object]) -> None:
        self.loop = loop
        self._cancel = cancel
        self.is_cancelled = False

    def request(self) -> bool:
        """Ask the loop to cancel the coroutine; returns False if the loop is closed."""
        try:
            self.loop.call_soon_threadsafe(self._be_cancelled)
        except RuntimeError:
            return False
        return True

    def _be_cancelled(self) -> None:
        self.is_cancelled = True
        self._cancel()


# Maps each thread to the coroutine that it is running. Each thread has its own key, so no lock is needed.
_calls: dict[int, Call] = {}


def begin(call: Call, *waiting: int) -> None:
    """Record that this thread is running this coroutine, for which the ``waiting`` threads are waiting."""
    for thread_id in (threading.get_ident(), *waiting):
        _calls[thread_id] = call


def end(*waiting: int) -> None:
    """Record that this thread is no longer running a coroutine."""
    for thread_id in (threading.get_ident(), *waiting):
        _calls.pop(thread_id, None)


def running_in(thread_id: int) -> Call | None:
    """Return the coroutine that the thread is running, or None."""
    return _calls.get(thread_id)
