"""A simulated worker process: the product's own loop with simulated threads, sockets and time."""

import contextlib
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

from lastacross import store
from lastacross.broker import queue_directory
from lastacross.broker.current import CurrentTask, delivering
from lastacross.broker.record import Leased
from lastacross.broker.steps import LEASE_SCRIPT, Broker
from lastacross.errors import StoreUnavailableError, TaskQueueError
from lastacross.taskqueue import Batch, Task
from lastacross.worker.delivery import Outcome
from lastacross.worker.isolation import Crashed
from lastacross.worker.leasing import MAX_PREFETCH, Leasing, Prefetch, Reply, Serving
from lastacross.worker.maintenance import RENEWALS_PER_LEASE, Maintenance, Renewer
from lastacross.worker.outcomes import OutcomeRecorder
from lastacross.worker.recycling import UNLIMITED, Recycling
from lastacross.worker.worker import Worker
from tests.simulator.network import NOTHING, Process, Question, Request

if TYPE_CHECKING:
    from tests.simulator.world import World

THREADS = 2
LEASE_SECONDS = 8.0
# A lease token is longer than a process's name, because Redis stores short entries differently.
TOKEN_LENGTH = 48


class UnexpectedError(BaseException):
    """An error that passes the guards of the product's loops, which continue after other exceptions."""


class SimInterrupt:
    """Ends the sleep of the worker's main thread.

    Args:
        process: the thread's process.
    """

    fd = -1

    def __init__(self, process: Process) -> None:
        self._process = process
        self._is_set = False

    def set(self) -> None:
        """End the sleep, or the next one."""
        self._is_set = True
        sleep = self._process.threads[0].sleep
        if sleep is not None:
            sleep.is_interrupted = True

    def clear(self) -> None:
        """Let the next sleep last."""
        self._is_set = False

    def wait(self, seconds: float) -> None:
        """Sleep until this is set."""
        if not self._is_set and seconds > 0:
            self._process.sleep(seconds)
        self.clear()

    @property
    def is_set(self) -> bool:
        """Whether a sleep would end before it began."""
        return self._is_set


class SimWakeup:
    """The product's ``MarkerListener`` without a socket.

    Args:
        process: the worker's process.
        interrupt: the interrupt that ends the wait.
        groups: the groups whose markers it waits for.
        args: the arguments of the lease that follows the ``BLPOP``.
    """

    def __init__(
        self,
        process: Process,
        interrupt: SimInterrupt,
        groups: Sequence[str],
        args: Callable[[], Sequence[Any]],
    ) -> None:
        self._process = process
        self._interrupt = interrupt
        self._groups = groups
        self._args = args
        self.question: Question | None = None
        self._came_from = groups[0]

    def wait(self, seconds: float, _interrupt_fd: int, *, listen: bool = True) -> Reply | None:
        """Sleep until a marker or an interrupt arrives, or the time is over."""
        if listen and self.question is None:
            self.question = Question(self._groups, LEASE_SCRIPT, self._args())
        question = self.question
        if not self._interrupt.is_set and (question is None or question.reply is NOTHING):
            self._process.sleep(seconds, question)
        if question is None:
            return None
        if question.is_lost:
            self.question = None
            raise StoreUnavailableError("the connection was lost")
        return None if question.reply is NOTHING else self._take(question)

    def pass_on(self, marker: bytes) -> None:
        """Put a marker back for another worker."""
        push = ("RPUSH", store.wakeup_key(self._came_from), marker)
        self._process.call(Request("pass_on", commands=[push]))

    def take_back(self) -> Reply | None:
        """Stop waiting; returns an answer that has arrived meanwhile."""
        question = self.question
        if question is not None and question.is_parked and question.reply is NOTHING:
            # The script still runs after CLIENT UNBLOCK.
            self._process.world.unblock(question)
        return self.close()

    def close(self) -> Reply | None:
        """Drop the question; returns an answer that has arrived meanwhile."""
        question, self.question = self.question, None
        if question is None:
            return None
        self._process.world.forget_question(question)
        return None if question.reply is NOTHING or question.is_lost else self._take(question)

    def _take(self, question: Question) -> Reply:
        self.question = None
        group, marker, answer = question.reply
        self._process.world.note_answer(self._process, question)
        self._came_from = group or self._came_from
        return Reply(marker, answer)


