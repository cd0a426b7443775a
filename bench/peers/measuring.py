"""What the drivers of the Python peers share: arguments, worker processes, watching, the result line.

Needs the standard library and redis-py only. bench/README.md says what each measure is.
"""

import argparse
import importlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import redis

#: Where a task writes when it started; one list for all peers.
STARTS = "bench:starts"
URL_VARIABLE = "BENCH_REDIS_URL"
#: Names a file that gets one byte for each task that ran.
RAN_VARIABLE = "BENCH_RAN"
POLL_SECONDS = 0.005
#: Looks at an empty queue before it counts as drained: some peers have a task in neither place for a moment.
EMPTY_LOOKS = 10
STALLED_SECONDS = 90.0
WARM_UP_TASKS = 20
LATENCY_SAMPLES = 500
IDLE_SECONDS = 0.02
HERE = Path(__file__).parent
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")

#: One connection a process; made by the first task that needs it, so never shared over a fork.
_clients: dict[int, redis.Redis] = {}
_ran_fds: dict[int, int] = {}


class StalledError(Exception):
    """Raised when tasks that were added are not done, and nothing has moved for long."""


def redis_url() -> str:
    """Where this process finds Redis. Nothing is there while a driver reads its command line; see `run`."""
    return os.environ.get(URL_VARIABLE, "redis://127.0.0.1:1")


def redis_client() -> redis.Redis:
    """The connection of this process, to the server that the driver was given."""
    pid = os.getpid()
    if pid not in _clients:
        _clients[pid] = redis.Redis.from_url(redis_url(), socket_timeout=None)
    return _clients[pid]


def count_run() -> None:
    """What a no-op task does: leaves a trace, so that a task that was lost or ran twice is noticed."""
    pid = os.getpid()
    if pid not in _ran_fds:
        _ran_fds[pid] = os.open(os.environ[RAN_VARIABLE], os.O_WRONLY | os.O_APPEND)
    os.write(_ran_fds[pid], b".")


def record_start() -> None:
    """What the measured task does: notes when it started. CLOCK_MONOTONIC is one for all processes."""
    started_at = time.monotonic()
    redis_client().rpush(STARTS, f"{started_at} {os.getpid()}")


class Peer(ABC):
    """A library in its best setting. One object lives in the driver, its workers are processes.

    Args:
        url: where Redis is.
        processes: how many worker processes.
        variant: which of the settings to run, for libraries with more than one that may be best.
    """

    name: str
    packages: tuple[str, ...] = ()
    variants: tuple[str, ...] = ("",)
    #: Whether a task that was taken by a worker that died runs again.
    at_least_once = True
    #: What the worker processes get beside the driver's environment.
    environment: Mapping[str, str] = {}
    has_bulk = True
    has_fan_in = True
    #: How long the one task after all others may take to start.
    fan_in_seconds = 360.0

    def __init__(self, url: str, processes: int, variant: str) -> None:
        self.url = url
        self.processes = processes
        self.variant = variant

    @abstractmethod
    def worker_commands(self, measure: str, processes: int) -> list[list[str]]:
        """The command lines that start so many worker processes."""

    @abstractmethod
    def add_each(self, count: int) -> None:
        """Add no-op tasks in a plain loop."""

    @abstractmethod
    def add_timed(self) -> None:
        """Add one task that calls `record_start`."""

    @abstractmethod
    def remaining(self, client: redis.Redis) -> int:
        """How many tasks wait or are in progress, in one round trip."""

    @abstractmethod
    def settings(self) -> dict[str, str]:
        """What a reader must know to judge the setting."""

    def prepare(self) -> None:
        """What a deployment does once before the first task is added."""
        return

    def add_bulk(self, count: int) -> None:
        """Add no-op tasks with the library's bulk call."""
        raise NotImplementedError

    def fan_in(self, count: int) -> None:
        """Add no-op tasks, and one that calls `record_start` after all of them."""
        raise NotImplementedError

    def fill(self, count: int) -> None:
        """Add no-op tasks as fast as the library can."""
        (self.add_bulk if self.has_bulk else self.add_each)(count)


@dataclass
class Counters:
    """What the server and the workers have used up to now."""

    redis_cpu_seconds: float
    redis_commands: int
    worker_cpu_seconds: float

    @classmethod
    def read(cls, client: redis.Redis) -> "Counters":
        """Of this server and of all descendants of this process."""
        cpu: Any = client.info("cpu")
        stats: Any = client.info("stats")
        return cls(
            cpu["used_cpu_user"] + cpu["used_cpu_sys"],
            stats["total_commands_processed"],
            sum(_cpu_seconds(pid) for pid in descendants()),
        )


