"""The world of a run: the server, the processes, the messages between them, and virtual time."""

import copy
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import greenlet

from lastacross import store
from lastacross.broker.record import Leased, instant_text
from lastacross.broker.steps import LEASE_SCRIPT, lease_result
from lastacross.errors import StoreUnavailableError
from tests.simulator import actors, decisions
from tests.simulator.decisions import Choices, Decision
from tests.simulator.judge import Judge
from tests.simulator.network import NOTHING, Death, Process, Question, Request, Sleep, Thread
from tests.simulator.server import Server
from tests.simulator.steps import Violation
from tests.simulator.wakeups import Wakeups
from tests.simulator.workers import SimWorker

EPOCH = 1_800_000_000.0
STEP_SECONDS = 0.001
# Durations without any event, in seconds: mostly short, but sometimes longer than a lease.
_PASSES = (*[0.01] * 6, *[0.05] * 6, *[0.25] * 4, 1.0, 1.0, 3.0, 9.0)
# Durations of attempts, in seconds.
_ATTEMPTS = (*[0.0] * 6, *[0.01] * 6, 0.05, 0.05, 0.5, 0.5, 3.0, 12.0)
# A client waits five seconds for an answer and then closes the connection, so older messages never arrive.
MESSAGE_LIFE_SECONDS = 8.0
MAX_SKEW_SECONDS = 2
MAX_REPEATS = 2
# A run without faults is at rest after this many steps.
DRAIN_STEPS = 6000
CALM = Decision("go", 0, 0)


class Ending(NamedTuple):
    """The end of an attempt in the simulated application, and the time until it."""

    kind: str
    seconds: float