class SimRunners:
    """The threads that run tasks, each of them a simulated thread.

    Args:
        worker: the threads' worker.
        process: the threads' process.
        interrupt: an interrupt that is set after each outcome.
    """

    threads = THREADS

    def __init__(self, worker: "SimWorker", process: Process, interrupt: SimInterrupt) -> None:
        self._worker = worker
        self._process = process
        self._interrupt = interrupt
        self._waiting: deque[Leased] = deque()
        self._suspects: deque[Leased] = deque()
        self._outcomes: deque[Outcome] = deque()
        self.running: dict[int, tuple[Leased, float]] = {}
        self.last_start = 0.0

    def put(self, tasks: Sequence[Leased]) -> None:
        """Accept leased tasks, which run in this order."""
        for task in tasks:
            (self._suspects if task.is_suspect else self._waiting).append(task)
        self._start_what_can()

    @property
    def waiting(self) -> int:
        """The number of leased tasks that no thread has taken yet, without suspects."""
        return len(self._waiting)

    @property
    def busy(self) -> int:
        """The number of threads that run a task."""
        return sum(1 for slot in self.running if slot < THREADS)

    @property
    def is_full(self) -> bool:
        """Whether every thread runs a task."""
        return self.busy >= THREADS

    @property
    def free(self) -> int:
        """The number of threads that would start another task immediately."""
        return max(0, THREADS - self.busy - self.waiting)

    @property
    def is_idle(self) -> bool:
        """Whether no task is running or waiting, and all outcomes were taken."""
        return not (self.running or self._waiting or self._suspects or self._outcomes)

    @property
    def has_outcomes(self) -> bool:
        """Whether there are outcomes to take."""
        return bool(self._outcomes)

    def take_outcomes(self, most: int) -> list[Outcome]:
        """Take the next outcomes."""
        return [self._outcomes.popleft() for _ in range(min(most, len(self._outcomes)))]

    def take_waiting(self) -> list[Leased]:
        """Take back the tasks that no thread has started."""
        tasks = [*self._waiting, *self._suspects]
        self._waiting.clear()
        self._suspects.clear()
        return tasks

    def take_beyond(self, kept: int) -> list[Leased]:
        """Take back all waiting tasks but the first ``kept``."""
        tasks = list(self._waiting)
        self._waiting = deque(tasks[:kept])
        return tasks[kept:]

    def started_entries(self) -> list[str]:
        """The entries in a dead process's table."""
        return [task.entry for task, _ in self.running.values()]

    def take_late_suspects(self) -> list[Leased]:
        """Nothing, because a suspect's wait is too short to matter here."""
        return []

    def run_suspects(self) -> None:
        """Do nothing, because suspects start as soon as they can."""

    def _start_what_can(self) -> None:
        for tasks, first, last in (
            (self._waiting, 0, THREADS),
            (self._suspects, THREADS, 2 * THREADS),
        ):
            for slot in range(first, last):
                if tasks and slot not in self.running:
                    self._begin(slot, tasks.popleft())

    def _begin(self, slot: int, task: Leased) -> None:
        now = self._process.clock.monotonic()
        self.running[slot] = (task, now)
        if slot < THREADS:
            self.last_start = now

        def run() -> None:
            outcome = self._worker.attempt(task, alone=slot >= THREADS)
            self._outcomes.append(outcome)
            del self.running[slot]
            self._interrupt.set()
            self._start_what_can()

        self._process.start(f"runs {task.id}", run)


class _Ended:
    """Replaces the thread that notifies the application of the stop."""

    @staticmethod
    def is_alive() -> bool:
        """Always False, because the thread has ended."""
        return False


class _NotSimulated:
    """Replaces the isolated processes, which the simulated attempts do not use."""

    @staticmethod
    def end_idle() -> None:
        """Do nothing."""


