"""Ends a program that cannot detect its supervisor's death itself.

``python -m lastacross.processes.die_with_parent PROGRAM …`` turns into PROGRAM if the kernel can signal a
child when its parent dies (Linux). Otherwise it remains as a small process between the two. It imports as
little as possible, because it runs before every start of the web server and of Redis.
"""

import ctypes
import os
import select
import signal
import subprocess
import sys
from collections.abc import Sequence

SUPERVISOR_FD = "LASTACROSS_SUPERVISOR_FD"
"""Environment variable: the read end of a pipe that is closed when the supervisor dies."""

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_POLL_SECONDS = 0.2


def supervisor_fd() -> int | None:
    """The read end of the supervisor's pipe that this process inherited; None without a supervisor."""
    text = os.environ.get(SUPERVISOR_FD, "")
    return int(text) if text.isdigit() else None


def is_supervisor_gone(fd: int, timeout_seconds: float = 0.0) -> bool:
    """Whether the supervisor has died; waits up to ``timeout_seconds`` for this to happen."""
    # Nothing is ever written to the pipe, so if it is readable, it has been closed.
    return bool(select.select([fd], [], [], timeout_seconds)[0])


def signal_at_parents_death(number: int) -> bool:
    """Ask the kernel for a signal when the process that started this one dies.

    Returns:
        Whether this system supports such requests, which survive ``exec``.
    """
    if sys.platform != "linux":
        return False
    return bool(ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0) == 0)


def stand_between(command: Sequence[str], fd: int) -> int:
    """Run a program until it ends, and end it if the supervisor dies.

    Returns:
        The program's exit code, or 128 + n if signal n killed it.
    """
    process = subprocess.Popen(command, pass_fds=(fd,))
    signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while process.poll() is None:
        if is_supervisor_gone(fd, _POLL_SECONDS):
            process.terminate()
            process.wait()
    code = process.returncode
    return 128 - code if code < 0 else code


def main(command: list[str]) -> int:
    """Turn this process into the given program, or run the program as a child."""
    fd = supervisor_fd()
    if fd is None or signal_at_parents_death(signal.SIGTERM):
        if fd is not None and is_supervisor_gone(fd):
            return 1  # the parent died before our request, so no signal will come
        os.execvp(command[0], command)
    return stand_between(command, fd)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
