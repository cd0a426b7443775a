"""What a worker process is running, in a file that outlives it.

A worker leases more tasks than it runs at once; when it is killed, only those that had started can have
been the cause. Redis is not told at every start (that would cost a call a task): each thread notes its
task in a shared memory page instead, and the supervisor reads the page when the process has ended.
"""

import mmap
import struct
from collections.abc import Sequence
from pathlib import Path

from lastacross.broker import Broker
from lastacross.files import private
from lastacross.store import Store

_TOKEN_BYTES = 64
_SLOT_BYTES = 768  # two bytes of length; ids take at most 100 + 1 + 500, leases 60
_LENGTH = struct.Struct("<H")


class StartedTable:
    """The table of one worker process: its lease token, and a slot for each thread.

    Args:
        path: the file; made, or begun anew, here.
        token: the process's lease token.
        slots: threads that run tasks.
    """

    def __init__(self, path: Path, token: str, slots: int) -> None:
        size = _TOKEN_BYTES + slots * _SLOT_BYTES
        with open(path, "w+b", opener=private) as file:
            file.write(token.encode().ljust(_TOKEN_BYTES, b"\0").ljust(size, b"\0"))
            file.flush()
            self._page = mmap.mmap(file.fileno(), size)

    def note(self, slot: int, entry: str) -> None:
        """This thread begins ``entry`` (``<task id>:<lease id>``) now."""
        raw = entry.encode()
        if len(raw) > _SLOT_BYTES - _LENGTH.size:
            # No id of ours is so long: it would overwrite another thread's slot.
            return
        offset = _TOKEN_BYTES + slot * _SLOT_BYTES
        page = self._page
        # The length comes last: a process killed in between leaves an empty slot, not a torn one.
        page[offset + 2 : offset + 2 + len(raw)] = raw
        page[offset : offset + 2] = _LENGTH.pack(len(raw))

    def clear(self, slot: int) -> None:
        """This thread runs nothing."""
        offset = _TOKEN_BYTES + slot * _SLOT_BYTES
        self._page[offset : offset + 2] = b"\0\0"

    def close(self) -> None:
        """Let go of the page."""
        self._page.close()


def read(path: Path) -> tuple[str, list[str]]:
    """The token and the started entries that a process left behind; ``("", [])`` if it left none."""
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
    """Give back at once all that an ended worker process held; what had started counts as crashed.

    Args:
        path: its table; removed when Redis has been told.
        store: a store of the supervisor's.
        queues: the push queues that there are.

    Returns:
        task id → 'ready', 'poison' or 'gone'.

    Raises:
        StoreUnavailableError: Redis does not answer; call again.
    """
    token, entries = read(path)
    if not token:
        return {}
    outcomes = Broker(store).rescue_worker(token, queues, entries)
    path.unlink(missing_ok=True)
    return outcomes
