"""A worker process's threads that run tasks, and the attempts they make.

The main thread leases tasks and records their outcomes. A runner takes the next leased task, delivers it, and
leaves its outcome for the main thread. Each running suspect has a thread of its own, which passes it on to an
isolated process.
"""

import collections
import queue
import threading
from collections.abc import Callable, Iterable

from lastacross import logs, tracing
from lastacross.broker import Broker, Leased, delivering, readable
from lastacross.clock import SYSTEM, Clock
from lastacross.errors import StoreUnavailableError
from lastacross.worker.delivery import DEFAULT_DEADLINE_SECONDS, Delivery, Outcome, current_of, seen
from lastacross.worker.isolation import IsolatedProcesses
from lastacross.worker.remote import RemoteDelivery
from lastacross.worker.started import StartedTable

# A suspect that has waited for a lane for this long is released, because another process may have a free one.
SUSPECT_WAIT_SECONDS = 1.0
# How many times a process releases the same suspect. It leases the task again if no other process has a free
# lane.
MAX_SUSPECT_RELEASES = 3
_MAX_RELEASED = 1000

_log = logs.get("lastacross.worker")


class Attempts:
    """Makes attempts, as long as the task's lease is still held."""

    def __init__(
        self,
        delivery: Delivery,
        isolated: IsolatedProcesses,
        remote: RemoteDelivery | None,
        *,
        broker: Broker,
        lease_seconds: float,
        is_held: Callable[[Leased], bool],
    ) -> None:
        self._delivery = delivery
        self._isolated = isolated
        self._remote = remote
        self._broker = broker
        self._lease_seconds = lease_seconds
        self._is_held = is_held

    def make(self, task: Leased) -> Outcome:
        """Run one attempt to completion."""
        return self._make(task) if tracing.active is None else self._traced(self._make, task)

    def make_alone(self, task: Leased) -> Outcome:
        """Run a suspect task in isolation, unless it is for another machine."""
        alone = self._make_alone
        return alone(task) if tracing.active is None else self._traced(alone, task)

    @staticmethod
    def _traced(make: Callable[[Leased], Outcome], task: Leased) -> Outcome:
        """Make an attempt inside the span of its delivery."""
        assert tracing.active is not None
        outcome: Outcome | None = None
        try:
            with tracing.active.delivering(task.delivered) as span:
                outcome = make(task)
                outcome.trace = tracing.active.traceparent()
                if not outcome.is_success:
                    span.note(reason=outcome.reason)
        except Exception:
            # The attempt has ended, so an exporter's error must not change its outcome.
            if outcome is None:
                raise
            _log.exception("trace.failed", **seen(task))
        assert outcome is not None
        return outcome

    def _make(self, task: Leased) -> Outcome:
        if not self._is_held(task):
            return Outcome(task, None, "its lease was lost before it started")
        problem = readable.problem(task.fields)
        if problem is not None:
            return Outcome(task, None, problem, is_final=True, was_reached=False)
        if self._remote is not None and self._remote.serves(task.group):
            with delivering(current_of(task)):
                return self._remote.deliver(task)
        return self._delivery.deliver(task)

    def _make_alone(self, task: Leased) -> Outcome:
        is_readable = readable.problem(task.fields) is None
        if not self._is_held(task) or not is_readable or self._is_remote(task):
            return self._make(task)
        try:
            # If the task takes the whole machine down, the next rescue must know that it had started.
            if not self._broker.renew([task], {task.entry}, self._lease_seconds)[0]:
                return Outcome(task, None, "its lease was lost before it started")
        except StoreUnavailableError as error:
            _log.warning("worker.redis", error=str(error))
        with delivering(current_of(task)):
            return self._isolated.deliver(task)

    def _is_remote(self, task: Leased) -> bool:
        return self._remote is not None and self._remote.serves(task.group)