def _stat_fields(pid: int) -> list[str]:
    """Of /proc/PID/stat, from the state on; empty for a process that is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return []
    return text.rpartition(")")[2].split()


def _cpu_seconds(pid: int) -> float:
    """User and system time of a process and of its children that ended (rq's forks)."""
    fields = _stat_fields(pid)
    return sum(int(field) for field in fields[11:15]) / CLOCK_TICKS


def descendants() -> list[int]:
    """The processes that this one started, and those that they started."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat_fields(int(entry.name))):
            parents[int(entry.name)] = int(fields[1])
    found = [os.getpid()]
    for parent in found:
        found += [pid for pid, other in parents.items() if other == parent]
    return found[1:]


@contextmanager
def workers(peer: Peer, measure: str, processes: int) -> Iterator[None]:
    """Start the workers, and end them and what they started."""
    environment = {**os.environ, "PYTHONPATH": str(HERE), **peer.environment}
    started: list[subprocess.Popen[bytes]] = []
    try:
        for command in peer.worker_commands(measure, processes):
            print("starting", " ".join(command), file=sys.stderr)
            started.append(subprocess.Popen(command, stdout=sys.stderr, cwd=HERE, env=environment))
        yield
    finally:
        for process in started:
            process.terminate()
        _wait_for(started, seconds=5)
        for pid in descendants():
            os.kill(pid, signal.SIGKILL)
        _wait_for(started, seconds=5)


def _wait_for(processes: Sequence[subprocess.Popen[bytes]], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            print(f"process {process.pid} did not end in time", file=sys.stderr)


def used_memory(client: redis.Redis) -> int:
    """Bytes that the server holds."""
    memory: Any = client.info("memory")
    return int(memory["used_memory"])


def drain(peer: Peer, tasks: int) -> dict[str, float]:
    """Tasks are there, then the workers come: from the first task taken to the last one finished."""
    client = redis_client()
    peer.prepare()
    before = used_memory(client)
    peer.fill(tasks)
    grown = used_memory(client) - before
    if peer.remaining(client) != tasks:
        raise StalledError(f"{peer.remaining(client)} tasks wait, though {tasks} were added")

    look_cpu, look_commands = _cost_of_a_look(peer, client)
    with workers(peer, "drain", peer.processes):
        _, left, _ = _watch(peer, client, until=lambda left: left < tasks)
        begun = Counters.read(client)
        started_at = time.monotonic()
        ended_at, _, looks = _watch(peer, client, until=lambda left: left == 0)
        ended = Counters.read(client)
    _check_runs(tasks)
    seconds = ended_at - started_at
    cpu = ended.redis_cpu_seconds - begun.redis_cpu_seconds - looks * look_cpu
    commands = ended.redis_commands - begun.redis_commands - looks * look_commands
    return {
        "seconds": seconds,
        "per_second": left / seconds,
        "redis_cpu_us": cpu / left * 1e6,
        "redis_commands": commands / left,
        "worker_cpu_us": (ended.worker_cpu_seconds - begun.worker_cpu_seconds) / left * 1e6,
        "bytes_per_task": grown / tasks,
    }


def _check_runs(tasks: int) -> None:
    """Refuse figures of tasks that were lost or that ran twice."""
    ran = os.stat(os.environ[RAN_VARIABLE]).st_size
    if ran != tasks:
        raise StalledError(f"{ran} tasks ran, though {tasks} were added")


def _cost_of_a_look(peer: Peer, client: redis.Redis, looks: int = 200) -> tuple[float, float]:
    """What one look at the queue costs the server: seconds of CPU and commands."""
    before = Counters.read(client)
    for _ in range(looks):
        peer.remaining(client)
    after = Counters.read(client)
    return (
        (after.redis_cpu_seconds - before.redis_cpu_seconds) / looks,
        (after.redis_commands - before.redis_commands) / looks,
    )


def _watch(peer: Peer, client: redis.Redis, *, until: Callable[[int], bool]) -> tuple[float, int, int]:
    """Look again and again: when it was so first, how many were left then, and how often was looked."""
    looks = 0
    first_seen_at = 0.0
    in_a_row = 0
    last, moved_at = -1, time.monotonic()
    while True:
        left = peer.remaining(client)
        now = time.monotonic()
        looks += 1
        if until(left):
            first_seen_at = first_seen_at if in_a_row else now
            in_a_row += 1
            if left > 0 or in_a_row >= EMPTY_LOOKS:
                return first_seen_at, left, looks
        else:
            in_a_row = 0
        if left != last:
            last, moved_at = left, now
        if now - moved_at > STALLED_SECONDS:
            raise StalledError(f"{left} tasks are left, and none was done for {STALLED_SECONDS} s")
        time.sleep(POLL_SECONDS)


def enqueue(peer: Peer, tasks: int) -> dict[str, float]:
    """One by one, with no worker running."""
    return _adding(peer, tasks, peer.add_each)


def bulk(peer: Peer, tasks: int) -> dict[str, float]:
    """With the library's bulk call, with no worker running."""
    return _adding(peer, tasks, peer.add_bulk)


def _adding(peer: Peer, tasks: int, add: Callable[[int], None]) -> dict[str, float]:
    client = redis_client()
    peer.prepare()
    add(100)  # connections, compiled scripts, declared queues
    before = Counters.read(client)
    own_before = time.process_time()
    started_at = time.monotonic()
    add(tasks)
    seconds = time.monotonic() - started_at
    own = time.process_time() - own_before
    after = Counters.read(client)
    if peer.remaining(client) != tasks + 100:
        raise StalledError(f"{peer.remaining(client)} tasks wait, though {tasks + 100} were added")
    return {
        "seconds": seconds,
        "per_second": tasks / seconds,
        "redis_cpu_us": (after.redis_cpu_seconds - before.redis_cpu_seconds) / tasks * 1e6,
        "redis_commands": (after.redis_commands - before.redis_commands) / tasks,
        "client_cpu_us": own / tasks * 1e6,
    }


def fanin(peer: Peer, tasks: int) -> dict[str, float]:
    """Idle workers: from the first add to the start of the one task after all."""
    client = redis_client()
    peer.prepare()
    with workers(peer, "fanin", peer.processes):
        _warm_up(peer, peer.processes)
        started_at = time.monotonic()
        peer.fan_in(tasks)
        print(f"added after {time.monotonic() - started_at:.2f} s", file=sys.stderr)
        seconds = _next_start(client, peer.fan_in_seconds)[0] - started_at
    _check_runs(tasks)
    return {"seconds": seconds, "per_second": tasks / seconds}


def latency(peer: Peer, tasks: int) -> dict[str, float]:
    """One idle worker process: from before the add to the start of the task."""
    client = redis_client()
    peer.prepare()
    samples = []
    with workers(peer, "latency", 1):
        _warm_up(peer, 1)
        for _ in range(WARM_UP_TASKS + min(tasks, LATENCY_SAMPLES)):
            time.sleep(IDLE_SECONDS)
            added_at = time.monotonic()
            peer.add_timed()
            samples.append((_next_start(client, 30)[0] - added_at) * 1000)
    measured = samples[WARM_UP_TASKS:]
    percentiles = statistics.quantiles(measured, n=100, method="inclusive")
    return {"p50_ms": statistics.median(measured), "p99_ms": percentiles[98]}


def _warm_up(peer: Peer, processes: int) -> None:
    """Add tasks until that many worker processes have run one; then let them become idle."""
    client = redis_client()
    seen: set[int] = set()
    deadline = time.monotonic() + 20
    while len(seen) < processes and time.monotonic() < deadline:
        for _ in range(4 * processes):
            peer.add_timed()
        for _ in range(4 * processes):
            seen.add(_next_start(client, 30)[1])
        time.sleep(0.05)
    print(f"{len(seen)} worker processes answer", file=sys.stderr)
    time.sleep(0.5)


def _next_start(client: redis.Redis, timeout_seconds: float) -> tuple[float, int]:
    """When a task started, and in which process; waits for it."""
    found: Any = client.blpop([STARTS], timeout=timeout_seconds)
    if found is None:
        raise StalledError(f"no task started within {timeout_seconds} s")
    started_at, pid = found[1].split()
    return float(started_at), int(pid)


MEASURES = {"drain": drain, "enqueue": enqueue, "bulk": bulk, "fanin": fanin, "latency": latency}


def _leave(number: int, frame: object) -> None:
    # An exception, so that the workers are ended on the way out.
    sys.exit(128 + number)


def run(module_name: str) -> None:
    """The program of a driver: measure what the command line says, print one JSON object.

    Args:
        module_name: a module beside this one, with its library's tasks and a `PEER`. It is imported by its
            name, even where it is the program: workers know a task as `rq_peer.noop`, not `__main__.noop`.
    """
    parser = argparse.ArgumentParser(description=f"Measure one library: {module_name}.")
    parser.add_argument("measure", choices=MEASURES)
    parser.add_argument("--redis", required=True, metavar="URL", help="an empty server")
    parser.add_argument("--tasks", type=int, default=10_000)
    parser.add_argument("--processes", type=int, default=2, help="worker processes")
    parser.add_argument("--variant", default="", help="which setting, where there is more than one")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, _leave)
    # Before the import: the module makes its library's application object for this server.
    os.environ[URL_VARIABLE] = arguments.redis
    with tempfile.NamedTemporaryFile(prefix="bench-ran-") as ran:
        os.environ[RAN_VARIABLE] = ran.name
        result = _measured(parser, module_name, arguments)
    print(json.dumps(result))


def _measured(
    parser: argparse.ArgumentParser, module_name: str, arguments: argparse.Namespace
) -> dict[str, Any]:
    peer_class: type[Peer] = importlib.import_module(module_name).PEER
    variant = arguments.variant or peer_class.variants[0]
    refused = {"bulk": not peer_class.has_bulk, "fanin": not peer_class.has_fan_in}
    if refused.get(arguments.measure):
        parser.error(f"{peer_class.name} has nothing for {arguments.measure}")
    if variant not in peer_class.variants:
        parser.error(f"{peer_class.name} has the variants {', '.join(peer_class.variants)}")
    peer = peer_class(arguments.redis, arguments.processes, variant)
    figures = MEASURES[arguments.measure](peer, arguments.tasks)
    return {
        "peer": peer.name,
        "measure": arguments.measure,
        "tasks": arguments.tasks,
        **{key: round(value, 4) for key, value in figures.items()},
        "at_least_once": peer.at_least_once,
        "settings": peer.settings(),
        "versions": {package: version(package) for package in peer.packages},
    }
