"""Calls an application's functions when tasks change their states.

::

    from lastacross import events

    def alarm(event: events.Event) -> None:
        print(event.queue, event.task, event.reason)

    events.subscribe("task.dead_letter", alarm)

Subscribe where the application is imported, for example in the module that ``script:`` names. A process
reports the steps that it makes itself: a web process the tasks that it adds, a worker the tasks that it runs.
The functions run in a thread of their own, one after another, so they do not hold up any task. An exception
in one is logged. docs/lifecycle.md lists the steps.
"""

import atexit
import collections
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from lastacross import logs
from lastacross.clock import SYSTEM

NAMES = (
    "task.add",
    "task.wait",
    "task.fire",
    "task.promote",
    "task.lease",
    "task.modify",
    "task.ack",
    "task.retry",
    "task.release",
    "task.rescue",
    "task.dead_letter",
    "task.run_now",
    "task.retry_dead",
    "task.delete",
    "task.purge",
    "task.cancel",
    "task.restore",
    "task.reroute",
)
"""The events: the steps of docs/lifecycle.md. ``*`` subscribes to all of them."""

MAX_WAITING = 10_000
# How long an exiting process waits for subscribers.
END_SECONDS = 2.0

_log = logs.get("lastacross.events")


@dataclass(frozen=True, slots=True)
class Event:
    """A step that one or more tasks have made.

    Attributes:
        name: one of ``NAMES``.
        at: when this process learned of it, in seconds since the epoch.
        queue: the tasks' queue; '' if a step that concerns several queues does not say which.
        task: the task's name; '' if a step that concerns many tasks does not name them.
        count: the number of tasks; 1 if ``task`` is given, and 0 if it is unknown.
        attempt: the attempt that was leased or has ended, from 1; 0 if this is not about an attempt.
        outcome: after ``task.rescue`` the new state: ``ready``, ``poison``, ``damaged`` or ``gone``.
        status: the HTTP status of a failed attempt, if there was one.
        reason: why an attempt failed.
        batch: the id of the batch that ``task.cancel`` cancels.
        error: the exception that a handler raised, if it ran in this process.
    """

    name: str
    at: float
    queue: str = ""
    task: str = ""
    count: int = 1
    attempt: int = 0
    outcome: str = ""
    status: int | None = None
    reason: str = ""
    batch: str = ""
    error: BaseException | None = None


Subscriber = Callable[[Event], object]

subscribers: dict[str, list[Subscriber]] = {}
"""The functions by event; empty if there are no subscribers, so that a step can check this without a call."""
_attempt: ContextVar["Attempt | None"] = ContextVar("lastacross_ended_attempt", default=None)


@dataclass(frozen=True, slots=True)
class Attempt:
    """What a worker knows about an attempt but the step that ends it does not."""

    number: int
    reason: str = ""
    error: BaseException | None = None


def subscribe(name: str, call: Subscriber) -> Callable[[], None]:
    """Call a function for each event with this name.

    Args:
        name: one of ``NAMES``, or ``*`` for all events.
        call: takes an ``Event``; its result is ignored.

    Returns:
        A function that ends the subscription.

    Raises:
        ValueError: there is no such event.
        TypeError: ``call`` is not callable.
    """
    if name != "*" and name not in NAMES:
        raise ValueError(f"there is no event {name!r}; the events are {', '.join(NAMES)} and *")
    if not callable(call):
        raise TypeError(f"{call!r} cannot be called with an event")
    names = NAMES if name == "*" else (name,)
    for each in names:
        subscribers[each] = [*subscribers.get(each, []), call]

    def unsubscribe() -> None:
        for each in names:
            left = list(subscribers.get(each, []))
            if call in left:
                left.remove(call)
            if left:
                subscribers[each] = left
            else:
                subscribers.pop(each, None)

    return unsubscribe


@contextmanager
def ending(attempt: Attempt) -> Iterator[None]:
    """Add these facts to the events of steps inside the ``with`` block."""
    token = _attempt.set(attempt)
    try:
        yield
    finally:
        _attempt.reset(token)


def emit(name: str, task_id: str = "", **values: object) -> None:
    """Report a step to its subscribers; returns immediately.

    Args:
        name: one of ``NAMES``.
        task_id: the task's id, or '' if ``values`` have a count.
        values: other fields of ``Event``.
    """
    if name not in subscribers:
        return
    queue, _, task = task_id.partition("_")
    fields: dict[str, object] = {"queue": queue, "task": task}
    known = _attempt.get()
    if known is not None:
        fields |= {"attempt": known.number, "reason": known.reason, "error": known.error}
    _dispatcher.put(Event(name, SYSTEM.now(), **{**fields, **values}))  # type: ignore[arg-type]


def flush(seconds: float = END_SECONDS) -> bool:
    """Wait until all events so far have been handled; returns False if that took longer."""
    return _dispatcher.flush(seconds)


class _Dispatcher:
    """Runs subscribers in a thread that starts with the first event."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: collections.deque[Event] = collections.deque()
        self._thread: threading.Thread | None = None
        self._is_busy = False
        self._dropped = 0

    def put(self, event: Event) -> None:
        """Queue an event; if subscribers are too slow, drop it."""
        with self._changed:
            if len(self._waiting) >= MAX_WAITING:
                self._dropped += 1
                return
            self._waiting.append(event)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="events", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def flush(self, seconds: float) -> bool:
        """Wait until the queue is empty and no subscriber is running."""
        with self._changed:
            return self._changed.wait_for(lambda: not (self._waiting or self._is_busy), seconds)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._is_busy = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: bool(self._waiting))
                event, self._is_busy = self._waiting.popleft(), True
                dropped, self._dropped = self._dropped, 0
            if dropped:
                _log.warning("events.drop", dropped=dropped, remedy="subscribers are too slow")
            for call in subscribers.get(event.name, ()):
                _call(call, event)


def _call(call: Subscriber, event: Event) -> None:
    try:
        call(event)
    except BaseException:
        # Even SystemExit must not end the thread, on which all other subscribers depend.
        _log.exception("events.subscriber_failed", event_name=event.name, queue=event.queue, task=event.task)


_dispatcher = _Dispatcher()


def _begin_again() -> None:
    """Forget the parent's thread and events in a forked process."""
    global _dispatcher
    _dispatcher = _Dispatcher()


os.register_at_fork(after_in_child=_begin_again)
atexit.register(lambda: flush(END_SECONDS))
