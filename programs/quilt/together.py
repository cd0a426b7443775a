"""Combines concurrent calls from several threads into one, so that they share a commit or a round trip."""

import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class _Call(Generic[Item, Answer]):
    """A call by one thread, and the call's result."""

    def __init__(self, item: Item) -> None:
        self.item = item
        self.answers: list[Answer] = []
        self.error: BaseException | None = None
        self.leads = False
        # The thread waits on this lock until its call is over, or until the thread becomes the leader.
        self.gate = threading.Lock()
        self.gate.acquire()


class Together(Generic[Item, Answer]):
    """Makes a call immediately or, if another call is running, combines it with other waiting calls.

    No call is delayed just to collect others. A thread that finds no leader becomes the leader, and makes
    all calls that are waiting by then.

    Args:
        make: a callable that returns the results for many items, in order; if it raises an exception, so does
            each of their calls.
        most: the maximum number of items per call.
    """

    def __init__(self, make: Callable[[Sequence[Item]], Sequence[Answer]], most: int = 100) -> None:
        self._make = make
        self._most = most
        self._lock = threading.Lock()
        self._waiting: list[_Call[Item, Answer]] = []
        self._is_led = False

    def __call__(self, item: Item) -> Answer:
        """Return the result for this item."""
        call: _Call[Item, Answer] = _Call(item)
        try:
            with self._lock:
                self._waiting.append(call)
                call.leads, self._is_led = not self._is_led, True
            if not call.leads:
                call.gate.acquire()
            if call.leads:
                self._lead(call)
        finally:
            # A deadline may interrupt a thread that is waiting, or that has just become the leader.
            self._leave(call)
        if call.error is not None:
            raise call.error
        return call.answers[0]

    def _lead(self, leader: _Call[Item, Answer]) -> None:
        """Make the waiting calls, starting with the leader's own."""
        with self._lock:
            calls, self._waiting = self._waiting[: self._most], self._waiting[self._most :]
        try:
            answers = self._make([call.item for call in calls])
            for call, answer in zip(calls, answers, strict=True):
                call.answers.append(answer)
        except BaseException as error:
            # This may be the deadline of the leader's own thread. The other calls fail too, and are retried.
            for call in calls:
                call.error = error
        finally:
            self._leave(leader)
            for call in calls:
                call.gate.release()

    def _leave(self, call: _Call[Item, Answer]) -> None:
        """Stop waiting. A leader passes its role to the first waiting call."""
        with self._lock:
            if call in self._waiting:
                self._waiting.remove(call)
            if not call.leads:
                return
            call.leads, self._is_led = False, bool(self._waiting)
            if self._waiting:
                self._waiting[0].leads = True
                self._waiting[0].gate.release()
