"""Processes that end with this one, whatever becomes of it."""

import contextlib
import os
from collections.abc import Iterator

from lastacross.processes import die_with_parent


@contextlib.contextmanager
def life() -> Iterator[int]:
    """A pipe's read end, to be inherited: it reaches its end when this process does, or the block ends."""
    read_fd, write_fd = os.pipe()
    try:
        yield read_fd
    finally:
        os.close(write_fd)
        os.close(read_fd)


def environ_of(read_fd: int) -> dict[str, str]:
    """What tells the engine's own processes to stop at the end of that pipe."""
    return {die_with_parent.SUPERVISOR_FD: str(read_fd)}