class Runners:
    """Threads that run tasks.

    Args:
        threads: the number of concurrent deliveries.
        deliver: runs one attempt.
        deliver_suspect: a callable that runs one attempt in an isolated process.
        suspect_lanes: the number of suspects that may run concurrently.
        table: the table in which each thread records its running task.
        on_outcome: a callable that a runner calls when an outcome is ready for ``take_outcomes``.
        deadline_seconds: the deadline of tasks that have none of their own.
        clock: a clock whose monotonic time tells how long tasks have been running.
    """

    def __init__(
        self,
        threads: int,
        deliver: Callable[[Leased], Outcome],
        *,
        deliver_suspect: Callable[[Leased], Outcome],
        suspect_lanes: int,
        table: StartedTable | None,
        on_outcome: Callable[[], None],
        deadline_seconds: float = DEFAULT_DEADLINE_SECONDS,
        clock: Clock = SYSTEM,
    ) -> None:
        self.threads = threads
        self._deliver = deliver
        self._deliver_suspect = deliver_suspect
        self._table = table
        self._on_outcome = on_outcome
        self._deadline_seconds = deadline_seconds
        self._clock = clock
        self._waiting: queue.SimpleQueue[Leased | None] = queue.SimpleQueue()
        # The suspects that are waiting for a lane, and since when.
        self._suspects: collections.deque[tuple[Leased, float]] = collections.deque()
        # Task id → how many times it was released because it had to wait.
        self._releases: collections.Counter[str] = collections.Counter()
        self._suspects_lock = threading.Lock()
        # The slots of lanes that run no suspect.
        self._free_lanes = list(range(threads, threads + suspect_lanes))
        self._outcomes: queue.SimpleQueue[Outcome] = queue.SimpleQueue()
        # Maps each slot to its running task and start time; each thread has its own key, so no lock is
        # needed.
        self.running: dict[int, tuple[Leased, float]] = {}
        self.last_start = clock.monotonic()
        self._all = [
            threading.Thread(target=self._run, args=(slot,), name=f"runner-{slot}", daemon=True)
            for slot in range(threads)
        ]

    def start(self) -> None:
        """Start the threads."""
        for thread in self._all:
            thread.start()

    def ended_threads(self) -> list[str]:
        """The names of the threads that ended without being stopped."""
        return [thread.name for thread in self._all if not thread.is_alive()]

    def stop(self) -> None:
        """Make the threads end once they have finished their current tasks."""
        for _ in range(self.threads):
            self._waiting.put(None)

    def put(self, tasks: Iterable[Leased]) -> None:
        """Queue leased tasks, to be run in this order."""
        for task in tasks:
            if task.is_suspect:
                self._suspects.append((task, self._clock.monotonic()))
            else:
                self._waiting.put(task)
        if self._suspects:
            self.run_suspects()

    def run_suspects(self) -> None:
        """Start threads for waiting suspects while there are free lanes and the system has threads left."""
        with self._suspects_lock:
            number = min(len(self._suspects), len(self._free_lanes))
            slots = [self._free_lanes.pop() for _ in range(number)]
        try:
            while slots:
                name = f"isolation-{slots[-1] - self.threads}"
                threading.Thread(target=self._run_suspects, args=(slots[-1],), name=name, daemon=True).start()
                slots.pop()
        except RuntimeError as error:
            _log.warning("isolation.no_thread", error=str(error), waiting=len(self._suspects))
        self._free_lanes += slots

    @property
    def waiting(self) -> int:
        """The number of leased tasks that no thread has taken yet, not counting suspects."""
        return self._waiting.qsize()

    @property
    def is_full(self) -> bool:
        """Whether every thread is running a task."""
        return self.busy >= self.threads

    @property
    def free(self) -> int:
        """The number of threads that could start a task immediately."""
        return max(0, self.threads - self.busy - self.waiting)

    @property
    def busy(self) -> int:
        """The number of threads that are running a task."""
        # Do not count the suspects' threads.
        return sum(1 for slot in list(self.running) if slot < self.threads)

    @property
    def is_idle(self) -> bool:
        """Whether no task is running or waiting, and every outcome has been taken."""
        return not self.running and not self.waiting and not self._suspects and not self._outcomes.qsize()

    def leave_outcome(self, outcome: Outcome) -> None:
        """Leave a running task's outcome for ``take_outcomes``; may be called from any thread."""
        outcome.ended_at = outcome.started_at = self._clock.monotonic()
        for task, started_at in list(self.running.values()):
            if task is outcome.task:
                outcome.started_at = started_at
        self._outcomes.put(outcome)
        self._on_outcome()

    @property
    def has_outcomes(self) -> bool:
        """Whether any outcomes are ready for ``take_outcomes``."""
        return not self._outcomes.empty()

    def take_outcomes(self, most: int) -> list[Outcome]:
        """The next outcomes, at most ``most``."""
        outcomes: list[Outcome] = []
        while len(outcomes) < most:
            try:
                outcomes.append(self._outcomes.get_nowait())
            except queue.Empty:
                break
        return outcomes

    def take_waiting(self) -> list[Leased]:
        """Take back all tasks that no thread has started, including suspects, to release them."""
        with self._suspects_lock:
            suspects = [task for task, _ in self._suspects]
            self._suspects.clear()
        return _drained(self._waiting) + suspects

    def take_late_suspects(self) -> list[Leased]:
        """Take back the suspects that have waited too long for a lane, to release them."""
        since = self._clock.monotonic() - SUSPECT_WAIT_SECONDS
        late: list[Leased] = []
        kept: list[tuple[Leased, float]] = []
        with self._suspects_lock:
            for task, at in self._suspects:
                if at > since or self._releases[task.id] >= MAX_SUSPECT_RELEASES:
                    kept.append((task, at))
                else:
                    late.append(task)
            self._suspects = collections.deque(kept)
        if len(self._releases) > _MAX_RELEASED:
            self._releases.clear()
        self._releases.update(task.id for task in late)
        return late

    def take_beyond(self, kept: int) -> list[Leased]:
        """Take back all waiting tasks except suspects and the first ``kept``, to release them."""
        waiting = _drained(self._waiting)
        self.put(waiting[:kept])
        return waiting[kept:]

    def _run(self, slot: int) -> None:
        while (task := self._waiting.get()) is not None:
            started_at = self._begin(slot, task)
            self._end(slot, _attempted(self._deliver, task), started_at)

    def _run_suspects(self, slot: int) -> None:
        while (task := self._next_suspect(slot)) is not None:
            started_at = self._begin(slot, task)
            self._end(slot, _attempted(self._deliver_suspect, task), started_at)

    def _next_suspect(self, slot: int) -> Leased | None:
        """The next suspect; if there is none, the lane is free and its thread ends."""
        with self._suspects_lock:
            if self._suspects:
                return self._suspects.popleft()[0]
            self._free_lanes.append(slot)
            return None

    def _begin(self, slot: int, task: Leased) -> float:
        """Record that a task is starting; returns the monotonic time."""
        now = self._clock.monotonic()
        self.running[slot] = (task, now)
        if slot < self.threads:
            self.last_start = now
        if self._table is not None:
            self._table.note(slot, task.entry, now, self._deadline_of(task))
        return now

    def _deadline_of(self, task: Leased) -> float:
        try:
            return task.deadline_seconds or self._deadline_seconds
        except ValueError:
            # The task's record is damaged. Its attempt will report that.
            return self._deadline_seconds

    def _end(self, slot: int, outcome: Outcome, started_at: float) -> None:
        outcome.started_at, outcome.ended_at = started_at, self._clock.monotonic()
        if self._table is not None:
            self._table.clear(slot)
        self._outcomes.put(outcome)
        del self.running[slot]
        self._on_outcome()


def _attempted(deliver: Callable[[Leased], Outcome], task: Leased) -> Outcome:
    """The outcome of an attempt, even if the attempt raises, because a runner must not end."""
    try:
        return deliver(task)
    except BaseException as error:
        _log.exception("task.error", **seen(task))
        return Outcome(task, 500, f"{type(error).__name__}: {error}")


def _drained(source: "queue.SimpleQueue[Leased | None]") -> list[Leased]:
    tasks: list[Leased] = []
    while True:
        try:
            task = source.get_nowait()
        except queue.Empty:
            return tasks
        if task is not None:
            tasks.append(task)
