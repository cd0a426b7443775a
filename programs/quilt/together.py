"""Calls that several threads make at one moment, made as one: one commit, one round trip for all of them."""

import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class _Call(Generic[Item, Answer]):
    """What one thread asked for, and what became of it."""

    def __init__(self, item: Item) -> None:
        self.item = item
        self.answers: list[Answer] = []
        self.error: BaseException | None = None
        self.leads = False
        # Its thread waits here until the call is over, or it is the one to lead.
        self.gate = threading.Lock()
        self.gate.acquire()


class Together(Generic[Item, Answer]):
    """Makes a call for one item at once, if no other is under way; else with all that came meanwhile.

    Nobody waits for others to come: whoever finds the way free goes, and takes along who is there.

    Args:
        make: answers for many items, in their order; what it raises is raised in each of their threads.
        most: items of one call.
    """

    def __init__(self, make: Callable[[Sequence[Item]], Sequence[Answer]], most: int = 100) -> None:
        self._make = make
        self._most = most
        self._lock = threading.Lock()
        self._waiting: list[_Call[Item, Answer]] = []
        self._is_led = False

    def __call__(self, item: Item) -> Answer:
        """The answer for this item."""
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
            # A deadline may end a thread that waits, or that was just told to lead.
            self._leave(call)
        if call.error is not None:
            raise call.error
        return call.answers[0]

    def _lead(self, leader: _Call[Item, Answer]) -> None:
        """Make the calls of all who wait; the leader is the first of them."""
        with self._lock:
            calls, self._waiting = self._waiting[: self._most], self._waiting[self._most :]
        try:
            answers = self._make([call.item for call in calls])
            for call, answer in zip(calls, answers, strict=True):
                call.answers.append(answer)
        except BaseException as error:
            # A deadline of this thread's, too: the others are tried again.
            for call in calls:
                call.error = error
        finally:
            self._leave(leader)
            for call in calls:
                call.gate.release()

    def _leave(self, call: _Call[Item, Answer]) -> None:
        """Wait no more; who leads hands that over to the first who waits."""
        with self._lock:
            if call in self._waiting:
                self._waiting.remove(call)
            if not call.leads:
                return
            call.leads, self._is_led = False, bool(self._waiting)
            if self._waiting:
                self._waiting[0].leads = True
                self._waiting[0].gate.release()
