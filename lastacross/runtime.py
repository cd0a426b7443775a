"""App Engine's ``runtime`` module: an application learns that its process must stop, and how much it uses.

This module must not import any other part of the engine but the clock, because every other part may import
this module.
"""

import contextlib
import os
import resource
import sys
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lastacross.clock import SYSTEM, Clock

Hook = Callable[[], object]
"""A function that takes no arguments; its result is ignored."""


WORKER_NUMBER = "LASTACROSS_WORKER_NUMBER"
"""Environment variable: the number of a worker process under its supervisor."""


def worker_number() -> int | None:
    """Return the number of this worker process among those of its service and supervisor, from 1.

    A process that replaces another one gets its number. Two machines may both have a worker 1.

    Returns:
        None in a process that is not a worker.
    """
    text = os.environ.get(WORKER_NUMBER, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 6 else None


class Shutdown:
    """A process's shutdown: its hook, whether it has begun, and what is done at its end."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._hook: Hook | None = None
        self._has_begun = False
        self._at_end: list[Hook] = []

    @property
    def has_begun(self) -> bool:
        """Return whether this process has been told to stop."""
        return self._has_begun

    def begin(self) -> None:
        """Record that this process was told to stop; this takes no lock, so a signal handler may call it."""
        self._has_begun = True

    def set_hook(self, hook: Hook | None) -> Hook | None:
        """Set this hook and return the previous one.

        Raises:
            TypeError: the hook is neither callable nor None.
        """
        if hook is not None and not callable(hook):
            raise TypeError(f"hook must be callable, got {type(hook).__name__}")
        with self._lock:
            before, self._hook = self._hook, hook
        return before

    def at_end(self, function: Hook) -> None:
        """Call this function, which must not raise, when the process has no work left and ends.

        The application's threads still run then; ``atexit`` would be too late for those of an executor.
        """
        self._at_end.append(function)

    def not_at_end(self, function: Hook) -> None:
        """Undo ``at_end``; the function may have been called already."""
        self._at_end = [each for each in self._at_end if each != function]

    def end(self) -> None:
        """Call the functions of ``at_end``, the latest first."""
        while self._at_end:
            self._at_end.pop()()

    def take_hook(self) -> Hook | None:
        """Return the hook for the caller to call; later calls return None, so that it is called only once."""
        return self.set_hook(None)


PROCESS = Shutdown()
"""This process's shutdown."""


def set_shutdown_hook(hook: Hook | None) -> Hook | None:
    """Register a function to call when this process is told to stop.

    The function is called once, in a separate thread, while this process still holds its tasks. It has as
    much time as the tasks, 25 s (5 s under ``dev``), to save their progress and make them stop. Its
    exceptions are logged. It is not called if the process is killed or the machine fails.

    Args:
        hook: a callable without arguments, or None for no hook. Code that replaces a hook should call the
            previous hook.

    Returns:
        The hook that was set before, or None.

    Raises:
        TypeError: the hook is neither callable nor None.
    """
    return PROCESS.set_hook(hook)


def is_shutting_down() -> bool:
    """Return whether this process was told to stop; long-running handlers may check this and stop early."""
    return PROCESS.has_begun


# --- the process's use of the machine -----------------------------------------------------

MCYCLES_PER_SECOND = 1200.0
"""App Engine counted a second of its 1.2 GHz processor as so many megacycles."""

MEBIBYTE = 2**20
_MINUTE = 60.0
# No two samples are closer together than this, so that frequent calls do not fill the memory.
_SAMPLE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class CpuUsage:
    """The processor time of this process.

    Attributes:
        total: megacycles since the process began; 1,200 of them are a second of one processor.
        rate1m: megacycles per second over the last minute.
        rate10m: megacycles per second over the last ten minutes.
    """

    total: float
    rate1m: float
    rate10m: float


@dataclass(frozen=True, slots=True)
class MemoryUsage:
    """The resident memory of this process in MiB.

    Attributes:
        current: the memory in use now.
        average1m: the average over the last minute.
        average10m: the average over the last ten minutes.
    """

    current: float
    average1m: float
    average10m: float


@dataclass(frozen=True, slots=True)
class _Sample:
    at: float
    cpu_seconds: float
    memory_mb: float


class Usage:
    """Measures a process whenever it is asked, and averages what it has measured.

    Args:
        clock: a clock whose monotonic time dates the samples.
        cpu_seconds: returns the process's processor time.
        memory_bytes: returns the process's resident memory.
    """

    def __init__(
        self, clock: Clock, cpu_seconds: Callable[[], float], memory_bytes: Callable[[], int]
    ) -> None:
        self._clock = clock
        self._cpu_seconds = cpu_seconds
        self._memory_bytes = memory_bytes
        self._lock = threading.Lock()
        self._samples: deque[_Sample] = deque()
        with contextlib.suppress(OSError):  # there is no /proc
            self._sample()

    def cpu(self) -> CpuUsage:
        """Measure the processor time."""
        now, samples = self._sample()
        return CpuUsage(
            now.cpu_seconds * MCYCLES_PER_SECOND,
            _rate(now, samples, _MINUTE),
            _rate(now, samples, 10 * _MINUTE),
        )

    def memory(self) -> MemoryUsage:
        """Measure the memory."""
        now, samples = self._sample()
        return MemoryUsage(
            now.memory_mb, _average(now, samples, _MINUTE), _average(now, samples, 10 * _MINUTE)
        )

    def _sample(self) -> tuple[_Sample, list[_Sample]]:
        """Return a new sample and the earlier ones, of which the first may be older than ten minutes."""
        now = _Sample(self._clock.monotonic(), self._cpu_seconds(), self._memory_bytes() / MEBIBYTE)
        with self._lock:
            while len(self._samples) > 1 and self._samples[1].at <= now.at - 10 * _MINUTE:
                self._samples.popleft()
            earlier = list(self._samples)
            if not earlier or now.at - earlier[-1].at >= _SAMPLE_SECONDS:
                self._samples.append(now)
        return now, earlier


def _rate(now: _Sample, samples: list[_Sample], seconds: float) -> float:
    """Return the rate since the last sample before the period, or since the first sample."""
    before = [sample for sample in samples if sample.at <= now.at - seconds]
    since = before[-1] if before else samples[0]
    elapsed = now.at - since.at
    return (now.cpu_seconds - since.cpu_seconds) * MCYCLES_PER_SECOND / elapsed if elapsed > 0 else 0.0


def _average(now: _Sample, samples: list[_Sample], seconds: float) -> float:
    found = [now.memory_mb, *(sample.memory_mb for sample in samples if sample.at >= now.at - seconds)]
    return sum(found) / len(found)


def resident_bytes() -> int:
    """This process's resident set; on macOS, its peak."""
    if sys.platform == "linux":
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _own_cpu_seconds() -> float:
    used = os.times()
    return used.user + used.system


_usage = Usage(SYSTEM, _own_cpu_seconds, resident_bytes)


def cpu_usage() -> CpuUsage:
    """This process's processor time.

    Nothing measures in the background: a rate is taken between this call and the last one that is at least as
    old as its period, or else the import of this module.
    """
    return _usage.cpu()


def memory_usage() -> MemoryUsage:
    """This process's memory. The averages are taken over the calls of their periods, at most one a second."""
    return _usage.memory()


def _begin_anew() -> None:
    """Measure a forked child from its beginning."""
    global _usage
    _usage = Usage(SYSTEM, _own_cpu_seconds, resident_bytes)


os.register_at_fork(after_in_child=_begin_anew)
