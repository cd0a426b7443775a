"""Watches processes and tasks during a fault."""

import threading
import time
from collections.abc import Collection, Iterable

from tests.support.lab import Lab
from tests.support.processes import is_alive, wait_until
from tests.support.weight import command, own_cpu_seconds, private_mb, tree

LOOK_SECONDS = 0.1
WORKER = "worker-process"


class Attempts:
    """The attempts that a lab's application has noted.

    Attributes:
        begun: each task's attempts, as the time and the process in which each began.
        running: the process of each attempt that has not ended, by task and process.
    """

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._read = 0
        self.begun: dict[str, list[tuple[float, int]]] = {}
        self.running: dict[tuple[str, int], float] = {}
        self.ended: dict[str, float] = {}

    def look(self) -> "Attempts":
        """Read what was noted since the last look."""
        notes = self._lab.notes()
        for note in notes[self._read :]:
            task, pid, at = note["task"], note["pid"], note["at"]
            if note["what"] == "begin":
                self.begun.setdefault(task, []).append((at, pid))
                self.running[task, pid] = at
            else:
                self.running.pop((task, pid), None)
                self.ended[task] = at
        self._read = len(notes)
        return self

    @property
    def repeated(self) -> int:
        """How many attempts began beyond each task's first one."""
        return sum(len(attempts) - 1 for attempts in self.begun.values())

    def cut_off(self, pids: Collection[int]) -> set[str]:
        """The tasks that these processes are running, or were running when they ended."""
        return {task for task, pid in self.look().running if pid in pids}

    def forget_dead(self) -> None:
        """Forget the attempts of processes that have ended."""
        for task, pid in [entry for entry in self.look().running if not is_alive(entry[1])]:
            del self.running[task, pid]

    def busiest(self, pids: Collection[int]) -> int:
        """The process that runs the most tasks."""
        self.look()
        return max(pids, key=lambda one: sum(pid == one for _, pid in self.running))

    def wait_for_running(self, count: int) -> None:
        """Wait until this many tasks are running."""
        wait_until(lambda: len(self.look().running) >= count, 60, f"{count} tasks to run")

    def again(self, tasks: Iterable[str], after: float, seconds: float) -> dict[str, tuple[float, int]]:
        """Wait until each task has begun after this time; returns that attempt of each."""
        found: dict[str, tuple[float, int]] = {}
        missing = set(tasks)

        def look() -> bool:
            self.look()
            for task in list(missing):
                later = [attempt for attempt in self.begun[task] if attempt[0] > after]
                if later:
                    found[task] = later[0]
                    missing.remove(task)
            return not missing

        wait_until(look, seconds, f"{len(missing)} tasks to begin again")
        return found

    def first_of(self, pids: Collection[int], after: float, seconds: float) -> list[float]:
        """Wait until each process has begun a task after this time; returns how long each one took."""

        def firsts() -> dict[int, float]:
            found: dict[int, float] = {}
            for attempts in self.look().begun.values():
                for at, pid in attempts:
                    if at > after and pid in pids:
                        found[pid] = min(at, found.get(pid, at))
            return found

        wait_until(lambda: len(firsts()) == len(pids), seconds, "each process to begin a task")
        return [at - after for at in firsts().values()]


class Watch:
    """Measures the processes of a supervisor that are new since the beginning, and what they cost.

    A process that ends between two looks has used up to 0.1 s more than was seen.

    Args:
        supervisor: the supervisor's pid.
    """

    def __init__(self, supervisor: int) -> None:
        self._supervisor = supervisor
        self._before: dict[int, float] = {}
        self._cpu: dict[int, float] = {}
        self._private: dict[int, float] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Watch":
        for pid in tree(self._supervisor):
            self._before[pid] = own_cpu_seconds(pid)
        self._workers = {pid for pid in self._before if command(pid) == WORKER}
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping.wait(LOOK_SECONDS):
            self._look()

    def _look(self) -> None:
        for pid in tree(self._supervisor):
            if pid in self._workers:
                continue
            self._cpu[pid] = own_cpu_seconds(pid) - self._before.get(pid, 0.0)
            if pid not in self._before:
                self._private[pid] = max(private_mb(pid), self._private.get(pid, 0.0))

    def cpu_seconds(self) -> float:
        """The processor time so far of new processes, of the supervisor and of the preload process."""
        self._look()
        return sum(self._cpu.values())

    def private_mb(self, pids: Collection[int]) -> float | None:
        """The largest private memory among these processes, None if none of them was seen."""
        found = [self._private[pid] for pid in pids if pid in self._private]
        return max(found, default=None)


def now() -> float:
    """The time as the tasks note it."""
    return time.time()
