"""Decides whether a process can be forked safely.

It must have only one thread, and no open files that its children would share with it. Linux only.
"""

import contextlib
import fcntl
import os
import socket
import stat
import threading
from collections.abc import Collection
from pathlib import Path
from typing import Any

# A thread that has just exited may remain in the kernel's list for a moment.
_CHECKS = 25
_PAUSE_SECONDS = 0.02


def reason_against_forking(known: Collection[int]) -> dict[str, Any] | None:
    """Log fields that name a thread or an open file; None if there is neither."""
    for _ in range(_CHECKS):
        found = _thread()
        # Python knows its own threads, so any other thread may be about to disappear.
        if found is None or threading.active_count() > 1:
            break
        threading.Event().wait(_PAUSE_SECONDS)
    return found or next(
        (_description(fd) for fd in sorted(open_files() - set(known)) if _is_shared(fd)), None
    )


def _thread() -> dict[str, Any] | None:
    others = [each for each in threading.enumerate() if each is not threading.main_thread()]
    if others:
        target = getattr(others[0], "_target", None)
        module = getattr(target, "__module__", None) or type(others[0]).__module__
        return {"thread": others[0].name, "module": module}
    for task in os.listdir("/proc/self/task"):
        if int(task) != os.getpid():
            with contextlib.suppress(OSError):
                name = Path(f"/proc/self/task/{task}/comm").read_text().strip()
                return {"thread": name, "module": "a library written in another language"}
    return None


def open_files() -> set[int]:
    """The file descriptors of this process."""
    found = {int(name) for name in os.listdir("/proc/self/fd")}
    # The descriptor of the listing itself is closed by now.
    return {fd for fd in found if _is_open(fd)}


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def _is_shared(fd: int) -> bool:
    """Whether processes that inherit this file would disturb each other.

    A log file opened for appending has no position that they could share, nor does a device.
    """
    mode = os.fstat(fd).st_mode
    if stat.S_ISREG(mode):
        return not fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_APPEND
    return not stat.S_ISCHR(mode) and not stat.S_ISDIR(mode)


def _description(fd: int) -> dict[str, Any]:
    if not stat.S_ISSOCK(os.fstat(fd).st_mode):
        return {"file": os.readlink(f"/proc/self/fd/{fd}")}
    with socket.socket(fileno=os.dup(fd)) as opened:
        for ask in (opened.getpeername, opened.getsockname):
            with contextlib.suppress(OSError):
                return {"socket": str(ask())}
    return {"socket": "without an address"}