class SimWorker(Worker):
    """The product's worker with its own loop, leases, maintenance and outcomes.

    Args:
        process: the worker's process.
        groups: the groups that the worker serves.
    """

    def __init__(self, process: Process, groups: Sequence[str]) -> None:
        opened = process.store
        self._process = process
        self._world: World = process.world
        self._token = process.name.replace(".", "-").ljust(TOKEN_LENGTH, "x")
        self._store = opened
        self._broker = Broker(opened)
        self._isolated: Any = _NotSimulated()
        self._lease_seconds = LEASE_SECONDS
        self._serving = Serving(queue_directory.of(opened), groups)
        self._interrupt: Any = SimInterrupt(process)
        self.runners = SimRunners(self, process, self._interrupt)
        self._runners: Any = self.runners
        self._prefetch = Prefetch(cast(Any, self.runners), clock=process.clock)
        self._recorder = OutcomeRecorder(self._broker, queue_directory.of(opened).retry_of)
        self._table = None
        self._maintenance = Maintenance(
            self._broker, self._serving.queues, clock=process.clock, lease_seconds=LEASE_SECONDS
        )
        self._renewer = Renewer(self._broker, LEASE_SECONDS, self._held_tasks, self._forget)
        self._held: dict[str, Leased] = {}
        self._unrecorded: list[Outcome] = []
        self._unreleased: list[Leased] = []
        self._leasing = Leasing(
            opened, self._serving, self._token, lease_seconds=LEASE_SECONDS, most=MAX_PREFETCH
        )
        self.wakeup = SimWakeup(process, self._interrupt, groups, self._leasing._args_of_wake_up)
        self._leasing._listener = self.wakeup  # type: ignore[assignment]
        self._may_have_work = True
        self._is_stuck = self._is_recycled = False
        self._recycling = Recycling(UNLIMITED)
        self._throttled_until: float | None = None
        self._is_told_to_stop = False
        self.queue_class: Any = lambda name, connection: name
        self.connection: Any = None

    @property
    def process(self) -> Process:
        """The worker's process."""
        return self._process

    @property
    def token(self) -> str:
        """The worker's lease token."""
        return self._token

    @property
    def lists(self) -> list[str]:
        """The lists from which the worker leases."""
        return self._serving.lists

    @property
    def groups(self) -> list[str]:
        """The groups that the worker serves."""
        return self._serving.groups

    def run(self) -> None:
        """Run the worker's main thread."""
        for group in self.groups:
            if group != "default":
                self._register(group)
        self._process.start("renewer", self._renew)
        self._loop()
        self._finish()

    def ask_to_stop(self) -> None:
        """Ask the worker to stop, as SIGTERM does."""
        self._is_told_to_stop = True
        self._interrupt.set()

    def attempt(self, task: Leased, *, alone: bool) -> Outcome:
        """Run one attempt, as the product's ``Attempts`` does."""
        if task.entry not in self._held:
            return Outcome(task, None, "its lease was lost before it started")
        if alone:
            with contextlib.suppress(StoreUnavailableError):
                self._broker.renew([task], {task.entry}, LEASE_SECONDS)
        return self._deliver(task, alone=alone)

    # --- inside -------------------------------------------------------------------------

    def _register(self, group: str) -> None:
        while True:
            try:
                self._broker.register_service(group)
                return
            except StoreUnavailableError:
                self._process.sleep(0.1)

    def _renew(self) -> None:
        while True:
            self._process.sleep(LEASE_SECONDS / RENEWALS_PER_LEASE)
            with contextlib.suppress(StoreUnavailableError):
                self._renewer.renew()

    def _turn(self) -> None:
        """Run one turn. An exception that the product's guard would log is a bug here or in the product."""
        try:
            super()._turn()
        except StoreUnavailableError:
            raise
        except Exception as error:
            raise UnexpectedError(f"a turn of {self._process.name} has failed: {error!r}") from error

    def _beat(self) -> None:
        """Do nothing, because RQ's registration is not simulated."""

    def _require_threads(self) -> None:
        """Do nothing, because the threads that this checks are not simulated."""

    def _call_on_stop(self) -> Any:
        return _Ended()

    def _deliver(self, task: Leased, *, alone: bool) -> Outcome:
        """Run the handler of the simulated application for this URL."""
        _, url = task.method_and_url
        ending = self._world.ending_of(task, alone=alone)
        self._process.sleep(ending.seconds)
        if url.startswith("/nest") and ending.kind != "fail":
            try:
                self._nest(task, int(url.rpartition("/")[2]))
            except (TaskQueueError, StoreUnavailableError):
                return Outcome(task, 500, "could not fill its batch")
        if ending.kind == "crash":
            if alone:
                return Crashed(task, None, "its process ended")
            self._process.die()
        if ending.kind == "fail":
            return Outcome(task, 500, "answered 500")
        if ending.kind == "die":
            return Outcome(task, 500, "answered 500 for good", is_final=True)
        return Outcome(task, 200)

    def _nest(self, task: Leased, depth: int) -> None:
        """Fill a child batch of this task."""
        attempt = task.failures + task.lost + 1
        current = CurrentTask(
            task.id,
            task.name,
            task.queue,
            attempt,
            attempt - 1,
            attempt - 1,
            task.member,
            request=task.request,
        )
        with delivering(current):
            parent = current if task.member else None
            with Batch(task.queue, on_complete=Task(url="/plain"), parent=parent) as batch:
                for number in range(2):
                    nests = depth > 0 and number == 0
                    last = "/die" if number and len(task.id) % 2 else "/plain"
                    batch.add(Task(url=f"/nest/{depth - 1}" if nests else last))
