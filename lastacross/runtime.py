"""App Engine's ``runtime`` module, which lets an application react when its process is told to stop.

This module must not import any other part of the engine, because every other part may import this module.
"""

import threading
from collections.abc import Callable

Hook = Callable[[], object]
"""A function that takes no arguments; its result is ignored."""


class Shutdown:
    """A process's shutdown: its hook, and whether it has begun."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._hook: Hook | None = None
        self._has_begun = False

    @property
    def has_begun(self) -> bool:
        """Return whether this process has been told to stop."""
        return self._has_begun

    def begin(self) -> None:
        """Record that this process was told to stop; this takes no lock, so a signal handler may call it."""
        self._has_begun = True

    def set_hook(self, hook: Hook | None) -> Hook | None:
        """Set this hook and return the previous one.

        Raises:
            TypeError: the hook is neither callable nor None.
        """
        if hook is not None and not callable(hook):
            raise TypeError(f"hook must be callable, got {type(hook).__name__}")
        with self._lock:
            before, self._hook = self._hook, hook
        return before

    def take_hook(self) -> Hook | None:
        """Return the hook for the caller to call; later calls return None, so that it is called only once."""
        return self.set_hook(None)


PROCESS = Shutdown()
"""This process's shutdown."""


def set_shutdown_hook(hook: Hook | None) -> Hook | None:
    """Register a function to call when this process is told to stop.

    The function is called once, in a separate thread, while this process still holds its tasks. It has as
    much time as the tasks, 25 s (5 s under ``dev``), to save their progress and make them stop. Its
    exceptions are logged. It is not called if the process is killed or the machine fails.

    Args:
        hook: a callable without arguments, or None for no hook. Code that replaces a hook should call the
            previous hook.

    Returns:
        The hook that was set before, or None.

    Raises:
        TypeError: the hook is neither callable nor None.
    """
    return PROCESS.set_hook(hook)


def is_shutting_down() -> bool:
    """Return whether this process was told to stop; long-running handlers may check this and stop early."""
    return PROCESS.has_begun
