"""Executes runs from seeds, one after another on one server, until one fails or enough steps are done."""

import contextlib
import itertools
import logging
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lastacross import config, store
from lastacross.broker.record import new_name
from lastacross.worker import leasing, worker
from tests.simulator import actors
from tests.simulator.decisions import Decision, generate
from tests.simulator.server import Mutant, Server
from tests.simulator.steps import Violation
from tests.simulator.world import World, end_threads
from tests.support.redis_server import running_server

DECISIONS = 1000
# One in this many runs has an append-only file, which may be cut. Each of these runs starts its own server.
DURABLE_EVERY = 15
Log = Callable[[str], None]
SECRET_KEY = "a secret key of the simulation, long enough"


@dataclass
class Failure:
    """A failed run.

    Args:
        seed: the run's seed.
        schedule: the decisions up to the failure.
        complaint: the broken rule, or the error.
        steps: the number of steps up to the failure.
        is_at_rest: whether the run failed only after the faults had ended.
    """

    seed: str
    schedule: list[Decision]
    complaint: str
    steps: int
    is_at_rest: bool

    @property
    def kind(self) -> str:
        """The complaint without ids and numbers, so that equal failures compare equal."""
        return "".join(
            letter for letter in self.complaint.split("\n")[0] if letter.isalpha() or letter == " "
        )


class _Clock:
    """Replaces the machine's clock with virtual time in the worker's modules."""

    def __init__(self, world: World) -> None:
        self._world = world

    def now(self) -> float:
        """Seconds since the epoch."""
        return self._world.now

    def monotonic(self) -> float:
        """Seconds since an arbitrary point in time."""
        return self._world.now - 1_700_000_000.0


class Runner:
    """Runs schedules.

    Args:
        mutant: a deliberate fault in the Lua.
    """

    def __init__(self, mutant: Mutant | None = None) -> None:
        self.mutant = mutant
        self.steps = 0
        self.executed = 0
        self._stack = contextlib.ExitStack()
        self._server: Server | None = None

    def __enter__(self) -> "Runner":
        # Disable logging, because workers would log thousands of faults.
        self._stack.callback(logging.disable, logging.root.manager.disable)
        logging.disable(logging.CRITICAL)
        folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="la-sim-")))
        _write_application(folder)
        environ = {
            "SECRET_KEY": SECRET_KEY,
            "DATABASE_URL": f"sqlite:///{folder}/unused.db",
            "LASTACROSS_DATA_DIR": str(folder / "var"),
        }
        config.use(config.load(folder, environ))
        self._stack.callback(config.use, None)
        self._stack.callback(store.use, None)
        process = self._stack.enter_context(running_server())
        self._server = Server(process, store.SCRIPTS, self.mutant)
        self._stack.callback(self._server.close)
        return self

    def __exit__(self, *_error: object) -> None:
        self._stack.close()

    def run(
        self, seed: str, schedule: Sequence[Decision], *, drains: bool = True, log: Log | None = None
    ) -> Failure | None:
        """Run one schedule to its end.

        Args:
            seed: decides whether the server has an append-only file.
            schedule: the decisions, or some of them.
            drains: whether to wait until all processes are at rest afterwards.
            log: a function that takes the trace, line by line.
        """
        if not is_durable(seed):
            assert self._server is not None
            self._server.reset()
            return self._run(self._server, seed, (schedule, drains), log)
        with running_server(append_only=True) as process:
            server = Server(process, store.SCRIPTS, self.mutant)
            try:
                return self._run(server, seed, (schedule, drains), log)
            finally:
                server.close()

    def _run(
        self, server: Server, seed: str, what: tuple[Sequence[Decision], bool], log: Log | None
    ) -> Failure | None:
        new_name._prefix_and_counter = "n", itertools.count(1)
        taken: list[Decision] = []
        schedule, drains = what
        with _virtual_time() as begin:
            world = World(server, log)
            begin(world)
            try:
                for decision in schedule:
                    taken.append(decision)
                    world.apply(decision)
                if drains:
                    world.drain()
            except Exception as error:
                if log is not None:
                    log(traceback.format_exc())
                return Failure(seed, taken, _complaint(error), world.steps, world.is_calm)
            finally:
                self.steps += world.steps
                self.executed += world.executed
                _end_all(world)
        return None

    def explore(self, seed: str, steps: int, decisions: int = DECISIONS) -> Failure | None:
        """Run ``<seed>:0``, ``<seed>:1`` and so on, until this many steps are done or a run has failed."""
        for number in itertools.count():
            if self.steps >= steps:
                return None
            if failure := self.try_seed(f"{seed}:{number}", decisions):
                return failure
        raise AssertionError

    def try_seed(self, seed: str, decisions: int = DECISIONS) -> Failure | None:
        """Run one seed."""
        return self.run(seed, generate(seed, decisions))


def is_durable(seed: str) -> bool:
    """Whether the run of this seed has an append-only file."""
    number = seed.rpartition(":")[2]
    return number.isdigit() and int(number) % DURABLE_EVERY == DURABLE_EVERY - 1


def _complaint(error: Exception) -> str:
    if isinstance(error, Violation):
        return str(error)
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({Path(last.filename).name}:{last.lineno})"


@contextlib.contextmanager
def _virtual_time() -> Iterator[Callable[[World], None]]:
    """Let the worker's modules use a world's virtual time in the block."""
    modules: tuple[Any, ...] = (leasing, worker)
    saved = [module.SYSTEM for module in modules]

    def begin(world: World) -> None:
        for module in modules:
            module.SYSTEM = _Clock(world)

    try:
        yield begin
    finally:
        for module, clock in zip(modules, saved, strict=True):
            module.SYSTEM = clock


def _end_all(world: World) -> None:
    for process in world.processes:
        process.is_alive = False
        end_threads(process)


def _write_application(folder: Path) -> None:
    (folder / "app.yaml").write_text("handlers:\n- url: /.*\n  script: main.app\n")
    lines = ["queue:"]
    for name, fields in actors.SETTINGS.items():
        lines.append(f"- name: {name}")
        if fields.get("mode") == "pull":
            lines += ["  mode: pull", "  retry_parameters:", "    task_retry_limit: 4"]
            continue
        lines += [f"  rate: {float(fields['rate']):g}/s", f"  bucket_size: {fields['bucket_size']}"]
        if "max_concurrent" in fields:
            lines.append(f"  max_concurrent_requests: {fields['max_concurrent']}")
        if "target" in fields:
            lines.append(f"  target: {fields['target']}")
        lines += ["  retry_parameters:", "    task_retry_limit: 3", "    max_backoff_seconds: 2"]
    (folder / "queue.yaml").write_text("\n".join(lines) + "\n")
    (folder / "backends.yaml").write_text(f"backends:\n- name: {actors.BACKEND}\n")