class World:
    """The simulated world. ``apply`` takes one decision; ``drain`` ends the faults and waits for rest.

    Args:
        server: the real, empty Redis.
        log: a function that takes a line of the trace, or None for no trace.
    """

    MAX_TASKS = 45

    def __init__(self, server: Server, log: Callable[[str], None] | None = None) -> None:
        self.server = server
        self.log = log
        self.hub = greenlet.getcurrent()
        self.now = EPOCH
        self.choose = Choices(0)
        self.steps = 0
        self.executed = 0
        self.judge = Judge()
        self.wakeups = Wakeups(self)
        self.is_calm = False
        self.is_skewed = False
        self.is_cut = False
        self.ghosts: list[Request] = []
        self.parked: list[Question] = []
        self.bereaved: list[tuple[str, list[str], list[str]]] = []
        self.jobs: dict[str, tuple[str, list[tuple[str, float | None]], bool]] = {}
        self.filled: set[str] = set()
        self.uploads = 0
        self.foreign = 0
        self.processes: list[Process] = []
        self.workers: dict[int, SimWorker] = {}
        self._execute(Request("upload_queues", self._first_upload()))
        for slot in range(decisions.SLOTS):
            self.processes.append(self._birth(slot, 0))

    # --- decisions -----------------------------------------------------------------------

    def apply(self, decision: Decision) -> None:
        """Apply a decision; an impossible one has no effect."""
        self.steps += 1
        self.choose = Choices(decision.number)
        getattr(self, f"_do_{decision.kind}")(self.processes[decision.slot])

    def _do_world(self, _process: Process) -> None:
        """Let the clocks differ in one out of three worlds."""
        self.is_skewed = self.choose.chance(33)
        for process in self.processes:
            process.clock.offset = self._offset()

    def _do_go(self, process: Process) -> None:
        """Run a step of this process or the next possible one, or let time pass if no process can run."""
        self._pass(STEP_SECONDS)
        if not self._step_from(process.slot, len(self.processes)):
            self._pass_to_next()

    def _step_from(self, slot: int, number: int) -> bool:
        """Run a step of the first process that can run, among ``number`` processes from this one on."""
        for place in range(number):
            process = self.processes[(slot + place) % len(self.processes)]
            if self.is_calm and process.slot in _RESTLESS:
                continue
            if not process.is_alive:
                self.processes[process.slot] = self._birth(process.slot, process.generation + 1)
                return True
            threads = [thread for thread in process.threads if thread.can_go_on(self.now)]
            if threads:
                self._go_on(self.choose.one_of(threads))
                return True
        return False

    def _do_time(self, _process: Process) -> None:
        self._pass(self.choose.one_of(_PASSES))

    def _do_lose_request(self, process: Process) -> None:
        for thread in self._asking(process):
            self._trace("request lost", thread.request)
            # The request may have passed on a marker.
            self.wakeups.excuse()
            self._fail(thread)

    def _do_lose_reply(self, process: Process) -> None:
        for thread in self._asking(process):
            request = thread.request
            if request is not None:
                self._execute(request)
            self._trace("reply lost", request)
            self.wakeups.excuse()
            self._fail(thread)

    def _do_repeat(self, process: Process) -> None:
        """Let the client retry, because the answer did not arrive in time."""
        for thread in self._asking(process):
            request = thread.request
            if request is not None and request.times < MAX_REPEATS:
                self._execute(request)
                self.wakeups.excuse()
                self._trace("reply lost, asks again", request)

    def _do_ghost(self, process: Process) -> None:
        """Let the client give up; its message arrives later."""
        for thread in self._asking(process):
            request = thread.request
            if request is not None:
                self.ghosts.append(request)
                self._trace("request delayed", request)
                self.wakeups.excuse()
                self._fail(thread)

    def _do_arrive(self, _process: Process) -> None:
        if self.ghosts:
            request = self.ghosts.pop(self.choose.below(len(self.ghosts)))
            self._trace("arrives late", request)
            if request.sent_at + MESSAGE_LIFE_SECONDS >= self.now:
                self._execute(request)
                self.wakeups.excuse()

    def _do_kill(self, process: Process) -> None:
        if process.is_alive:
            self.kill(process, supervisor_knows=self.choose.chance(50))

    def _do_stop(self, process: Process) -> None:
        worker = self.workers.get(process.slot)
        if worker is not None and process.is_alive:
            worker.ask_to_stop()

    def _do_cut(self, _process: Process) -> None:
        """Kill Redis, and cut off the end of its append-only file."""
        if not self.server.process.append_only or self.is_cut:
            # Cut only once in a run, because Redis 7.0 leaves the start of a cut transaction in the file.
            # A second load would run it together with the next transaction.
            return
        self.is_cut = True
        before = self.server.seen
        self.server.cut(self.choose.below(4000))
        self._say("the append-only file was cut")
        for process in self.processes:
            for thread in list(process.threads):
                if thread.request is not None:
                    self._fail(thread)
        for question in self.parked:
            question.is_lost = True
        self.parked = []
        self.ghosts = []
        self.judge.begin_again(before, self.server.seen)
        self.filled = {name for name in self.filled if name in self._sealed()}
        self.wakeups.excuse(self.now + 1.5)

    def _sealed(self) -> set[str]:
        return {name for name, known in self.server.seen.batches.items() if known.is_sealed}

    # --- processes -----------------------------------------------------------------------

    def _birth(self, slot: int, generation: int) -> Process:
        process = Process(self, slot, generation, self._offset())
        if slot in decisions.WORKERS:
            groups = [actors.BACKEND] if slot == decisions.WORKERS[-1] else ["default"]

            def run() -> None:
                worker = SimWorker(process, groups)
                self.workers[slot] = worker
                worker.run()

            process.start("main", run)
        else:
            kind = actors.Producer if slot in decisions.PRODUCERS else _ACTORS[slot]
            process.start("main", kind(process).run)
        return process

    def _offset(self) -> float:
        if not self.is_skewed:
            return 0.0
        return (self.choose.below(4001) - 2000) / 1000 * (MAX_SKEW_SECONDS / 2)

    def kill(self, process: Process, *, supervisor_knows: bool) -> None:
        """Kill a process; its messages may still arrive."""
        self._say(f"{process.name} killed")
        process.is_alive = False
        worker = self.workers.pop(process.slot, None)
        if worker is not None:
            self.wakeups.excuse()
            if supervisor_knows:
                started = worker.runners.started_entries()
                queues = sorted(actors.SETTINGS)
                self.bereaved.append((worker.token, queues, started))
            if worker.wakeup.question is not None:
                self.forget_question(worker.wakeup.question)
        for thread in process.threads:
            if thread.request is not None and self.choose.chance(50):
                self.ghosts.append(thread.request)
        end_threads(process)

    def _end(self, process: Process) -> None:
        """Note that a worker has stopped as asked."""
        self._say(f"{process.name} ended")
        process.is_alive = False
        self.workers.pop(process.slot, None)
        end_threads(process)

    def _asking(self, process: Process) -> list[Thread]:
        """A thread, as a list, of this process or the next possible one whose message has not arrived yet."""
        for place in range(len(self.processes)):
            other = self.processes[(process.slot + place) % len(self.processes)]
            asking = [
                thread for thread in other.threads if thread.request is not None and thread.reply is NOTHING
            ]
            if asking:
                return [self.choose.one_of(asking)]
        return []

    def ending_of(self, task: Leased, *, alone: bool) -> Ending:
        """The end of this attempt."""
        _, url = task.method_and_url
        if self.is_calm:
            return Ending("die" if url in ("/die", "/poison") else "done", 0.01)
        choose = self.choose
        seconds = choose.one_of(_ATTEMPTS)
        if url == "/die" and choose.chance(70):
            return Ending("die", seconds)
        if url == "/fail" and choose.chance(60):
            return Ending("fail", seconds)
        if url == "/poison" and choose.chance(80):
            return Ending("crash", 0.0)
        return Ending("crash" if choose.chance(2) else "done", seconds)

    # --- the steps of threads ---------------------------------------------------------------

    def _go_on(self, thread: Thread) -> None:
        if thread.request is not None and thread.reply is NOTHING:
            thread.reply = self._execute(thread.request)
            if not self.choose.chance(60):
                return
        sleep = thread.sleep
        if sleep is not None and sleep.question is not None and not sleep.question.is_lost:
            question = sleep.question
            if not question.is_parked and question.reply is NOTHING:
                question.is_parked = True
                self.parked.append(question)
                question.sender = thread.process.name
                self._trace("waits", question)
                self._serve_parked()
                return
        self._resume(thread)

    def _resume(self, thread: Thread, error: Exception | None = None) -> None:
        request, reply = thread.request, thread.reply
        thread.request, thread.reply, thread.sleep = None, NOTHING, None
        if request is not None and error is None:
            self.note_answer(thread.process, request)
        store.use(thread.process.store)
        if error is not None:
            wish = thread.code.throw(error)
        else:
            wish = thread.code.switch(None if reply is NOTHING else reply)
        if isinstance(wish, Death):
            self.kill(thread.process, supervisor_knows=True)
        elif isinstance(wish, Request):
            wish.sent_at, wish.sender = self.now, thread.process.name
            thread.request = wish
        elif isinstance(wish, Sleep):
            thread.sleep = wish
        if thread.is_dead and thread.process.is_alive:
            if thread.name == "main":
                self._end(thread.process)
            else:
                thread.process.threads.remove(thread)

    def _fail(self, thread: Thread) -> None:
        self._resume(thread, StoreUnavailableError("Redis is not available: simulated"))

    def note_answer(self, process: Process, request: Request) -> None:
        """Note that an answer has reached the process that asked."""
        worker = self.workers.get(process.slot)
        if worker is not None and request.script == "lease_tasks":
            self.wakeups.note_lease(worker, request)
        elif worker is not None and request.script in ("maintain_queues", "promote_due"):
            self.wakeups.note_look(request)

    # --- the server ----------------------------------------------------------------------

    def _execute(self, request: Request) -> Any:
        """Run a request and judge its effect."""
        reply = self._run(request)
        self._serve_parked()
        self.wakeups.check()
        return reply

    def _run(self, request: Request) -> Any:
        server = self.server
        self.executed += 1
        request.times += 1
        request.executed_at = self.executed
        before = server.seen
        reply: Any = None
        if request.call is not None:
            reply = request.call()
            server.commands()
        elif request.commands:
            reply = server.commands(*request.commands)
        else:
            if request.script == LEASE_SCRIPT and self._is_late(request):
                # The script reads the server's clock, which is virtual, too.
                request = copy.copy(request)
                request.args = [instant_text(self.now), *request.args[1:]]
            reply = server.run(request.script, request.args)
            if request.script == "maintain_queues":
                # The server's clock is virtual, too.
                reply[-1] = f"{self.now:.6f}".encode()
        self._trace("does", request, reply)
        self.wakeups.note(request)
        self.judge.check(request, reply, before, server.seen)
        return reply

    def _is_late(self, request: Request) -> bool:
        now, lease_seconds = request.args[:2]
        return not now or abs(self.now - float(now)) > lease_seconds / 2

    def _serve_parked(self) -> None:
        """Give each marker to the worker that has waited for it longest, and run this worker's lease."""
        while True:
            served = next(self._servable(), None)
            if served is None:
                return
            question, group = served
            self.parked.remove(question)
            marker = self.server.commands(("LPOP", store.wakeup_key(group)))[0]
            self._answer(question, group, marker)

    def _servable(self) -> Iterator[tuple[Question, str]]:
        for question in self.parked:
            for group in question.groups:
                if self.server.seen.markers.get(group):
                    yield question, group

    def _answer(self, question: Question, group: str, marker: bytes | None) -> None:
        question.reply = (group, marker, self._run(question))
        question.is_parked = False
        if all(worker.wakeup.question is not question for worker in self.workers.values()):
            # A machine that vanished while waiting takes the marker and a task with it.
            self.wakeups.excuse()
        self._say(f"woken: {[task.id for task in lease_result(question.reply[2]).tasks]}")

    def unblock(self, question: Question) -> None:
        """Run the script without a marker, as after CLIENT UNBLOCK."""
        self.parked.remove(question)
        self._answer(question, "", None)

    def forget_question(self, question: Question) -> None:
        """Close a question's connection; the server may not notice yet that a machine has vanished."""
        if question in self.parked:
            if self.choose.chance(80):
                self.parked.remove(question)
            self.wakeups.excuse()
        elif question.reply is not NOTHING:
            self.wakeups.excuse()

    def _first_upload(self) -> list[Any]:
        upload = actors.upload_of({}, resumes=False, number=0)
        args: list[Any] = [instant_text(self.now), upload.digest, 0, 1, actors.BACKEND, actors.BACKEND]
        for name, fields in upload.queues.items():
            args += (name, 2 * len(fields))
            for pair in fields.items():
                args += pair
        return args

    def _pass(self, seconds: float) -> None:
        self.now += seconds

    # --- the trace -----------------------------------------------------------------------

    def _say(self, text: str) -> None:
        if self.log is not None:
            self.log(f"{self.now - EPOCH:9.3f}  {text}")

    def _trace(self, what: str, request: Request | None, reply: Any = NOTHING) -> None:
        if self.log is None or request is None:
            return
        args = " ".join(arg.decode("latin-1") if isinstance(arg, bytes) else str(arg) for arg in request.args)
        answer = "" if reply is NOTHING else f" → {reply!r}"
        args = args.replace("x" * 30, "")
        self._say(f"{request.sender:7} {what} {request.script} {args[:180]}{answer[:180]}")

    # --- rest ------------------------------------------------------------------------------

    def drain(self) -> None:
        """End the faults, and let all processes work until nothing is left to do.

        Raises:
            Violation: something is still left after a limited number of steps.
        """
        self.is_calm = True
        self._say("calm")
        for slot in _RESTLESS:
            self.kill(self.processes[slot], supervisor_knows=False)
        while self.ghosts:
            self._do_arrive(self.processes[0])
        self._run(Request("rq resume", commands=[("DEL", store.RQ_SUSPENDED)]))
        self.uploads += 1
        args = self._first_upload()
        args[1], args[2] = f"digest calm {self.uploads}", 1
        self._execute(Request("upload_queues", args))
        self.wakeups.excuse(self.now + 1.5)
        for steps in range(DRAIN_STEPS):
            self.steps += 1
            self.choose = Choices(steps * 7919 + 1)
            if not self._calm_step(steps) and self._is_at_rest():
                self._check_rest()
                return
        unfilled = sorted(self.jobs.keys() - self.filled)
        raise Violation(f"not at rest after {DRAIN_STEPS} steps: {self._left()} {unfilled} {self.bereaved}")

    def _calm_step(self, number: int) -> bool:
        """Run a step of the processes in turn; returns False if none could run and time passed instead."""
        slots = len(self.processes)
        if self._step_from(number % slots, slots):
            return True
        self._pass_to_next()
        return False

    def _pass_to_next(self) -> None:
        waits = [
            thread.sleep.until
            for process in self.processes
            for thread in process.threads
            if thread.sleep is not None
        ]
        self.now = max(self.now + 1e-6, min(waits))

    def _left(self) -> list[str]:
        seen = self.server.seen
        left = [f"{task} {record.status}" for task, record in seen.records.items() if not self._is_end(task)]
        left += [f"{task} {seen.places[task]}" for task in seen.places if task not in seen.records]
        return left

    def _is_end(self, task: str) -> bool:
        record = self.server.seen.records[task]
        if record.status == "deferred":
            return self._is_abandoned_completion(task)
        # A plain RQ job that RQ's own worker has failed stays in RQ's registry.
        return record.status == "failed" and bool(record.dead_at or not record.eta)

    def _is_at_rest(self) -> bool:
        unfilled = self.jobs.keys() - self.filled
        return not self._left() and not unfilled and not self.bereaved

    def _is_abandoned_completion(self, task: str) -> bool:
        seen = self.server.seen
        for batch, known in seen.batches.items():
            if task in (known.on_complete, known.on_success):
                return self.is_abandoned(batch)
        return False

    def is_abandoned(self, batch: str) -> bool:
        """Whether a batch does not have to end, because nobody is left to seal it.

        A dead letter may be retried, so its child batch and the parent stay open. A deleted task's child
        batch is swept. A batch without a parent is not swept, because nothing waits for it. A child batch
        whose seal Redis has lost looks as if it was left open on purpose, so it is not swept either.
        """
        seen = self.server.seen
        known = seen.batches[batch]
        if not known.is_sealed:
            is_dead = any(
                record.batch == known.parent and record.status == "failed" for record in seen.records.values()
            )
            is_unsealed = batch in self.judge.fan_in.unsealed
            return batch not in self.jobs and (not known.parent or is_dead or is_unsealed)
        return any(
            not each.is_finished and each.parent.rpartition(":")[0] == batch and self.is_abandoned(name)
            for name, each in seen.batches.items()
            if each.parent
        )

    def _check_rest(self) -> None:
        seen = self.server.seen
        for batch in self.judge.fan_in.open_batches(seen):
            if not self.is_abandoned(batch):
                raise Violation(f"{batch} has not fired at rest: {seen.batches[batch]}")


def end_threads(process: Process) -> None:
    """End all threads of a process immediately."""
    for thread in process.threads:
        if not thread.is_dead:
            thread.code.throw(greenlet.GreenletExit)
    process.threads = []


# The processes that have nothing to do when there are no faults.
_RESTLESS = (decisions.OPERATOR, decisions.TOOLS)
_ACTORS: dict[int, type[actors.Actor]] = {
    decisions.CONSUMER: actors.Consumer,
    decisions.OPERATOR: actors.Operator,
    decisions.TOOLS: actors.Tools,
    decisions.SUPERVISOR: actors.Supervisor,
}
