"""The threads of a worker process that run tasks, and what waits for them.

The main thread leases and settles; a runner takes the next leased task, delivers it and leaves the
outcome. Suspects go to threads of their own, which hand them to isolated processes.
"""

import queue
import threading
from collections.abc import Callable, Iterable

from lastacross import logs
from lastacross.broker import Leased
from lastacross.clock import SYSTEM, Clock
from lastacross.worker.delivery import Outcome
from lastacross.worker.in_flight import StartedTable

# Suspects that run at once, each in a process of its own.
SUSPECT_LANES = 4
SUSPECT_PATIENCE_SECONDS = 1.0

_log = logs.get("lastacross.worker")


class Runners:
    """Threads that run tasks.

    Args:
        threads: deliveries at once.
        deliver: runs one attempt.
        deliver_suspect: runs one attempt in the isolated process.
        table: where each thread notes what it runs.
        on_outcome: called, from a runner, when an outcome waits for ``take_outcomes``.
        clock: monotonic time since when tasks run.
    """

    def __init__(
        self,
        threads: int,
        deliver: Callable[[Leased], Outcome],
        *,
        deliver_suspect: Callable[[Leased], Outcome],
        table: StartedTable | None,
        on_outcome: Callable[[], None],
        clock: Clock = SYSTEM,
    ) -> None:
        self.threads = threads
        self._deliver = deliver
        self._deliver_suspect = deliver_suspect
        self._table = table
        self._on_outcome = on_outcome
        self._clock = clock
        self._waiting: queue.SimpleQueue[Leased | None] = queue.SimpleQueue()
        self._suspects: queue.SimpleQueue[Leased | None] = queue.SimpleQueue()
        self._outcomes: queue.SimpleQueue[Outcome] = queue.SimpleQueue()
        # slot → what runs there since when; one key per thread, so no lock is needed.
        self.running: dict[int, tuple[Leased, float]] = {}
        self.last_start = clock.monotonic()
        self._all = [
            threading.Thread(target=self._run, args=(slot,), name=f"runner-{slot}", daemon=True)
            for slot in range(threads)
        ]
        self._last_suspect_at = clock.monotonic()
        self._has_suspects = threading.Event()
        self._all += [
            threading.Thread(target=self._run_suspects, args=(lane,), name=f"isolation-{lane}", daemon=True)
            for lane in range(SUSPECT_LANES)
        ]

    def start(self) -> None:
        """Start the threads."""
        for thread in self._all:
            thread.start()

    def ended_threads(self) -> list[str]:
        """Names of threads that have ended, though nobody stopped them."""
        return [thread.name for thread in self._all if not thread.is_alive()]

    def stop(self) -> None:
        """Let the threads end when they have finished what they run."""
        for _ in range(self.threads):
            self._waiting.put(None)
        for _ in range(SUSPECT_LANES):
            self._suspects.put(None)
        self._has_suspects.set()

    def put(self, tasks: Iterable[Leased]) -> None:
        """Leased tasks, to be run in this order."""
        for task in tasks:
            (self._suspects if task.is_suspect else self._waiting).put(task)
        if self._suspects.qsize():
            self._has_suspects.set()

    @property
    def waiting(self) -> int:
        """Leased tasks that no thread has taken yet; suspects apart."""
        return self._waiting.qsize()

    @property
    def is_full(self) -> bool:
        """Every thread runs a task."""
        return self._busy >= self.threads

    @property
    def free(self) -> int:
        """Threads that would start one more task at once."""
        return max(0, self.threads - self._busy - self.waiting)

    @property
    def _busy(self) -> int:
        # The suspects' threads do not count.
        return sum(1 for slot in list(self.running) if slot < self.threads)

    @property
    def is_idle(self) -> bool:
        """Nothing runs, waits, or has an outcome that was not taken."""
        return (
            not self.running
            and not self.waiting
            and not self._suspects.qsize()
            and not self._outcomes.qsize()
        )

    def leave_outcome(self, outcome: Outcome) -> None:
        """Leave an outcome for ``take_outcomes``; from any thread."""
        self._outcomes.put(outcome)
        self._on_outcome()

    @property
    def has_outcomes(self) -> bool:
        """Whether some wait for ``take_outcomes``."""
        return not self._outcomes.empty()

    def take_outcomes(self, most: int) -> list[Outcome]:
        """What has ended since."""
        outcomes: list[Outcome] = []
        while len(outcomes) < most:
            try:
                outcomes.append(self._outcomes.get_nowait())
            except queue.Empty:
                break
        return outcomes

    def take_waiting(self) -> list[Leased]:
        """Take back what no thread has begun, suspects too, to be released."""
        return _drained(self._waiting) + _drained(self._suspects)

    def take_beyond(self, kept: int) -> list[Leased]:
        """Take back what waits after so many that are kept, to be released; suspects apart."""
        waiting = _drained(self._waiting)
        self.put(waiting[:kept])
        return waiting[kept:]

    def _run(self, slot: int) -> None:
        while (task := self._waiting.get()) is not None:
            self._begin(slot, task)
            self._end(slot, _attempted(self._deliver, task))

    def _run_suspects(self, lane: int) -> None:
        slot = self.threads + lane
        while (task := self._next_suspect(lane)) is not None:
            self._last_suspect_at = self._clock.monotonic()
            self.running[slot] = (task, self._last_suspect_at)
            self._end(slot, _attempted(self._deliver_suspect, task))

    def _next_suspect(self, lane: int) -> Leased | None:
        """The first lane takes what comes; the others help when nothing was taken for a while.

        Each needs a process of its own, so that many suspects which are soon done share one.
        """
        if lane == 0:
            return self._suspects.get()
        pause = threading.Event()
        while True:
            self._has_suspects.wait()
            if self._clock.monotonic() - self._last_suspect_at >= SUSPECT_PATIENCE_SECONDS * lane:
                try:
                    return self._suspects.get_nowait()
                except queue.Empty:
                    self._has_suspects.clear()
                    if self._suspects.qsize():
                        self._has_suspects.set()
            pause.wait(0.1)

    def _begin(self, slot: int, task: Leased) -> None:
        now = self._clock.monotonic()
        self.running[slot] = (task, now)
        self.last_start = now
        if self._table is not None:
            self._table.note(slot, task.entry)

    def _end(self, slot: int, outcome: Outcome) -> None:
        if self._table is not None and slot < self.threads:
            self._table.clear(slot)
        self._outcomes.put(outcome)
        del self.running[slot]
        self._on_outcome()


def _attempted(deliver: Callable[[Leased], Outcome], task: Leased) -> Outcome:
    """The outcome of an attempt, whatever it raises: a runner must not end."""
    try:
        return deliver(task)
    except BaseException as error:
        _log.exception("task.error", queue=task.queue, task=task.name)
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
