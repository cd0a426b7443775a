"""Shows another command line in ``ps`` than the one that a process was started with.

A forked process would otherwise show its parent's. Linux reads a command line from the process's own memory,
so it can be replaced by one that is not longer; ``room`` makes place for longer ones.
"""

import ctypes
import os
from collections.abc import Sequence
from pathlib import Path

_ROOM = "--room="
_ROOM_BYTES = 512
# The fields of /proc/…/stat after the name, which may contain spaces (proc(5): fields 48 and 49).
_ARG_START, _ARG_END = 48 - 3, 49 - 3


def room() -> str:
    """An argument without meaning that leaves place for another command line."""
    return _ROOM + "." * _ROOM_BYTES


def is_room(argument: str) -> bool:
    """Whether this argument was made by ``room``."""
    return argument.startswith(_ROOM)


def show(command: Sequence[str]) -> None:
    """Show this command line, cut to the available length; does nothing if the system does not allow it."""
    try:
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        start, end = int(fields[_ARG_START]), int(fields[_ARG_END])
        present = Path("/proc/self/cmdline").read_bytes()
    except (OSError, ValueError, IndexError):
        return
    size = end - start
    if start == 0 or len(present) != size or ctypes.string_at(start, size) != present:
        return
    text = b"\0".join(os.fsencode(argument) for argument in command)[: size - 1]
    ctypes.memmove(start, text.ljust(size, b"\0"), size)
