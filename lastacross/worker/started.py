"""The table in which a worker process notes its running tasks, and the report of the process's death.

This module is light, because the supervisor needs it, which runs no tasks itself.
"""

import mmap
import struct
from collections.abc import Sequence
from pathlib import Path

from lastacross.broker import Broker
from lastacross.files import private
from lastacross.store import Store

# The file format of a started table.
_TOKEN_BYTES = 64
_SLOT_BYTES = 768  # two bytes for the length; ids have at most 100 + 1 + 500 bytes, leases 60
_LENGTH = struct.Struct("<H")


class StartedTable:
    """Records a worker process's lease token and its threads' running tasks in a file that outlives it.

    A worker leases more tasks than it runs at the same time. If it is killed, only a started task can be the
    cause. Reporting every start to Redis would cost a call per task, so each thread notes its task in shared
    memory instead. The supervisor reads that memory when the process has ended.

    Args:
        path: the path of the file, which is created or reset here.
        token: the process's lease token.
        slots: the number of threads that run tasks.
    """

    def __init__(self, path: Path, token: str, slots: int) -> None:
        size = _TOKEN_BYTES + slots * _SLOT_BYTES
        with open(path, "w+b", opener=private) as file:
            file.write(token.encode().ljust(_TOKEN_BYTES, b"\0").ljust(size, b"\0"))
            file.flush()
            self._page = mmap.mmap(file.fileno(), size)

    def note(self, slot: int, entry: str) -> None:
        """Note that this thread is about to start ``entry`` (``<task id>:<lease id>``)."""
        raw = entry.encode()
        if len(raw) > _SLOT_BYTES - _LENGTH.size:
            # Our ids are never this long; such an entry would overwrite another thread's slot.
            return
        offset = _TOKEN_BYTES + slot * _SLOT_BYTES
        page = self._page
        # Write the length last, so that a process killed in between leaves an empty slot instead of a partial
        # entry.
        page[offset + 2 : offset + 2 + len(raw)] = raw
        page[offset : offset + 2] = _LENGTH.pack(len(raw))

    def clear(self, slot: int) -> None:
        """Note that this thread is not running a task."""
        offset = _TOKEN_BYTES + slot * _SLOT_BYTES
        self._page[offset : offset + 2] = b"\0\0"

    def close(self) -> None:
        """Release the shared memory."""
        self._page.close()


def started_entries(path: Path) -> tuple[str, list[str]]:
    """The token and the started entries that a process left behind; ``("", [])`` if there are none."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return "", []
    token = raw[:_TOKEN_BYTES].rstrip(b"\0").decode()
    entries = []
    for offset in range(_TOKEN_BYTES, len(raw), _SLOT_BYTES):
        (length,) = _LENGTH.unpack_from(raw, offset)
        if length:
            entries.append(raw[offset + 2 : offset + 2 + length].decode())
    return token, entries


def report_death(path: Path, store: Store, queues: Sequence[str]) -> dict[str, str]:
    """Release all tasks of an ended worker process immediately; started ones count as crashed.

    Args:
        path: the process's table, which is removed once Redis has recorded the death.
        store: the supervisor's store.
        queues: all push queues.

    Returns:
        a map from each task's id to 'ready', 'poison' or 'gone'.

    Raises:
        StoreUnavailableError: Redis does not answer; call again.
    """
    token, entries = started_entries(path)
    if not token:
        return {}
    outcomes = Broker(store).rescue_worker(token, queues, entries)
    path.unlink(missing_ok=True)
    return outcomes
