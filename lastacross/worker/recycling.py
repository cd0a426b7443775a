"""Decides when a worker process should be replaced by a new one, because libraries may leak memory."""

import random
import signal
from collections.abc import Callable
from dataclasses import dataclass

from lastacross.runtime import resident_bytes

RETIRE_SIGNAL = signal.SIGUSR2
"""Lets a worker process finish its tasks without a time limit, because another process replaces it."""

MEBIBYTE = 2**20
# Each process draws its own limits at random, between this fraction of the configured ones and the whole,
# because processes that were started together and share the work evenly would otherwise all be replaced at
# the same time.
MIN_SHARE = 0.9


@dataclass(frozen=True)
class RecyclingLimits:
    """How much a worker process may do and use before it is replaced; None means any amount.

    Args:
        max_tasks: the number of attempts.
        max_memory_mb: the resident set in MiB.
    """

    max_tasks: int | None = None
    max_memory_mb: int | None = None

    def arguments(self) -> list[str]:
        """The options for ``worker-process`` that set these limits."""
        options = {"--max-tasks": self.max_tasks, "--max-memory": self.max_memory_mb}
        return [part for name, most in options.items() if most is not None for part in (name, str(most))]


UNLIMITED = RecyclingLimits()


class Recycling:
    """One process's limits.

    Args:
        limits: the configured limits.
        memory: a callable that returns the used memory in bytes.
        share: the fraction of the limits that this process uses, or None to draw it at random.
    """

    def __init__(
        self,
        limits: RecyclingLimits,
        *,
        memory: Callable[[], int] = resident_bytes,
        share: float | None = None,
    ) -> None:
        self._memory = memory
        share = random.uniform(MIN_SHARE, 1) if share is None else share
        tasks, megabytes = limits.max_tasks, limits.max_memory_mb
        self._max_tasks = None if tasks is None else max(1, round(tasks * share))
        self._max_bytes = None if megabytes is None else round(megabytes * MEBIBYTE * share)

    def reason(self, attempts: int) -> str | None:
        """The limit that was reached: "tasks" or "memory"; None if there is none.

        A process is never replaced before its first task. Otherwise a limit below what the application needs
        from the beginning would keep every task waiting.

        Args:
            attempts: the number of attempts that have ended in this process.
        """
        if attempts == 0:
            return None
        if self._max_tasks is not None and attempts >= self._max_tasks:
            return "tasks"
        if self._max_bytes is not None and self._memory() >= self._max_bytes:
            return "memory"
        return None

    @property
    def memory_mb(self) -> int:
        """The memory that the process uses now, in MiB."""
        return self._memory() // MEBIBYTE
