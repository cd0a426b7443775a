"""Shows a different command line in ``ps`` from the one that a process was started with.

A forked process would otherwise show its parent's. Linux lets a process say where its command line is in its
memory (prctl(2), PR_SET_MM_MAP). Kernels without that feature always read it from its original place, so it
can only be overwritten with one that fits there.
"""

import ctypes
import os
import struct
from collections.abc import Sequence
from pathlib import Path

_PR_SET_MM, _PR_SET_MM_MAP = 35, 14  # linux/prctl.h
# Fields of /proc/…/stat, counted from 1 as in proc(5).
_START_CODE, _END_CODE, _START_STACK = 26, 27, 28
_START_DATA, _END_DATA, _START_BRK, _ARG_START, _ARG_END, _ENV_START, _ENV_END = range(45, 52)

# The command line that is shown; its memory must stay allocated.
_shown: list[object] = []


def show(command: Sequence[str]) -> None:
    """Show this command line, truncated if necessary; does nothing if the system does not allow it."""
    text = b"".join(os.fsencode(argument) + b"\0" for argument in command)
    try:
        after_name = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        present = Path("/proc/self/cmdline").read_bytes()
    except OSError:
        return
    fields = [0, 0, 0, 0, *map(int, after_name[1:])]
    if not _is_mapped(text, fields):
        _overwrite(text, fields, present)


def _is_mapped(text: bytes, fields: Sequence[int]) -> bool:
    memory = ctypes.create_string_buffer(text, len(text))
    start = ctypes.addressof(memory)
    library = ctypes.CDLL(None)
    library.sbrk.restype = ctypes.c_void_p
    ends = (fields[_START_CODE], fields[_END_CODE], fields[_START_DATA], fields[_END_DATA])
    heap = (fields[_START_BRK], library.sbrk(0), fields[_START_STACK])
    texts = (start, start + len(text), fields[_ENV_START], fields[_ENV_END])
    # struct prctl_mm_map: eleven addresses, no auxiliary vector, no other program file.
    asked = struct.pack("=11QQIi", *ends, *heap, *texts, 0, 0, -1)
    place = ctypes.create_string_buffer(asked, len(asked))
    size = ctypes.c_ulong(len(asked))
    if library.prctl(_PR_SET_MM, _PR_SET_MM_MAP, ctypes.byref(place), size, ctypes.c_ulong(0)) != 0:
        return False
    _shown[:] = [memory]
    return True


def _overwrite(text: bytes, fields: Sequence[int], present: bytes) -> None:
    start, size = fields[_ARG_START], fields[_ARG_END] - fields[_ARG_START]
    if start and len(present) == size and ctypes.string_at(start, size) == present:
        ctypes.memmove(start, text[: size - 1].ljust(size, b"\0"), size)
