"""The table in which a worker process records its running tasks, and the report of the process's death.

This module is lightweight, because the supervisor needs it but runs no tasks itself.
"""

import mmap
import os
import struct
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lastacross.broker import Broker
from lastacross.clock import SYSTEM, Clock
from lastacross.files import private
from lastacross.store import Store

# The file format of a started table: the token, a slot for each thread, and a last slot with the pulse and
# the main loop's last iteration. All times are monotonic, and all processes of a machine share that clock.
_TOKEN_BYTES = 64
_SLOT_BYTES = 768
_LENGTH = struct.Struct("<H")  # of the entry; ids have at most 100 + 1 + 500 bytes, leases 60
_TIMES = struct.Struct("<dd")  # the start in seconds, and how many seconds the task may run
_TIME = struct.Struct("<d")
_TIMES_OFFSET = _SLOT_BYTES - _TIMES.size
_MAX_ENTRY_BYTES = _TIMES_OFFSET - _LENGTH.size

PULSE_SECONDS = 1.0


@dataclass(frozen=True)
class Started:
    """A task that a process is running, or was running when it ended.

    ``started_at`` is in seconds of the machine's monotonic clock, and ``deadline_seconds`` is the time that
    the task may take.
    """

    entry: str
    started_at: float
    deadline_seconds: float


class StartedTable:
    """Records a worker process's lease token and its threads' running tasks in a file that outlives it.

    A worker leases more tasks than it runs at the same time. If it is killed, only a started task can be the
    cause. Reporting every start to Redis would cost a call per task, so each thread records its task in
    shared memory instead. The supervisor reads that memory when the process has ended.

    Args:
        path: the path of the file, which is created or reset here.
        token: the process's lease token.
        slots: the number of threads that run tasks.
    """

    def __init__(self, path: Path, token: str, slots: int) -> None:
        size = _TOKEN_BYTES + (slots + 1) * _SLOT_BYTES
        self._pulse = size - _TIMES.size
        with open(path, "w+b", opener=private) as file:
            file.write(token.encode().ljust(_TOKEN_BYTES, b"\0").ljust(size, b"\0"))
            file.flush()
            self._page = mmap.mmap(file.fileno(), size)

    def note(self, slot: int, entry: str, started_at: float = 0.0, deadline_seconds: float = 0.0) -> None:
        """Record that this thread is about to start ``entry`` (``<task id>:<lease id>``)."""
        raw = entry.encode()
        if len(raw) > _MAX_ENTRY_BYTES:
            # Our ids are never this long; such an entry would overwrite another thread's slot.
            return
        offset = _TOKEN_BYTES + slot * _SLOT_BYTES
        page = self._page
        # Write the length last, so that a process killed in between leaves an empty slot instead of a partial
        # entry.
        page[offset + 2 : offset + 2 + len(raw)] = raw
        _TIMES.pack_into(page, offset + _TIMES_OFFSET, started_at, deadline_seconds)
        page[offset : offset + 2] = _LENGTH.pack(len(raw))

    def clear(self, slot: int) -> None:
        """Record that this thread is not running a task."""
        offset = _TOKEN_BYTES + slot * _SLOT_BYTES
        self._page[offset : offset + 2] = b"\0\0"

    def beat(self, at: float) -> None:
        """Record that the process's threads are getting their turns."""
        _TIME.pack_into(self._page, self._pulse, at)

    def note_turn(self, at: float) -> None:
        """Record that the main loop is running."""
        _TIME.pack_into(self._page, self._pulse + _TIME.size, at)

    def close(self) -> None:
        """Release the shared memory."""
        self._page.close()


class Pulse:
    """A thread that records once a second that the process's threads are getting their turns.

    It neither waits for Redis nor takes a lock, so it stops only if a task does not release the interpreter
    or the whole process is stopped.
    """

    def __init__(self, table: StartedTable, clock: Clock = SYSTEM) -> None:
        self._table = table
        self._clock = clock
        self._thread = threading.Thread(target=self._run, name="pulse", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether the thread is running."""
        return self._thread.is_alive()

    def _run(self) -> None:
        pause = threading.Event()
        while True:
            self._table.beat(self._clock.monotonic())
            pause.wait(PULSE_SECONDS)


class Watch:
    """Watches a worker process's pulse from its supervisor; call ``look`` about once a second.

    Args:
        path: the process's table.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._last: float | None = None
        self._looked_at = 0.0
        self._missing_seconds = 0.0

    def look(self, now: float) -> float:
        """How many seconds the pulse has been missing for; ``now`` is monotonic.

        Time during which the supervisor itself was stopped does not count, because the whole machine or
        container may have been.
        """
        pulse = _pulse(self._path)
        if pulse is None or pulse != self._last:
            self._missing_seconds = 0.0
        else:
            self._missing_seconds += min(now - self._looked_at, 2 * PULSE_SECONDS)
        self._last, self._looked_at = pulse, now
        return self._missing_seconds


def _pulse(path: Path) -> float | None:
    """The process's last pulse; None if there is no table, or if it does not contain a pulse yet."""
    return _last_times(path)[0]


def last_turn(path: Path) -> float | None:
    """The time of the main loop's last iteration; None if there is no table, or the loop has not begun."""
    return _last_times(path)[1]


def _last_times(path: Path) -> tuple[float | None, float | None]:
    try:
        with path.open("rb") as file:
            file.seek(-_TIMES.size, os.SEEK_END)
            pulse, turn = _TIMES.unpack(file.read(_TIMES.size))
    except (OSError, struct.error):
        return None, None
    return pulse or None, turn or None


def started_tasks(path: Path) -> tuple[str, list[Started]]:
    """The token and the started tasks of a process; ``("", [])`` if it has left no table."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return "", []
    token = raw[:_TOKEN_BYTES].rstrip(b"\0").decode()
    found = []
    for offset in range(_TOKEN_BYTES, len(raw), _SLOT_BYTES):
        (length,) = _LENGTH.unpack_from(raw, offset)
        if length:
            entry = raw[offset + 2 : offset + 2 + length].decode()
            found.append(Started(entry, *_TIMES.unpack_from(raw, offset + _TIMES_OFFSET)))
    return token, found


def started_entries(path: Path) -> tuple[str, list[str]]:
    """The token and the entries of a process's started tasks; ``("", [])`` if it has left no table."""
    token, started = started_tasks(path)
    return token, [each.entry for each in started]


def report_death(
    path: Path, store: Store, queues: Sequence[str], *, was_silent: bool = False
) -> dict[str, str]:
    """Immediately release all tasks held by a worker process that has exited.

    Args:
        path: the process's table, which is removed once Redis has recorded the death.
        store: the supervisor's store.
        queues: all push queues.
        was_silent: whether the process was killed because its pulse had stopped; if not, started tasks count
            as crashed.

    Returns:
        a map from each task's id to 'ready', 'poison', 'damaged' or 'gone'.

    Raises:
        StoreUnavailableError: Redis does not answer; call again.
    """
    token, entries = started_entries(path)
    if not token:
        return {}
    outcomes = Broker(store).rescue_worker(token, queues, entries, is_silent=was_silent)
    path.unlink(missing_ok=True)
    return outcomes
