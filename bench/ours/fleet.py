"""Worker processes, started by the product's own command and ended with the measure."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.ours.life import environ_of, life
from bench.ours.options import KINDS
from bench.ours.place import QUILT, ROOT, MeasureError, Place, say, wait_until
from lastacross import store, taskqueue

START_SECONDS = 60.0
STOP_SECONDS = 60.0
_IDLE_SHARE = 0.05
_WARM_UP = "bench:warm-up"


@dataclass(frozen=True)
class Fleet:
    """A supervisor and its worker processes.

    Attributes:
        process: the supervisor, ``lastacross worker``.
        output: the file that gets the log lines of all.
    """

    process: subprocess.Popen[bytes]
    output: Path

    @property
    def pids(self) -> list[int]:
        """Of the worker processes."""
        return [pid for pid in _children(self.process.pid) if b"worker-process" in _command(pid)]

    def wait_until_ready(self, place: Place, processes: int) -> None:
        """Wait until every process has run tasks and has nothing to do but wait.

        Raises:
            MeasureError: not in time, or the command has ended.
        """
        wait_until(
            lambda: self._check() and place.redis.scard(store.RQ_WORKERS) == processes,
            START_SECONDS,
            f"{processes} worker processes",
        )
        self._warm_up(place)
        wait_until(self._is_idle, START_SECONDS, "the worker processes to be idle")
        say("the workers are ready")

    def _warm_up(self, place: Place) -> None:
        """Let each process run tasks of each kind: the first ones import and connect."""
        pids, deadline = set(self.pids), time.monotonic() + START_SECONDS
        for kind in KINDS:
            seen: set[int] = set()
            while seen != pids:
                if time.monotonic() > deadline:
                    raise MeasureError(f"the worker processes {pids - seen} take no tasks")
                tasks = [place.telling(kind, _WARM_UP, seconds=0.02) for _ in range(16 * len(pids))]
                with taskqueue.Batch(QUILT) as batch:
                    batch.add(tasks)
                seen |= {place.told(_WARM_UP).pid for _ in tasks}
                place.wait_until_done(START_SECONDS, QUILT)

    def _check(self) -> bool:
        if self.process.poll() is not None:
            raise MeasureError(f"the workers have ended: {self.text()[-2000:]}")
        return True

    def _is_idle(self) -> bool:
        """Whether they have taken next to no processor for a moment."""
        pids, began_at = self.pids, time.monotonic()
        before = cpu_seconds(pids)
        time.sleep(0.2)
        used = sum(cpu_seconds(pids)) - sum(before)
        return used / (time.monotonic() - began_at) < _IDLE_SHARE

    def text(self) -> str:
        """The log lines so far."""
        return self.output.read_text(errors="replace")


@contextlib.contextmanager
def workers(place: Place, processes: int) -> Iterator[Fleet]:
    """Run ``lastacross worker`` with so many processes, otherwise as shipped.

    Raises:
        MeasureError: one of its processes complained, so that something else than tasks was measured.
    """
    output = place.root / "workers.log"
    command = [sys.executable, "-m", "lastacross", "--app", str(place.root), "worker"]
    command += ["--processes", str(processes)]
    with life() as life_fd, output.open("wb") as file:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**place.environ, **environ_of(life_fd)},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            pass_fds=[life_fd],
            start_new_session=True,
        )
        fleet = Fleet(process, output)
        say(f"{processes} worker processes start")
        try:
            yield fleet
        finally:
            say("the workers stop")
            _stop(fleet)
    complaint = next((line for line in fleet.text().splitlines() if is_complaint(line)), None)
    if complaint is not None:
        raise MeasureError(f"a worker complained: {complaint[:1000]}")


def _stop(fleet: Fleet) -> None:
    fleet.process.terminate()
    try:
        fleet.process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        for pid in fleet.pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        fleet.process.kill()
        fleet.process.wait()


def is_complaint(line: str) -> bool:
    """Whether a line of a worker's log says that something went wrong."""
    return '"level": "error"' in line or '"level": "warning"' in line or line.startswith("Traceback")


# --- what the system knows of processes ---------------------------------------------------


def cpu_seconds(pids: list[int]) -> list[float]:
    """Processor time so far of each of these processes, all of its threads together.

    Raises:
        MeasureError: one has ended.
    """
    try:
        # The clock of another process, by the kernel's numbering (linux/posix-timers.h): exact, where
        # /proc counts in ticks of 10 ms.
        return [time.clock_gettime(~pid << 3 | 2) for pid in pids]
    except OSError as error:
        raise MeasureError("a worker process has ended during the measure") from error


def _children(pid: int) -> list[int]:
    """Of a process, and of these in turn."""
    found = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in map(int, path.read_text().split()):
                found += [child, *_children(child)]
    return found


def _command(pid: int) -> bytes:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""
