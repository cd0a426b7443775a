"""Ends a process when its supervisor dies."""

import os
import signal
import threading
from collections.abc import Callable

from lastacross.processes import die_with_parent

# How long a process may take to stop before it is killed.
GRACE_SECONDS = 30.0


def terminate_self() -> None:
    """Stop this process the way its supervisor would."""
    os.kill(os.getpid(), signal.SIGTERM)


def watch_parent(
    on_death: Callable[[], None] = terminate_self, *, grace_seconds: float = GRACE_SECONDS
) -> threading.Thread | None:
    """Start a thread that ends this process when its supervisor dies.

    Args:
        on_death: a callable that asks the process to stop; by default it sends SIGTERM.
        grace_seconds: how long the process may take before it is killed.

    Returns:
        The thread; None without a supervisor.
    """
    fd = die_with_parent.supervisor_fd()
    if fd is None:
        return None
    # Hide the variable from programs that a handler may start, because the number is meaningless there.
    del os.environ[die_with_parent.SUPERVISOR_FD]

    def wait() -> None:
        os.read(fd, 1)
        on_death()
        threading.Event().wait(grace_seconds)
        os.kill(os.getpid(), signal.SIGKILL)

    thread = threading.Thread(target=wait, name="watch-parent", daemon=True)
    thread.start()
    return thread
